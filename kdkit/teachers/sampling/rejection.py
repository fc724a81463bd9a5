"""Rejection sampling: a teacher answers the training prompts several times, and its best answers become training data.

Finished chunks of prompts are kept, so what was stopped goes on and ends in the same file, byte for byte.
"""

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from kdkit.alignment.templates import Message, render_prompt, stop_ids
from kdkit.config.language import Config
from kdkit.config.teacher import TEACHER_LOGPROB, VERIFIED_ANSWER, SamplingConfig
from kdkit.data.conversations import Conversation
from kdkit.data.prepare import PreparedData
from kdkit.data.problems import HELD_OUT, TRAIN
from kdkit.errors import UserError
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.machine.hardware import DTYPES
from kdkit.machine.session import Session
from kdkit.maths.checking.pool import CheckerPool
from kdkit.maths.files import solved_row, write_problems
from kdkit.models.generation import Generated, Sampling
from kdkit.runs.disk import taking_turns, whole_file, write_text, writing
from kdkit.runs.folder import fingerprint
from kdkit.runs.lines import append_line, read_lines
from kdkit.runs.messages import note, step_line
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import identify_teacher, prepare_teacher
from kdkit.teachers.sampling.scorers import Candidate, Scorer, identify_scorer, make_scorer, score
from kdkit.teachers.sampling.verified import VerifiedAnswer

FORMAT = 1
"""Raise it when the same settings sample other answers than before."""
COUNTS = ("prompts", "samples", "accepted_samples", "accepted_prompts", "kept_unaccepted", "without_answer", "too_long")


@dataclass(frozen=True)
class SampledAnswers:
    """A file of conversations with a teacher's answers, and how many were accepted."""

    path: Path
    """A .jsonl of `messages`, with `score`, `accepted`, `num_accepted`, `rejected`, `num_samples` and `teacher`; with
    `verified_answer` also `verdict` and those of all samples, and of problems the problem in place of messages."""
    prompts: int
    """That were sampled for."""
    samples: int
    accepted_samples: int
    accepted_prompts: int
    """With at least one accepted answer; the best one is kept."""
    kept_unaccepted: int
    """Without any; the best of the others is kept."""
    without_answer: int
    """All of whose answers are empty; they are left out."""
    too_long: int
    """That fill the teacher's context; they are left out."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """Samples by what the checker says of them, with the scorer `verified_answer`."""

    @property
    def held_out(self) -> Path:
        """A .jsonl of the held-out conversations as the data has them: what to judge on, `data.evaluation_path`."""
        return self.path.with_suffix(".held_out.jsonl")

    @property
    def settings(self) -> dict[str, str]:
        """The settings with which a training reads both files."""
        files = {"data.path": str(self.path), "data.evaluation_path": str(self.held_out)}
        # a wrong solution is no lesson
        return files | ({"data.skip_rows_where": "rejected"} if self.verdicts and self.accepted_prompts else {})

    def copy_to(self, path: Path) -> "SampledAnswers":
        """Copy both files; return where they are."""
        copied = replace(self, path=path)
        for source, target in ((self.path, path), (self.held_out, copied.held_out)):
            with whole_file(target) as partial:
                shutil.copyfile(source, partial)
        return copied

    @property
    def acceptance_rate(self) -> float:
        """Accepted samples of all."""
        return self.accepted_samples / max(self.samples, 1)

    def describe(self) -> str:
        """Say what was sampled in one line."""
        left_out = [f"{self.without_answer} without any answer"] * (self.without_answer > 0)
        left_out += [f"{self.too_long} too long for the teacher"] * (self.too_long > 0)
        listed = ", ".join(f"{count:,} {name}" for name, count in sorted(self.verdicts.items()))
        checked = f"; checked: {listed}" if listed else ""
        return (
            f"{self.samples:,} answers to {self.prompts:,} prompts, {self.acceptance_rate:.0%} accepted; kept an "
            f"accepted one for {self.accepted_prompts:,} prompts, and for {self.kept_unaccepted:,} the best of none "
            f"accepted" + (f"; left out: {', '.join(left_out)}" if left_out else "") + checked
        )


def sample_answers(session: Session[Config], data: PreparedData, teacher: TextTeacher | None = None) -> SampledAnswers:
    """Let the teacher answer the training prompts, and keep its best answers in a file; see `SamplingConfig`.

    Args:
        teacher: of the run; None: it is loaded, if the file is not there yet.

    Raises:
        UserError: text that is no conversation, a teacher that writes none, a scorer that fails (see `score`), no
            prompt that the teacher can answer.
    """
    settings = session.config.sampling
    if not data.is_chat:
        raise UserError(
            f"sampling: expected conversations, whose prompts a teacher answers, got plain text in "
            f"{session.config.data.path!r}; name a file of messages or of prompt and response: data.path=FILE"
        )
    conversations = data.prompts("train", settings.max_prompts)
    pool = CheckerPool(session.config.maths.checker)
    is_verified = settings.scorer == VERIFIED_ANSWER
    scorer = VerifiedAnswer.of(pool, data) if is_verified else make_scorer(settings.scorer)
    folder = session.run.cache_path / "samples"
    path = folder / f"{_key(session, data, conversations)}.jsonl"
    with writing(folder, "cache_dir"), taking_turns(path.with_suffix(".lock"), f"samples/{path.stem}"):
        if path.is_file():
            note(f"samples {path}: complete")
            return _read(path)
        teacher = teacher or prepare_teacher(session, data, DTYPES[session.hardware.answer_precision])
        sampler = RejectionSampler(settings, session.config, teacher, scorer)
        _write_held_out(path.with_suffix(".held_out.jsonl"), data, is_verified)
        with contextlib.closing(pool):  # whose processes start with the first check
            sampler.run(conversations, path)
    return _read(path)


def _write_held_out(path: Path, data: PreparedData, is_verified: bool) -> None:
    """Write the held-out conversations as the data has them, as problems where the answers are."""
    if is_verified and (problems := data.problems(HELD_OUT)):
        write_problems(path, problems)
        return
    rows = ({"messages": as_rows(each.messages)} for each in data.prompts("evaluation"))
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def as_rows(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return messages as a row of a data set holds them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _key(session: Session[Config], data: PreparedData, conversations: list[Conversation]) -> str:
    """Fingerprint all that makes the answers."""
    settings, teacher = session.config.sampling, identify_teacher(session, data)
    template = data.teacher_tokenizer.chat_template
    texts = fingerprint([conversation.to_json() for conversation in conversations])
    scorer = identify_scorer(settings.scorer)
    if settings.scorer == VERIFIED_ANSWER:
        policies = session.config.maths.checker.policies.model_dump()
        scorer = fingerprint(scorer, policies, [asdict(each) for each in data.problems(TRAIN)])
    made_by = session.config.seed, teacher, template, session.hardware.answer_precision
    return fingerprint(FORMAT, settings.model_dump(), scorer, *made_by, texts)


def _read(path: Path) -> SampledAnswers:
    """Read how a finished file came about."""
    counts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return SampledAnswers(path, **{name: counts[name] for name in COUNTS}, verdicts=counts.get("verdicts", {}))


class RejectionSampler:
    """Answers chunks of prompts; what it returns for a chunk depends on the chunk and the seed alone."""

    def __init__(self, settings: SamplingConfig, config: Config, teacher: TextTeacher, scorer: Scorer):
        self.settings, self.teacher, self.scorer, self.seed = settings, teacher, scorer, config.seed
        self.name = config.teacher.path
        self.tokenizer = teacher.tokenizer
        teacher.batch_size = settings.batch_size
        self.stops = stop_ids(self.tokenizer)

    def run(self, conversations: list[Conversation], path: Path) -> None:
        """Answer all prompts and write the file, going on where an earlier call was stopped."""
        prompts = [render_prompt(conversation.prompt, self.tokenizer) for conversation in conversations]
        context = self.teacher.context
        fits = [i for i, ids in enumerate(prompts) if context is None or len(ids) < context]
        if not fits:
            raise UserError(
                f"sampling: expected prompts of fewer than {context} tokens, the teacher's context, got "
                f"{len(prompts)} that are longer; name a teacher that reads more, or shorter conversations"
            )
        # like lengths together: little padding
        order = sorted(fits, key=lambda i: (len(prompts[i]), i))
        size = max(1, self.settings.batch_size // self.settings.num_samples)
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        partial = path.with_name(f".{path.stem}.partial")
        done = {line["chunk"]: line["rows"] for line in read_lines(partial)}
        if done:
            note(f"samples: goes on from chunk {len(done)} of {len(chunks)}")
        started, first = time.monotonic(), len(done)
        for number, chunk in enumerate(chunks):
            if number in done:
                continue
            rows = self.answer([(i, conversations[i], prompts[i]) for i in chunk], number)
            append_line(partial, {"chunk": number, "rows": rows})
            done[number] = rows
            left = (time.monotonic() - started) / (len(done) - first) * (len(chunks) - len(done))
            print(step_line("samples", len(done), len(chunks), f"{len(chunk)} prompts", left), flush=True)
        rows = sorted((row for rows in done.values() for row in rows), key=lambda row: row["number"])
        counts = self._count(rows, len(conversations) - len(fits))
        write_text(path.with_suffix(".json"), json.dumps(counts, indent=1) + "\n")
        kept = [row["kept"] for row in rows if row["kept"]]
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        partial.unlink()

    def answer(self, chunk: Sequence[tuple[int, Conversation, list[int]]], number: int) -> list[dict[str, Any]]:
        """Sample, score and choose for some prompts.

        Args:
            chunk: per prompt its number, the conversation that it begins, and its ids.
            number: of the chunk.

        Returns:
            Per prompt its `number`, how many samples are accepted, and the row of the file that is `kept`; None: none.
        """
        settings, count = self.settings, self.settings.num_samples
        sampling = Sampling(
            settings.generation_temperature,
            settings.top_k,
            settings.top_p,
            settings.min_p,
            max_new_tokens=settings.max_new_tokens,
            # chunks must not draw the same numbers
            seed=self.seed * 1_000_003 + number,
        )
        prompts = [ids for _, _, ids in chunk for _ in range(count)]
        written = self.teacher.generate(prompts, sampling, self.stops)
        noted = [sample.logprob for sample in written]
        logprobs = [float("nan") if value is None else value for value in noted]
        if settings.scorer == TEACHER_LOGPROB and None in noted:
            logprobs = mean_logprobs(self.teacher, prompts, written)
        rows = []
        for place, (i, conversation, _) in enumerate(chunk):
            of_prompt = slice(place * count, (place + 1) * count)
            rows.append(self._choose(i, conversation, written[of_prompt], logprobs[of_prompt]))
        return rows

    def _choose(
        self, number: int, conversation: Conversation, written: list[Generated], logprobs: list[float]
    ) -> dict[str, Any]:
        """Score the samples of a prompt and keep the best: an accepted one before all others."""
        prompt = as_rows(conversation.prompt)
        best, accepted = None, 0
        verdicts: Counter[str] = Counter()
        for sample, logprob in zip(written, logprobs, strict=True):
            text = self.tokenizer.decode(sample.ids, skip_special_tokens=True)
            if not text.strip():
                continue
            candidate = Candidate(prompt, text, conversation.answer, logprob)
            value, verdict = score(self.scorer, candidate, self.settings.scorer, number)
            verdicts.update([] if verdict is None else [verdict.value])
            is_accepted = sample.stopped and value >= self.settings.least_score
            accepted += is_accepted
            if best is None or (is_accepted, value) > best[:2]:
                best = is_accepted, value, text, verdict
        kept = None
        if best is not None:
            kept = self._row(prompt, best[2]) | {"score": best[1], "accepted": best[0], "num_accepted": accepted}
            kept |= {"rejected": not best[0], "num_samples": len(written), "teacher": self.name}
            if best[3] is not None:
                kept |= {"verdict": best[3].value, "verdicts": dict(verdicts)}
        return {"number": number, "accepted": accepted, "verdicts": dict(verdicts), "kept": kept}

    def _row(self, prompt: list[dict[str, str]], answer: str) -> dict[str, Any]:
        """Return what is learnt of an answer: of a problem a problem with this solution, else a conversation."""
        problem = self.scorer.find(prompt) if isinstance(self.scorer, VerifiedAnswer) else None
        if problem is not None:
            return solved_row(problem, answer)
        return {"messages": [*prompt, {"role": "assistant", "content": answer}]}

    def _count(self, rows: list[dict[str, Any]], too_long: int) -> dict[str, Any]:
        """Count what was accepted; see `SampledAnswers`."""
        kinds = Counter(
            "without_answer" if row["kept"] is None else "accepted" if row["kept"]["accepted"] else "other"
            for row in rows
        )
        return {
            "prompts": len(rows),
            "samples": len(rows) * self.settings.num_samples,
            "accepted_samples": sum(row["accepted"] for row in rows),
            "accepted_prompts": kinds["accepted"],
            "kept_unaccepted": kinds["other"],
            "without_answer": kinds["without_answer"],
            "too_long": too_long,
            "verdicts": dict(sum((Counter(row.get("verdicts", {})) for row in rows), Counter())),
        }


def mean_logprobs(teacher: TextTeacher, prompts: Sequence[Sequence[int]], written: Sequence[Generated]) -> list[float]:
    """Return the mean log-probability of the tokens of each text, the one that ended it included, in nats.

    Args:
        prompts: what each text follows.
    """
    ends = [[] if sample.stop_id is None else [sample.stop_id] for sample in written]
    rows = [[*prompt, *sample.ids, *end] for prompt, sample, end in zip(prompts, written, ends, strict=True)]
    width, counts = max(map(len, rows)), [len(row) - len(prompt) for row, prompt in zip(rows, prompts, strict=True)]
    input_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    # what predicts a token stands before it
    places = [torch.arange(len(row) - count - 1, len(row) - 1) for row, count in zip(rows, counts, strict=True)]
    wanted = torch.cat([number * width + place for number, place in enumerate(places)])
    reader, targets = teacher.reader(), input_ids.flatten()[wanted + 1]
    logits, parts = reader.read(input_ids), []
    for part in even_chunks(len(wanted), rows_per_chunk(reader.vocab_size, reader.device)):
        logprobs = logits(wanted[part]).log_softmax(dim=-1)
        parts.append(logprobs.gather(1, targets[part, None].to(logprobs.device)).squeeze(1).double().cpu())
    values = torch.cat(parts or [torch.empty(0)]).split(counts)
    return [own.mean().item() if len(own) else float("-inf") for own in values]
