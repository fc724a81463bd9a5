"""Rejection sampling: the best of several answers is kept, counted, and the same whether or not it was interrupted."""

import itertools
import json
import math

import pytest
import torch

from kdkit.config.language import config_from_values
from kdkit.data.prepare import data_from_texts
from kdkit.errors import UserError
from kdkit.models.generation import Generated, Sampling
from kdkit.teachers import rejection
from kdkit.teachers.prepare import Teacher
from kdkit.teachers.rejection import mean_logprobs, sample_answers
from tests.teachers.chats import ScriptedTeacher, as_chat, converse
from tests.tiny import make_llama, make_run, make_session

pytestmark = pytest.mark.usefixtures("one_thread")

PAIRS = [("What is 2 + 2?", "#### 4"), ("What is 3 + 3?", "#### 6"), ("Say it", "x = 42"), ("And more?", "1")]


@pytest.fixture(scope="module")
def data(documents, small_pair, tmp_path_factory):
    plain = data_from_texts(documents, small_pair[0], small_pair[1], 32)
    return as_chat(plain, converse(PAIRS), tmp_path_factory.mktemp("chat"))


@pytest.fixture
def session_of(tmp_path, monkeypatch):
    """Return a function that makes the session of a sampling."""
    monkeypatch.setattr(rejection, "identify_teacher", lambda session, data: {"weights": "test"})
    numbers = itertools.count()

    def make(seed: int = 0, **sampling):
        settings = {"scorer": "numeric_match", "num_samples": 3, "batch_size": 6, "max_new_tokens": 8} | sampling
        config = config_from_values({"seed": seed, "teacher": {"path": "models/big"}, "sampling": settings})
        return make_session(config, make_run(tmp_path, f"run-{next(numbers)}"))

    return make


def rows_of(found) -> list[dict]:
    return [json.loads(line) for line in found.path.read_text(encoding="utf-8").splitlines()]


def script(text: str, place: int) -> str:
    """Answer the first question right at the second try, the second one never, the third half, the last not at all."""
    if "2 + 2" in text:
        return ["five 5", "it is 4", "4"][place]
    if "3 + 3" in text:
        return ["7", "8...", "9"][place]
    if "Say it" in text:
        return ["42...", "42...", "41"][place]
    return ""


def test_the_best_answer_of_each_prompt_is_kept_and_counted(data, session_of):
    found = sample_answers(session_of(), data, ScriptedTeacher(data, script))
    rows = rows_of(found)
    assert [row["messages"][-1]["content"] for row in rows] == ["it is 4", "7", "42..."[:2]]
    assert [row["messages"][0] for row in rows] == [{"role": "user", "content": q} for q, _ in PAIRS[:3]]
    assert [(row["score"], row["accepted"], row["num_accepted"]) for row in rows] == [
        (1.0, True, 2),
        (0.0, False, 0),
        # right, but cut: kept, never accepted
        (1.0, False, 0),
    ]
    assert {row["teacher"] for row in rows} == {"models/big"} and {row["num_samples"] for row in rows} == {3}
    assert (found.prompts, found.samples, found.accepted_samples) == (4, 12, 2)
    assert (found.accepted_prompts, found.kept_unaccepted, found.without_answer, found.too_long) == (1, 2, 1, 0)
    assert found.acceptance_rate == pytest.approx(2 / 12)
    assert "12 answers to 4 prompts, 17% accepted" in found.describe() and "1 without any answer" in found.describe()


def test_an_accepted_answer_goes_before_a_better_one_that_was_cut(data, session_of, tmp_path, monkeypatch):
    (tmp_path / "longest.py").write_text("def score(messages, answer, reference):\n    return len(answer)\n")
    monkeypatch.chdir(tmp_path)
    teacher = ScriptedTeacher(data, lambda text, place: ["much longer...", "short", "longer"][place])
    found = sample_answers(session_of(scorer="python:longest.py:score", threshold=5.0), data, teacher)
    assert [row["messages"][-1]["content"] for row in rows_of(found)] == ["longer"] * 4
    assert found.accepted_samples == 8


def test_a_finished_file_is_not_sampled_again_and_other_settings_are_another_file(data, session_of):
    teacher = ScriptedTeacher(data, script)
    first = sample_answers(session_of(), data, teacher)
    calls = len(teacher.calls)
    assert sample_answers(session_of(), data, teacher) == first and len(teacher.calls) == calls
    for other in (session_of(seed=1), session_of(generation_temperature=0.5), session_of(scorer="rouge_l")):
        assert sample_answers(other, data, teacher).path != first.path


def test_prompts_are_asked_in_batches_of_all_their_samples(data, session_of):
    teacher = ScriptedTeacher(data, script)
    sample_answers(session_of(batch_size=7), data, teacher)
    assert teacher.calls == [6, 6] and teacher.batch_size == 7


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("torn", [b"", b'{"chunk": 1, "rows": [{"numb'])
def test_what_was_killed_goes_on_and_ends_in_the_same_bytes(documents, small_pair, tmp_path, session_of, torn):
    """With a real model that draws: the second half must not depend on the first one's having been drawn here."""
    pairs = [(f"Question {i} {'x' * (i % 5)}", "answer") for i in range(9)]
    data = as_chat(data_from_texts(documents, *small_pair, 32), converse(pairs), tmp_path / "chat")
    settings = {"scorer": "teacher_logprob", "num_samples": 2, "batch_size": 4}
    writer = Teacher(make_llama(len(small_pair[1])), "tiny", False, data.teacher_tokenizer)
    whole = sample_answers(session_of(**settings), data, writer)
    expected = {path.name: path.read_bytes() for path in whole.path.parent.iterdir()}
    for path in whole.path.parent.iterdir():
        path.unlink()
    generate, calls = writer.generate, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise _KilledError
        return generate(*arguments)

    writer.generate = killed
    with pytest.raises(_KilledError):
        sample_answers(session_of(**settings), data, writer)
    (partial,) = whole.path.parent.glob(".*.partial")
    if torn:  # killed while it wrote its second chunk
        lines = partial.read_bytes().splitlines(keepends=True)
        partial.write_bytes(lines[0] + torn)
    assert not whole.path.is_file()
    assert sample_answers(session_of(**settings), data, writer) == whole
    assert len(calls) == 3 + (4 if torn else 3), "finished chunks are not drawn again"
    assert {path.name: path.read_bytes() for path in whole.path.parent.iterdir()} == expected
    drawn = {row["messages"][-1]["content"] for row in rows_of(whole)}
    assert len(drawn) > 4


def test_the_teachers_score_is_the_mean_of_the_answers_tokens_alone(small_pair):
    tokenizer, model = small_pair[1], make_llama(len(small_pair[1]))
    prompts, answers = [[3, 4, 5, 6], [7, 8]], [Generated([9, 10, 11], 2), Generated([12], None)]
    got = mean_logprobs(Teacher(model, "tiny", False, tokenizer), prompts, answers)
    for value, prompt, answer in zip(got, prompts, answers, strict=True):
        own = [*answer.ids, *([answer.stop_id] if answer.stopped else [])]
        logits = model(input_ids=torch.tensor([[*prompt, *own]])).logits[0].double()
        logprobs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
        assert value == pytest.approx(logprobs[range(len(own)), own].mean().item(), abs=1e-5)
    assert mean_logprobs(Teacher(model, "tiny", False, tokenizer), [[3, 4]], [Generated([], None)]) == [-math.inf]


@pytest.mark.parametrize(
    ("body", "what"), [("raise ValueError('odd')", "ValueError: odd"), ("return None", "TypeError")]
)
def test_a_scorer_that_fails_stops_with_the_number_of_the_prompt(data, session_of, tmp_path, monkeypatch, body, what):
    (tmp_path / "bad.py").write_text(
        "def score(messages, answer, reference):\n    if '3 + 3' in messages[0]['content']:\n"
        f"        {body}\n    return 1\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"from 'python:bad.py:score' for prompt 1, got {what}"):
        sample_answers(session_of(scorer="python:bad.py:score"), data, ScriptedTeacher(data, script))


def test_prompts_that_fill_the_teachers_context_are_left_out_and_counted(data, session_of):
    teacher = ScriptedTeacher(data, script)
    lengths = sorted(len(teacher.tokenizer(f"user: {q}\nassistant: ").input_ids) for q, _ in PAIRS)
    teacher.context = lengths[2]
    found = sample_answers(session_of(), data, teacher)
    assert found.too_long == 4 - found.prompts > 0 and "too long for the teacher" in found.describe()
    teacher.context = 2
    with pytest.raises(UserError, match="expected prompts of fewer than 2 tokens, the teacher's context, got 4"):
        sample_answers(session_of(seed=5), data, teacher)


def test_a_teacher_that_writes_nothing_and_plain_text_are_refused(documents, small_pair, data, session_of):
    class Silent(ScriptedTeacher):
        generate = rejection.TextTeacher.generate

    with pytest.raises(UserError, match="expected one that writes text, got Silent 'scripted'"):
        sample_answers(session_of(), data, Silent(data, script))
    plain = data_from_texts(documents, *small_pair, 32)
    with pytest.raises(UserError, match=r"sampling: expected conversations, .* got plain text"):
        sample_answers(session_of(), plain, ScriptedTeacher(data, script))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7}, {"top_k": 9, "top_p": 0.8}, {"min_p": 0.1}, {"repetition_penalty": 1.5}]
)
def test_what_is_noted_while_writing_is_what_reading_it_again_finds(small_pair, options):
    model, tokenizer = make_llama(len(small_pair[1])), small_pair[1]
    prompts, sampling = [[3, 4, 5, 6], [7, 8], [9]], Sampling(max_new_tokens=9, seed=2, **options)
    stops = list(range(20, 60))
    written = Teacher(model, "tiny", False, tokenizer).generate(prompts, sampling, stops)
    assert {each.stopped for each in written} == {True, False}
    again = mean_logprobs(Teacher(model, "tiny", False, tokenizer), prompts, written)
    assert [each.logprob for each in written] == pytest.approx(again, abs=1e-5)
