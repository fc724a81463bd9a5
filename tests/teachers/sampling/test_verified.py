"""Rejection sampling on verified answers: what is right is accepted however it is written, and verdicts are kept."""

import json
from dataclasses import replace

import pytest

from kdkit.config.language import config_from_values
from kdkit.config.maths.settings import CheckerConfig
from kdkit.data.problems import HELD_OUT, TRAIN
from kdkit.data.text.corpora import load_corpus
from kdkit.errors import UserError
from kdkit.maths.checking.pool import CheckerPool
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.files import read_problems
from kdkit.maths.problem import Problem
from kdkit.teachers.sampling import rejection
from kdkit.teachers.sampling.rejection import sample_answers
from kdkit.teachers.sampling.scorers import Candidate
from kdkit.teachers.sampling.verified import VerifiedAnswer
from tests.teachers.chats import ScriptedTeacher
from tests.tiny import make_config, make_data, make_run, make_session

pytestmark = pytest.mark.usefixtures("one_thread")

MADE = {"templates": ["linear_equation"], "held_out_templates": [], "levels": [1], "num_problems": 4, "num_held_out": 2}


@pytest.fixture(scope="module")
def checked():
    with CheckerPool(CheckerConfig(num_workers=1)) as pool:
        yield pool


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A configuration on made problems, and its data."""
    folder = tmp_path_factory.mktemp("made")
    values = make_config(folder, data={"path": "kdkit-maths", "max_length": 200}).model_dump()
    values["sampling"] |= {"scorer": "verified_answer", "num_samples": 3, "max_new_tokens": 32, "batch_size": 6}
    config = config_from_values(values | {"maths": {"problems": MADE, "checker": {"num_workers": 1}}})
    return config, make_data(config, folder)


def candidate(question: str, answer: str, reference: str = "") -> Candidate:
    return Candidate([{"role": "user", "content": question}], answer, reference, float("nan"))


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (r"So $\boxed{\frac{2}{4}}$.", Verdict.RIGHT),
        (r"$\boxed{0.5}$", Verdict.RIGHT),
        (r"$\boxed{5}$", Verdict.WRONG),
        ("It is one half.", Verdict.NO_ANSWER),
    ],
)
def test_an_answer_is_compared_with_the_box_of_the_reference(checked, answer, verdict):
    scorer = VerifiedAnswer(checked, {})
    assert scorer(candidate("How much?", answer, r"Half of it: $\boxed{\frac{1}{2}}$")) is verdict


def test_the_four_hashes_of_a_reference_count_too(checked):
    scorer = VerifiedAnswer(checked, {})
    assert scorer(candidate("How many?", "#### 1,000", "Many.\n#### 1000")) is Verdict.RIGHT


def test_a_reference_without_an_answer_is_refused(checked):
    with pytest.raises(UserError, match=r"expected an answer in \\boxed\{\} or behind ####"):
        VerifiedAnswer(checked, {})(candidate("How many?", r"$\boxed{2}$", "two"))


def test_a_known_problem_says_what_kind_of_answer_is_wanted(checked):
    problem = Problem("a", "Find $\\int 2x \\, dx$.", "x^{2} + C", answer_kind="antiderivative", check_against="2x")
    scorer = VerifiedAnswer(checked, {problem.problem: problem})
    assert scorer(candidate(problem.problem, r"$\boxed{x^{2} + 7 + C}$")) is Verdict.RIGHT
    assert scorer(candidate(problem.problem, r"$\boxed{x^{3} + C}$")) is Verdict.WRONG


def answers(problems):
    """Answer the first problem right at the second try, the second in words, the others wrong."""

    def script(text: str, place: int) -> str:
        number = next(i for i, each in enumerate(problems) if each.problem in text)
        if number == 0:
            return ["$\\boxed{999}$", f"Easy.\n$\\boxed{{x = {problems[0].answer}}}$", "$\\boxed{}$"][place]
        return "I know." if number == 1 else "$\\boxed{999}$"

    return script


@pytest.fixture
def sampled(made, tmp_path, monkeypatch):
    config, data = made
    monkeypatch.setattr(rejection, "identify_teacher", lambda session, data: {"weights": "test"})
    teacher = ScriptedTeacher(data, answers(data.problems(TRAIN)))
    return sample_answers(make_session(config, make_run(tmp_path)), data, teacher), data


def test_answers_are_kept_with_their_verdicts(sampled):
    found, _ = sampled
    rows = [json.loads(line) for line in found.path.read_text().splitlines()]
    assert [(row["verdict"], row["accepted"], row["rejected"]) for row in rows[:3]] == [
        ("right", True, False),
        ("no_answer", False, True),
        ("wrong", False, True),
    ]
    assert rows[0]["verdicts"] == {"wrong": 1, "right": 1, "no_answer": 1}
    assert found.verdicts == {"right": 1, "no_answer": 4, "wrong": 7}
    assert "checked: 4 no_answer, 1 right, 7 wrong" in found.describe()


def test_the_file_is_one_of_problems_with_the_teachers_solutions(sampled, tmp_path):
    found, data = sampled
    first = data.problems(TRAIN)[0]
    assert found.settings["data.skip_rows_where"] == "rejected"
    settings = make_config(tmp_path, data={"path": str(found.path), "skip_rows_where": "rejected"}).data
    corpus = load_corpus(settings, tmp_path / "other")
    assert corpus.has_problems
    assert corpus.rows_left_out == {"rejected": 3}
    (problem,) = read_problems(corpus.documents.folder / "problems.jsonl")
    assert problem == replace(first, steps=("Easy.",))
    assert read_problems(found.held_out) == data.problems(HELD_OUT)


def test_other_policies_are_other_samples(made, sampled, tmp_path, monkeypatch):
    config, data = made
    found, _ = sampled
    checker = config.maths.checker.model_copy(
        update={"policies": config.maths.checker.policies.model_copy(update={"names": "required"})}
    )
    strict = config.model_copy(update={"maths": config.maths.model_copy(update={"checker": checker})})
    teacher = ScriptedTeacher(data, answers(data.problems(TRAIN)))
    again = sample_answers(make_session(strict, make_run(tmp_path, "strict")), data, teacher)
    assert again.path != found.path
