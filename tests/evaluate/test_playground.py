"""Every model of a run answers a typed prompt: the same text as it writes alone, and what the prompt costs it."""

import math

import pytest
import torch

from kdkit.alignment.templates import Message
from kdkit.alignment.tokenizers import start_token_id
from kdkit.errors import UserError
from kdkit.evaluate.playground import Playground, open_playground
from kdkit.models.generation import Sampling
from kdkit.models.writer import model_writer
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import Teacher
from tests.chats import chat_tokenizers
from tests.tiny import make_config, make_data, make_llama, make_run, make_session, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "the quick brown"
OPTIONS = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 8, "seed": 3}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A run with two untrained students, its data, its teacher, and its playground."""
    folder = tmp_path_factory.mktemp("playground")
    config = make_config(folder, distill={"equal_time_baseline": False})
    data, run = make_data(config, folder), make_run(folder)
    students = {"student": 1, "baseline": 2}
    models = {name: make_llama(len(data.student_tokenizer), seed) for name, seed in students.items()}
    for name, model in models.items():
        model.save_pretrained(run.path / name)
    teacher = Teacher(make_teacher(data).model, "tiny", True, data.teacher_tokenizer)
    return run, data, models, teacher, open_playground(make_session(config, run), data, teacher)


def test_a_model_writes_what_it_writes_alone_with_these_options(opened):
    _, data, models, _, playground = opened
    sampling = Sampling(0.7, top_p=0.9, max_new_tokens=8, seed=3)
    texts = {}
    for name, model in models.items():
        ((alone,),) = model_writer(model, data.student_tokenizer).write([PROMPT], sampling)
        answer = playground.ask(name, PROMPT, **OPTIONS)
        assert answer["text"] == alone.text and answer["tokens"] == alone.num_tokens + alone.stopped
        assert answer["seconds"] > 0
        texts[name] = answer["text"]
    assert texts["student"] != texts["baseline"]
    assert playground.ask("student", PROMPT, **OPTIONS | {"seed": 4})["text"] != texts["student"]


def test_bits_per_byte_are_those_of_transformers_loss(opened):
    _, data, models, teacher, playground = opened
    sides = {"teacher": (teacher.model, data.teacher_tokenizer), "student": (models["student"], data.student_tokenizer)}
    for name, (model, tokenizer) in sides.items():
        ids = torch.tensor([[start_token_id(tokenizer), *tokenizer(PROMPT, add_special_tokens=False).input_ids]])
        with torch.no_grad():
            nats = model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        answer = playground.ask(name, PROMPT, **OPTIONS)
        assert answer["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(PROMPT), rel=1e-4)


def test_all_models_answer_a_held_out_prompt_first(opened):
    run, data, _, _, playground = opened
    facts = run.read_json("playground.json")
    assert list(facts["answers"]) == ["teacher", "student", "baseline"]
    assert any(text.startswith(facts["prompt"]) for text in data.manifest["openings"])
    again = playground.ask("baseline", facts["prompt"], **facts["options"])
    assert again["text"] == facts["answers"]["baseline"]["text"]


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_no_prompt_is_refused(opened, prompt):
    with pytest.raises(UserError, match="prompt: expected text"):
        opened[-1].ask("student", prompt, **OPTIONS)


def test_a_teacher_that_does_not_write_says_so_and_the_others_write(opened, tmp_path):
    run, data, _, teacher, _ = opened

    class Silent(Teacher):
        """A teacher of one's own without `generate`."""

        write, writer, generate = TextTeacher.write, TextTeacher.writer, TextTeacher.generate

    config = make_config(tmp_path, distill={"equal_time_baseline": False})
    open_playground(make_session(config, run), data, Silent(teacher.model, "", True, data.teacher_tokenizer))
    answers = run.read_json("playground.json")["answers"]
    assert "teacher: expected one that writes text, got" in answers["teacher"]["problem"]
    assert answers["student"]["tokens"] > 0


def test_a_prompt_of_a_run_on_conversations_is_a_message_that_is_answered():
    tokenizer = chat_tokenizers()[0]
    writer = model_writer(make_llama(len(tokenizer)), tokenizer)
    playground = Playground({"student": writer}, {"student": lambda text: -float(len(text))}, is_chat=True)
    sampling = Sampling(0.7, top_p=0.9, max_new_tokens=8, seed=3)
    ((answered,),) = writer.write([[Message("user", PROMPT)]], sampling)
    ((continued,),) = writer.write([PROMPT], sampling)
    text = playground.ask("student", PROMPT, **OPTIONS)["text"]
    assert text == answered.text != continued.text
