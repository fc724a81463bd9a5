"""Every model of a run answers what a person types (notebook 04)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdkit.alignment.templates import Message
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.text.documents import clean_text
from kdkit.distill.plan import view_of
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import load_students
from kdkit.evaluate.pairs.score import score_sentences
from kdkit.machine.session import Session
from kdkit.models.continuations import choose_prompts
from kdkit.models.generation import Sampling
from kdkit.models.writer import Writer, model_writer
from kdkit.teachers.interface import TextTeacher


@dataclass(frozen=True)
class Playground:
    """The models of a run, ready to write."""

    writers: Mapping[str, Writer]
    """By the model's name."""
    score: Mapping[str, Callable[[str], float]]
    """Likewise: from a text to its log-probability in nats."""
    is_chat: bool
    """Whether a prompt is a message to be answered; else it is text to be continued."""

    def ask(
        self, name: str, prompt: str, *, temperature: float, top_p: float, max_new_tokens: int, seed: int
    ) -> dict[str, Any]:
        """Let one model write after a prompt.

        Args:
            name: of the model.
            temperature: and the rest: see `Sampling`.

        Returns:
            `text`; `tokens` that were written, the one that ended it included; `seconds`; `stopped`: whether the model
            ended it; `bits_per_byte` of the prompt, read as plain text.

        Raises:
            UserError: no prompt, one that leaves no room in the model's context, or a teacher that does not write.
        """
        prompt = clean_text(prompt)
        if not prompt.strip():
            raise UserError(f"prompt: expected text, got {prompt!r}; write some")
        sampling = Sampling(temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
        began = time.perf_counter()
        ((written,),) = self.writers[name].write([[Message("user", prompt)] if self.is_chat else prompt], sampling)
        return {
            "text": written.text,
            "tokens": written.num_tokens + written.stopped,
            "seconds": time.perf_counter() - began,
            "stopped": written.stopped,
            "bits_per_byte": -self.score[name](prompt) / np.log(2.0) / len(prompt.encode()),
        }


def open_playground(session: Session[Config], data: PreparedData, teacher: TextTeacher) -> Playground:
    """Load the students of a run, and let every model answer one held-out prompt; written to `playground.json`.

    The file holds `prompt`, `options` (those of `Playground.ask`) and `answers`: per model what `Playground.ask`
    returns, or `problem`, why it does not write.

    Returns:
        The models, for other prompts. Of several teachers the first is there.

    Raises:
        UserError: see `load_students`.
    """
    session, data = view_of(session, data)
    settings, dtype = session.config.evaluate, session.hardware.autocast_dtype
    students = load_students(session)
    writers = {"teacher": teacher.writer(autocast_dtype=dtype)}
    readers = {"teacher": (teacher.model if teacher.has_layers else teacher.reader(), data.teacher_tokenizer)}
    for name, model in students.items():
        writers[name] = model_writer(model, data.student_tokenizer, autocast_dtype=dtype)
        readers[name] = model, data.student_tokenizer

    def scorer(name: str) -> Callable[[str], float]:
        return lambda text: float(score_sentences(*readers[name], [text], 1, dtype)[0])

    playground = Playground(writers, {name: scorer(name) for name in readers}, data.is_chat)
    conversations = data.prompts("evaluation", 1)
    openings = choose_prompts(data.manifest["openings"], 1, settings.prompt_length)
    prompt = conversations[0].prompt[-1].content if conversations else openings[0]
    options = {
        "temperature": settings.generation_temperature,
        "top_p": 1.0,
        "max_new_tokens": settings.max_answer_tokens if data.is_chat else settings.max_new_tokens,
        "seed": session.config.seed,
    }
    answers = {name: _answer(playground, name, prompt, options) for name in writers}
    session.run.write_json("playground.json", {"prompt": prompt, "options": options, "answers": answers})
    return playground


def _answer(playground: Playground, name: str, prompt: str, options: dict[str, Any]) -> dict[str, Any]:
    """Let a model answer; where it cannot, say why."""
    try:
        return playground.ask(name, prompt, **options)
    except UserError as error:
        return {"problem": str(error)}
