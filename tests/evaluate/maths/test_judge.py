"""Judging: who is right on what, counted again from the texts that are kept; what a run's evaluation says of it."""

import json
from dataclasses import replace

import pytest

from kdkit.config.maths.judging import JudgingConfig
from kdkit.config.maths.settings import PolicyConfig
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import evaluate_run, load_students
from kdkit.evaluate.maths.describe import describe_model, differences_to
from kdkit.evaluate.maths.judge import evaluate_maths, keep_solutions
from kdkit.evaluate.maths.sets import find_sets, spread
from kdkit.evaluate.maths.solutions import Asking
from kdkit.evaluate.maths.solving import Examiner
from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.files import write_problems
from kdkit.models.generation import Sampling
from kdkit.teachers.prepare import prepare_teacher
from tests.evaluate.maths.solvers import Says, equation, solution
from tests.maths_runs import learnt_problems, make_maths_run
from tests.tiny import make_run

PROBLEMS = [equation(2, 1, 5), equation(3, 4, 2, level=2), equation(4, 1, 3, level=2, domain="calculus")]


@pytest.fixture(scope="module")
def solve(pool):
    """Return a way to let a writer solve the problems."""

    def solve(writer, problems=PROBLEMS, **settings):
        settings = JudgingConfig(**{"num_samples": 0, "max_answer_tokens": 9} | settings)
        return Examiner(pool, PolicyConfig(), settings, Asking(is_chat=True), seed=3).solve(writer, problems)

    return solve


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Evaluate a run whose student has learnt most of the problems."""
    session, data = make_maths_run(tmp_path_factory.mktemp("judged"))
    return session, data, evaluate_run(session, data, prepare_teacher(session, data))


def test_answers_are_right_wrong_or_none_and_errors_of_format_stand_apart(solve):
    found = describe_model(PROBLEMS, solve(Says([solution(5), solution(7), "it is 3"], stopped=False)))
    assert found["accuracy"] == pytest.approx(1 / 3) and found["count"] == 3
    assert found["verdicts"] == {"right": 1, "wrong": 1, "no_answer": 1, "unreadable": 0, "timed_out": 0}
    assert found["format_errors"] == pytest.approx(1 / 3) and found["unfinished"] == 1.0
    assert "pass_at" not in found


def test_accuracy_is_given_by_domain_level_and_template(solve):
    found = describe_model(PROBLEMS, solve(Says([solution(5), solution(2), solution(1)])))
    assert {name: each["accuracy"] for name, each in found["by_domain"].items()} == {"algebra": 1.0, "calculus": 0.0}
    assert {name: (each["accuracy"], each["count"]) for name, each in found["by_level"].items()} == {
        "1": (1.0, 1),
        "2": (0.5, 2),
    }
    assert list(found["by_template"]) == ["linear_equation"]


def test_greedy_answers_and_samples_are_asked_for_as_the_settings_say(solve):
    writer = Says([solution(5)] * 3, [[solution(5)] * 2] * 3)
    solve(writer, num_samples=2, temperature=0.5)
    (greedy, ours, one), (sampled, theirs, two) = ((sampling, prompts, n) for prompts, sampling, n in writer.asked)
    assert (greedy, one) == (Sampling(0.0, max_new_tokens=9), 1)
    assert (sampled, two) == (Sampling(0.5, max_new_tokens=9, seed=3), 2)
    assert ours == theirs and [(m.role, m.content) for m in ours[0]] == [("user", PROBLEMS[0].problem)]


def test_problems_are_asked_as_they_were_in_the_training():
    problem = PROBLEMS[0]
    assert Asking(False).prompt(problem) == f"{problem.problem}\n"
    (message,) = Asking(True, "{problem} Box the answer.").prompt(problem)
    assert (message.role, message.content) == ("user", f"{problem.problem} Box the answer.")
    assert Asking(True, "Summarise: {article}").words(problem) == problem.problem  # it was made for other data


def test_pass_at_k_and_the_vote_count_samples(solve):
    rows = [[solution(5)] * 2 + [solution(1)], [solution(9)] * 2 + [solution(2)], [solution(0)] * 3]
    found = describe_model(PROBLEMS, solve(Says([""] * 3, rows), num_samples=3))
    assert found["samples"] == 3 and found["majority"]["accuracy"] == pytest.approx(1 / 3)
    values = {k: each["mean"] for k, each in found["pass_at"].items()}
    assert values == pytest.approx({"1": (2 / 3 + 1 / 3) / 3, "2": (1 + 2 / 3) / 3, "3": 2 / 3})


def test_steps_are_counted_and_the_first_wrong_one_is_found(solve):
    own = solve(Says([solution(5), solution(2), solution(3)]))
    right, wrong, words = StepVerdict.RIGHT, StepVerdict.WRONG, StepVerdict.UNCHECKED
    marks = [(right, words, wrong, wrong), (words, wrong), (right,)]
    greedy = [replace(each, steps=steps) for each, steps in zip(own.greedy, marks, strict=True)]
    steps = describe_model(PROBLEMS, replace(own, greedy=greedy))["steps"]
    assert (steps["checked"], steps["unchecked"]) == (5, 2) and steps["right_share"] == pytest.approx(2 / 5)
    assert steps["flawless"]["accuracy"] == pytest.approx(1 / 3)
    assert steps["right_answer_wrong_step"]["accuracy"] == pytest.approx(2 / 3)
    assert steps["first_wrong"] == [0, 1, 1]


def test_differences_are_in_pairs_of_one_problem(solve):
    answers = {"student": (5, 2, 3), "baseline": (5, 0, 0), "teacher": (5, 2, 3)}
    solved = {name: solve(Says(list(map(solution, each)))) for name, each in answers.items()}
    found = differences_to("student", solved)
    assert found["baseline"]["mean"] == pytest.approx(2 / 3) and found["teacher"]["mean"] == 0.0
    assert "student" not in found


def test_a_problem_longer_than_the_context_counts_as_unanswered(solve):
    writer = Says([solution(5), solution(3)])
    writer.context = 60
    long = replace(PROBLEMS[1], problem="Solve " + "x + " * 80 + "x = 0.")
    own = solve(writer, [PROBLEMS[0], long, PROBLEMS[2]])
    assert own.too_long == 1 and own.greedy[1].text == ""
    found = describe_model([PROBLEMS[0], long, PROBLEMS[2]], own)
    assert found["accuracy"] == pytest.approx(2 / 3) and found["verdicts"]["no_answer"] == 1
    assert len(writer.asked[0][0]) == 2


def test_own_problems_are_judged_by_path_and_spread_evenly(tmp_path):
    file = write_problems(tmp_path / "mine.jsonl", learnt_problems())
    sets = find_sets(tmp_path, JudgingConfig(path=str(file), max_problems=6))
    assert [problem.id for problem in sets["mine"]] == [each.id for each in learnt_problems()[::4]]
    assert find_sets(tmp_path, JudgingConfig()) == {}
    assert spread([1, 2], 5) == [1, 2]


def test_files_of_gsm8k_and_math_are_judged_too(test_data):
    for name in ("gsm8k_train", "minerva_math"):
        sets = find_sets(test_data, JudgingConfig(path=str(test_data / "maths" / f"{name}.jsonl"), max_problems=5))
        assert len(sets[name]) == 5 and all(problem.answer and problem.problem for problem in sets[name])


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"maths\.judging\.path: expected a \.json or \.jsonl file"):
        find_sets(tmp_path, JudgingConfig(path=str(tmp_path / name)))


def test_a_teacher_that_writes_nothing_is_left_out(judged):
    session, data, _ = judged

    class Mute:
        has_layers, parameters = False, None

        def writer(self, *_):
            return self

        context = None
        tokenizer = data.student_tokenizer

        def write(self, *_):
            raise UserError("teacher: writes nothing")

    few = {"few": learnt_problems()[:3]}
    found = evaluate_maths(session, data, Mute(), load_students(session), few)["maths"]["sets"]["few"]
    assert set(found["models"]) == {"student", "baseline"} and found["selection"]["equal_compute"] == {}


def test_a_run_says_who_solves_what(judged):
    session, _, evaluation = judged
    maths = evaluation["maths"]
    found = maths["sets"]["learnt"]
    student, baseline = (found["models"][name] for name in ("student", "baseline"))
    learnt = 20 / 24  # the other four are held out, and the student has seen only few numbers
    assert 0.6 < student["accuracy"] <= 1.0 and student["verdicts"]["right"] >= 18
    assert baseline["accuracy"] == 0.0 and baseline["format_errors"] > 0.5
    assert found["differences"]["baseline"]["interval_95"][0] > 0.5
    assert found["contamination"]["same_text"] == pytest.approx(learnt)
    assert maths["num_samples"] == student["samples"] == 3
    assert json.loads((session.run.path / "evaluation.json").read_text())["maths"]["sets"].keys() == {"learnt"}


def test_every_solution_is_kept_with_its_verdict(judged):
    session, _, evaluation = judged
    rows = [json.loads(line) for line in (session.run.path / "maths" / "learnt.jsonl").read_text().splitlines()]
    assert len(rows) == 24 * 3 * (1 + 3)
    greedy = [row for row in rows if row["model"] == "student" and row["sample"] == 0]
    right = [row for row in greedy if row["verdict"] == "right"]
    assert len(right) == evaluation["maths"]["sets"]["learnt"]["models"]["student"]["verdicts"]["right"]
    assert all(row["answer"] == row["gold"] for row in right)
    assert all(len(row["steps"]) == len(row["text"].splitlines()) - 1 for row in right)


def test_selection_stands_beside_the_single_answers(judged):
    *_, evaluation = judged
    selection = evaluation["maths"]["sets"]["learnt"]["selection"]
    assert set(selection["single"]) == {"teacher", "student", "baseline"}
    assert set(selection["equal_compute"]) == {"teacher"}  # it is the larger one
    first = selection["ways"][0]
    assert (first["way"], first["samples"]) == ("first", 1) and first["times_greedy"] == pytest.approx(1.0, abs=0.2)


def test_what_is_kept_names_the_problem_and_the_model(tmp_path, solve):
    run = make_run(tmp_path)
    own = solve(Says([solution(5)] * 3, [[solution(4)] * 2] * 3), num_samples=2)
    file = keep_solutions(run, "some", PROBLEMS, {"student": own})
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert file == run.path / "maths" / "some.jsonl" and len(rows) == 9
    assert [row["sample"] for row in rows[:3]] == [0, 1, 2] and rows[0]["model"] == "student"
    assert (rows[0]["id"], rows[0]["gold"], rows[0]["level"]) == (PROBLEMS[0].id, "5", 1)
