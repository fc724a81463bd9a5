r"""Problem files: the three shapes, every fault with its line, and the shared files as they are."""

import json

import pytest

from kdkit.errors import UserError
from kdkit.maths.files import columns_of, read_problem_file, read_problems, statement_key, write_problems
from kdkit.maths.problem import Problem
from kdkit.maths.rows import open_boxes

ROW = {"problem": "What is $2+3$?", "solution": "Add.\n$2+3 = 5$", "answer": "5"}


def write_rows(folder, rows, name="problems.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def refusal(folder, rows):
    with pytest.raises(UserError) as caught:
        read_problems(write_rows(folder, rows))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_written_is_read_again(tmp_path):
    problem = Problem(
        id="derivative:3,-2",
        problem="Differentiate $3x^{2} - 2x$.",
        answer="6x - 2",
        steps=("$f'(x) = 6x - 2$", "zwei \u00fcber \u4e2d"),
        domain="calculus",
        template="derivative",
        level=2,
        answer_kind="antiderivative",
        check_against="6x - 2",
        facts={"x": ("2", "3"), "f'(x)": ("6x - 2",)},
    )
    assert read_problems(write_problems(tmp_path / "a" / "problems.jsonl", [problem])) == [problem]


def test_a_row_with_solution_and_answer(tmp_path):
    (problem,) = read_problems(write_rows(tmp_path, [ROW | {"level": 2, "domain": "algebra", "id": 17}]))
    assert problem.steps == ("Add.", "$2+3 = 5$")
    assert (problem.answer, problem.id, problem.level, problem.domain) == ("5", "17", 2, "algebra")
    assert problem.solution == "Add.\n$2+3 = 5$\n$\\boxed{5}$"


def test_gsm8k_has_its_answer_behind_four_hashes(tmp_path):
    row = {"question": "How many?", "answer": "Half is 48/2 = <<48/2=24>>24.\nIn all 48+24 = <<48+24=72>>72.\n#### 72"}
    (problem,) = read_problems(write_rows(tmp_path, [row]))
    assert problem.problem == "How many?"
    assert problem.answer == "72"
    assert problem.steps == ("Half is 48/2 = 24.", "In all 48+24 = 72.")


def test_math_has_its_answer_in_a_box(tmp_path):
    solution = "Half of it is $\\frac{1}{2}$.\nSo it is $\\boxed{\\frac{1}{2}}$ in all.\n$\\boxed{\\frac{1}{2}}$"
    row = {"problem": "How much?", "solution": solution, "level": "Level 4", "type": "Prealgebra"}
    (problem,) = read_problems(write_rows(tmp_path, [row]))
    assert problem.answer == "\\frac{1}{2}"
    assert problem.steps == ("Half of it is $\\frac{1}{2}$.", "So it is $\\frac{1}{2}$ in all.")
    assert (problem.level, problem.domain) == (4, "Prealgebra")
    assert problem.solution.count("\\boxed") == 1


def test_math_has_problems_without_a_level(tmp_path):
    row = {"problem": "How much?", "solution": "$\\boxed{1}$", "level": "Level ?", "type": "Geometry"}
    assert read_problems(write_rows(tmp_path, [row]))[0].level is None


@pytest.mark.parametrize(
    ("text", "opened"),
    [
        (r"a \boxed{b} c", "a b c"),
        (r"\boxed{\frac{1}{2}} and \boxed{x^{2}}", r"\frac{1}{2} and x^{2}"),
        (r"no end \boxed{b", r"no end \boxed{b"),
        (r"none \boxed 5", r"none \boxed 5"),
    ],
)
def test_boxes_are_opened(text, opened):
    assert open_boxes(text) == opened


def test_a_list_is_read_as_lines_are(tmp_path):
    rows = [ROW, {"problem": "And $7$?", "answer": 7}]
    path = tmp_path / "problems.json"
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    of_list, of_lines = read_problems(path), read_problems(write_rows(tmp_path, rows))
    assert [each.answer for each in of_list] == [each.answer for each in of_lines] == ["5", "7"]
    assert columns_of(path) == {"problem", "solution", "answer"}


def test_a_mistake_in_a_list_is_named_by_its_line(tmp_path):
    path = tmp_path / "problems.json"
    path.write_text(json.dumps([ROW, ROW | {"problem": "x", "answer": " "}], indent=2), encoding="utf-8")
    with pytest.raises(UserError, match=r"line 7 of .*problems\.json.*expected an answer, got an empty one"):
        read_problems(path)
    path.write_text('[\n {"problem": "a", "answer": "1"},\n {"problem": }\n]', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 3 of .*expected JSON"):
        read_problems(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "x", "answer": ""}, "expected an answer, got an empty one"),
        ({"problem": "x", "solution": "It is so.", "answer": None}, r"expected an answer, or a solution with \boxed"),
        ({"problem": " ", "answer": "1"}, "expected the text of a problem, got an empty one"),
        ({"problm": "x", "answer": "1"}, "expected problem and answer (or solution), got problm, answer"),
        ({"problem": "x", "answer": "1", "level": 9}, "expected a level from 1 to 5, got 9"),
        ({"problem": 3, "answer": "1"}, "expected text in 'problem', got '3'"),
        ({"problem": "x", "answer": "1", "answer_kind": "number"}, "expected answer_kind expression"),
        ({"problem": "x", "answer": "1", "steps": "a"}, "expected a list of text in 'steps'"),
        ({"problem": "x", "answer": "1", "facts": {"x": "2"}}, "expected lists of text in 'facts'"),
        ("text", "expected a JSON object with problem and answer, got 'text'"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(row, message, tmp_path):
    refused = refusal(tmp_path, [ROW, row])
    assert refused.startswith("line 2 of ")
    assert "problems.jsonl" in refused
    assert message in refused


@pytest.mark.parametrize(
    ("value", "seen"),
    [("NaN", "NaN"), ("9" * 6000, "4300 digits"), ("[" * 100_000 + "]" * 100_000, "too deep"), ("1 2", "in column")],
    ids=["no number", "too many digits", "too deep", "two values"],
)
@pytest.mark.parametrize("form", ["[\n%s\n]", "\n%s\n"], ids=["list", "lines"])
def test_json_that_cannot_be_read_is_named_by_its_line(form, value, seen, tmp_path):
    path = tmp_path / "problems.json"
    path.write_text(form % f'{{"problem": "1 + 2", "answer": {value}}}', encoding="utf-8")
    with pytest.raises(UserError, match=rf"line 2 of .*expected JSON, got .*{seen}.*; correct it"):
        read_problems(path)


def test_bad_json_is_named_by_its_line(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n{broken\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line 3 of .*expected JSON, got .*; correct it"):
        read_problems(path)


def test_bytes_that_are_no_text_are_named_by_their_line(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"problem": "caf\xe9", "answer": "1"}\n')
    with pytest.raises(UserError, match=r"line 2 of .*expected UTF-8 text, got byte 0xe9"):
        read_problems(path)


def test_an_id_stands_once(tmp_path):
    refused = refusal(tmp_path, [ROW | {"id": "a"}, {"problem": "x", "answer": "1", "id": "a"}])
    assert "line 2" in refused
    assert "got 'a', which line 1 has" in refused


def test_one_problem_has_one_answer(tmp_path):
    refused = refusal(tmp_path, [ROW, ROW | {"problem": "What is $2 + 3$", "answer": "6"}])
    assert "line 2" in refused
    assert "expected one answer to a problem, got '6' beside '5' in line 1" in refused


def test_one_answer_may_be_written_in_two_ways(tmp_path):
    halves = [ROW | {"answer": answer} for answer in (r"\frac{1}{2}", "0.5", r"\dfrac12")]
    assert len(read_problems(write_rows(tmp_path, halves))) == 3


def test_the_box_and_the_answer_agree(tmp_path):
    refused = refusal(tmp_path, [{"problem": "x", "solution": r"$\boxed{6}$", "answer": "5"}])
    assert "got '5' beside '6' in the box of its solution" in refused


def test_bad_rows_are_left_out_and_counted_where_that_is_wanted(tmp_path, capsys):
    rows = [ROW, {"problem": "x", "answer": ""}, {"problem": "y"}, ROW | {"answer": "6"}]
    read = read_problem_file(write_rows(tmp_path, rows), skip=True)
    assert [each.answer for each in read.problems] == ["5"]
    assert read.left_out == {"empty answer": 1, "wrong columns": 1, "two answers": 1}
    assert "1 (empty answer)" in capsys.readouterr().out


def test_columns_that_nobody_reads_are_said(tmp_path, capsys):
    read_problems(write_rows(tmp_path, [ROW | {"book": "a", "chapter": "b"}]))
    assert "columns that are not read: book, chapter" in capsys.readouterr().out


def test_a_file_without_problems_is_refused(tmp_path):
    assert "expected problems" in refusal(tmp_path, [])
    with pytest.raises(UserError, match=r"expected a problem file, got .*No such file"):
        read_problems(tmp_path / "nothing.jsonl")


@pytest.mark.parametrize(
    ("first", "second", "are_same"),
    [
        ("Solve $x + 2 = 3$.", "solve $x+2=3$", True),
        (r"$\left(1, 2\right)$", "(1,2)", True),
        ("$x + 2$", "$x - 2$", False),
        ("$x + 2$", "$x + 3$", False),
    ],
)
def test_statements_are_the_same_whatever_their_spaces(first, second, are_same):
    assert (statement_key(first) == statement_key(second)) == are_same


def test_the_shared_files_are_read(test_data):
    folder = test_data / "maths"
    gsm8k = read_problems(folder / "gsm8k_train.jsonl")
    assert len(gsm8k) == 7473
    assert gsm8k[0].answer == "72"
    assert not any("<<" in step for problem in gsm8k for step in problem.steps)
    minerva = read_problems(folder / "minerva_math.jsonl")
    assert len(minerva) == 272
    assert minerva[0].answer == "1.6"
    assert minerva[0].domain.startswith("Introduction to Astronomy")


@pytest.mark.parametrize("name", ["linear_algebra_exercises", "ode_exercises_answers"])
def test_shared_exercises_without_answers_are_refused(test_data, name):
    with pytest.raises(UserError, match=r"line 1 of .*expected an answer, or a solution with"):
        read_problems(test_data / "maths" / f"{name}.jsonl")
