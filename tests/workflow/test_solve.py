"""The verb `solve`: what is asked of which model, what is said of its steps and answer, and what is refused."""

import re
import sys

import pytest

from kdkit import cli
from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.files import write_problems
from kdkit.workflow.solve import SolveRequest, describe_solved, solve, solve_problems
from tests.maths_runs import learnt_problems, make_maths_run
from tests.workflow.projects import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder of runs: one has learnt equations, another one other text."""
    session, data = make_maths_run(tmp_path_factory.mktemp("solving"))
    other = session.run.path.with_name("stories")
    (other / "student").mkdir(parents=True)
    for name in ("config.yaml", "training.json", "student/config.json"):
        (other / name).write_bytes((session.run.path / name).read_bytes())
    return session.run.path.parent, data


@pytest.fixture
def learnt(runs):
    """Return a problem that the student has learnt, and one that was held out."""
    known = {each.prompt[-1].content for each in runs[1].prompts("train")}
    problems = learnt_problems()
    return (
        next(each for each in problems if each.problem in known),
        next(each for each in problems if each.problem not in known),
    )


@pytest.fixture
def call(runs, capsys, monkeypatch):
    """Return a call of the verb that gives its exit code, output and errors."""
    monkeypatch.chdir(ROOT)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(["solve", *map(str, words), "--runs-dir", str(runs[0])])
        return stop.value.code, *capsys.readouterr()

    return call


def test_a_learnt_problem_is_solved_with_every_step(runs, learnt):
    problem, _ = learnt
    found = solve("equations", problem.problem, runs_dir=runs[0])
    assert (found.answer, found.verdict, found.gold) == (problem.answer, Verdict.RIGHT, problem.answer)
    assert tuple(text for text, _ in found.steps) == problem.steps
    assert {mark for _, mark in found.steps} <= {StepVerdict.RIGHT, StepVerdict.UNCHECKED}
    assert found.notes == ["this very problem is one that the model was trained on"]


def test_steps_that_are_not_true_are_marked(runs, learnt):
    """The student answers a problem that it does not know with another one's solution."""
    found = solve("equations", learnt[1].problem, runs_dir=runs[0])
    assert found.verdict is Verdict.WRONG and StepVerdict.WRONG in {mark for _, mark in found.steps}
    assert "\N{BALLOT X}" in found.to_text() and f"wrong, it is {learnt[1].answer}" in found.to_text()


def test_plain_text_and_unicode_are_the_same_problem(runs, learnt):
    problem, _ = learnt
    typed = problem.problem.replace("$", "").replace("+", " +  ").rstrip(".")
    found = solve("equations", typed, runs_dir=runs[0])
    assert found.problem == problem.problem and found.verdict is Verdict.RIGHT


def test_a_problem_of_another_kind_is_said_to_be_outside(runs):
    known = solve("equations", "Find the derivative of f(x) = x\u00b3 - 2x\u00b2 + 4x - 1", runs_dir=runs[0])
    assert known.problem == "Find the derivative of $f(x) = x^{3} - 2x^{2} + 4x - 1$."
    assert known.verdict is not None and known.gold == "3x^{2} - 4x + 4"
    assert any("outside what this model was taught: derivative_polynomial" in note for note in known.notes)
    unknown = solve("equations", "How many apples are left?", runs_dir=runs[0])
    assert unknown.verdict is None and "not checked" in unknown.to_text()
    assert any("outside what this model was taught, as far as we can tell" in note for note in unknown.notes)


def test_several_samples_vote(runs, learnt):
    found = solve("equations", learnt[0].problem, num_samples=4, seed=1, runs_dir=runs[0])
    assert found.verdict is Verdict.RIGHT
    assert any(re.match(r"[34] of 4 samples agree on this answer", note) for note in found.notes)
    nobody = solve("equations", learnt[0].problem, model="baseline", num_samples=2, runs_dir=runs[0])
    assert "none of 2 samples has an answer that can be read" in nobody.notes


def test_other_models_of_the_run_are_asked(runs, learnt):
    found = solve("equations", learnt[0].problem, model="baseline", runs_dir=runs[0])
    assert found.verdict is Verdict.NO_ANSWER and found.model == "baseline"
    assert "none was given in a box" in found.to_text()


def test_a_random_problem_is_a_held_out_one_that_the_seed_decides(runs):
    held_out = {each.prompt[-1].content for each in runs[1].prompts("evaluation")}
    found = [solve("equations", seed=seed, runs_dir=runs[0]).problem for seed in (0, 0, 1, 2, 3)]
    assert set(found) <= held_out and found[0] == found[1] and len(set(found)) > 1


def test_a_file_of_problems_is_solved_and_counted(call, runs, learnt, tmp_path):
    file = write_problems(tmp_path / "some.jsonl", learnt)
    code, out, _ = call("equations", "--file", file, "--html", tmp_path / "page.html")
    assert code == 0 and "2 problems: 1 right, 1 wrong; 50.0% right (95 % interval" in out
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 2 and "<math" in page and "http" not in page.replace("http://www.w3.org", "")


def test_a_problem_longer_than_the_context_is_refused_and_in_a_file_unanswered(call, runs, learnt, tmp_path):
    long = "Solve " + "x + " * 200 + "x = 0."
    code, _, errors = call("equations", "--problem", long)
    assert code == 2 and "expected a problem of fewer than 128 tokens" in errors and len(errors.splitlines()) == 1
    (tmp_path / "long.jsonl").write_text(f'{{"problem": "{long}", "answer": "0"}}\n')
    code, out, _ = call("equations", "--file", tmp_path / "long.jsonl")
    assert code == 0 and "longer than the model's context" in out and "none was given" in out


def test_the_command_prints_steps_with_marks(call, learnt):
    code, out, _ = call("equations", "--problem", learnt[0].problem)
    lines = out.splitlines()
    assert code == 0 and lines[0].startswith("problem  Solve ") and "$" not in out
    assert [line[2] for line in lines[1:3]] == ["\N{CHECK MARK}"] * 2
    assert lines[3] == f"answer   {learnt[0].answer}   (right)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["equation", "--random"], "did you mean 'equations'?"),
        (["stories", "--random"], "expected a run whose data are maths problems, got 'stories'"),
        (["equations"], "expected one of --problem"),
        (["equations", "--random", "--problem", "Solve x = 1."], "got several"),
        (["equations", "--problem", "  "], "got none"),
        (["equations", "--random", "--model", "studnet"], "--model: expected one of teacher, baseline, student"),
        (["equations", "--file", "missing.jsonl"], "--file: expected a .json or .jsonl file"),
        (["equations", "--random", "--samples", "0"], "--samples"),
    ],
)
def test_a_mistake_is_one_line(call, words, message):
    code, out, errors = call(*words)
    assert code == 2 and out == "" and message in errors and len(errors.splitlines()) == 1, errors


def test_a_bad_file_names_its_line(call, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"problem": "Solve x = 1.", "answer": "1"}\nnot json\n')
    code, _, errors = call("equations", "--file", tmp_path / "bad.jsonl")
    assert code == 2 and "line 2" in errors and len(errors.splitlines()) == 1


def test_a_notebook_shows_latex(runs, learnt):
    shown = solve("equations", learnt[0].problem, runs_dir=runs[0])._repr_markdown_()
    assert "**Problem.** Solve $" in shown and shown.count("\n- <span") == 2


def test_a_request_counts_what_it_solved(runs):
    solved = solve_problems(SolveRequest("equations", is_random=True, runs_dir=str(runs[0])))
    assert describe_solved(solved).startswith("1 problems: 1 ")
    assert "torch" in sys.modules
