"""Maths problems as data: conversations of problem and solution, split as they were made, kept beside the windows."""

import json
from dataclasses import replace

import pytest

from kdkit.config.language import config_from_values
from kdkit.data.problems import HELD_OUT, HELD_OUT_TEMPLATES, TRAIN, find_levels
from kdkit.data.text.corpora import load_corpus
from kdkit.data.text.problems import as_document, find_repeated
from kdkit.errors import UserError
from kdkit.maths.problem import Problem
from kdkit.maths.problems.make import make_problems
from tests.tiny import make_config, make_data

MADE = {"templates": ["linear_equation"], "held_out_templates": [], "levels": [1, 2]}
MADE |= {"num_problems": 40, "num_held_out": 6}
PATH = {"path": "kdkit-maths", "max_length": 200}


def made_config(folder, data=(), **problems):
    values = make_config(folder, data=PATH | dict(data)).model_dump()
    return config_from_values(values | {"maths": {"problems": MADE | problems}})


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(numbers):
    return [
        {
            "problem": f"Ann has {n} apples and buys {n + 1}. How many?",
            "solution": f"${n}+{n + 1}={2 * n + 1}$",
            "answer": f"{2 * n + 1}",
            "level": 1 + n % 3,
        }
        for n in numbers
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    config = made_config(folder)
    return config, make_data(config, folder)


def test_the_split_is_the_one_that_was_made(made):
    config, data = made
    sets = make_problems(config.maths.problems, config.seed)
    assert data.problems(TRAIN) == sets.train
    assert data.problems(HELD_OUT) == sets.held_out
    assert data.manifest["corpus"]["near_duplicates"] == 0
    assert [each.prompt[0].content for each in data.prompts("evaluation")] == [each.problem for each in sets.held_out]


def test_a_window_is_a_problem_and_its_solution_in_their_order(made):
    _, data = made
    for problem, prompt in zip(data.problems(TRAIN), data.prompts("train"), strict=True):
        assert [each.content for each in prompt.messages] == [problem.problem, problem.solution]


def test_digits_stand_apart_in_the_tokenizers_that_ask_for_it(tmp_path):
    values = made_config(tmp_path).model_dump()
    values["teacher"]["build"] |= {"digits": "apart"}
    values["student"]["build"] |= {"vocab_size": 380}
    apart = make_data(config_from_values(values), tmp_path)
    digits = [token for token in apart.teacher_tokenizer.get_vocab() if sum(map(str.isdigit, token)) > 1]
    assert digits == []
    assert any(sum(map(str.isdigit, token)) > 1 for token in apart.student_tokenizer.get_vocab())
    together = make_data(made_config(tmp_path), tmp_path)
    assert together.key != apart.key


def test_the_loss_is_on_the_solution_alone(made):
    _, data = made
    problem, tokenizer = data.problems(TRAIN)[0], data.student_tokenizer
    ids, counted = data.train.student_ids[0], data.train.labels([0])[0]
    text = tokenizer.decode(ids[counted[: len(ids)]])
    assert text == problem.solution + "<|im_end|>"


def test_problems_lie_beside_the_windows(made):
    _, data = made
    names = {path.name for path in (data.folder / "problems").iterdir()}
    assert names == {f"{TRAIN}.jsonl", f"{HELD_OUT}.jsonl"}
    row = json.loads((data.folder / "problems" / f"{HELD_OUT}.jsonl").read_text().splitlines()[0])
    assert row.keys() == Problem.__dataclass_fields__.keys()


def test_kinds_that_are_never_trained_on_are_kept_too(tmp_path):
    kinds = {"templates": ["linear_equation", "linear_equation_with_brackets"], "num_held_out_templates": 5}
    config = made_config(tmp_path, levels=[2], held_out_templates=["linear_equation_with_brackets"], **kinds)
    data = make_data(config, tmp_path)
    assert {each.template for each in data.problems(TRAIN)} == {"linear_equation"}
    assert [each.template for each in data.problems(HELD_OUT_TEMPLATES)] == ["linear_equation_with_brackets"] * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation_path": "a.jsonl"}, r"data\.evaluation_path: expected null.*maths\.problems\.num_held_out"),
        ({"subset_size": 5}, r"data\.subset_size: expected null.*maths\.problems\.num_problems"),
        ({"format": "text"}, r"data\.format: expected auto or problems"),
        ({"sources": {"a": "python-docs"}}, r"data\.sources: expected none beside"),
    ],
)
def test_settings_that_have_no_meaning_for_made_problems_are_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        made_config(tmp_path, data=changes)


def test_made_problems_are_no_kind_of_text_among_others(tmp_path):
    sources = {"maths": "kdkit-maths", "text": "python-docs"}
    with pytest.raises(UserError, match=r"expected kdkit-maths as data\.path of a run"):
        make_data(make_config(tmp_path, data={"path": "python-docs", "sources": sources}), tmp_path)


def test_a_problem_file_is_seen_by_its_columns(tmp_path):
    path = write_rows(tmp_path / "own.jsonl", rows_of(range(40)))
    data = make_data(make_config(tmp_path, data={"path": path, "max_length": 200}), tmp_path)
    assert len(data.problems(TRAIN)) == len(data.train)
    assert len(data.problems(TRAIN)) + len(data.problems(HELD_OUT)) == 40
    first = data.problems(TRAIN)[0]
    assert data.prompts("train", 1)[0].answer == first.solution == f"{first.steps[0]}\n$\\boxed{{{first.answer}}}$"


def test_held_out_problems_may_be_a_file_of_their_own(tmp_path):
    path = write_rows(tmp_path / "train.jsonl", rows_of(range(20)))
    other = write_rows(tmp_path / "test.jsonl", rows_of(range(20, 25)))
    config = make_config(tmp_path, data={"path": path, "evaluation_path": other, "max_length": 200})
    data = make_data(config, tmp_path)
    assert [each.answer for each in data.problems(HELD_OUT)] == ["41", "43", "45", "47", "49"]


@pytest.mark.parametrize("path", ["kdkit-maths", "file"])
def test_a_template_may_ask_for_the_form_of_the_answer(path, tmp_path):
    asks = {"prompt_template": "{problem} Box the answer.", "format": "problems"}
    if path == "file":
        path = write_rows(tmp_path / "own.jsonl", rows_of(range(20)))
    data = make_data(made_config(tmp_path, data=asks | {"path": path}), tmp_path)
    for problem, prompt in zip(data.problems(TRAIN), data.prompts("train"), strict=True):
        assert prompt.prompt[0].content == f"{problem.problem} Box the answer."


def test_problems_and_plain_conversations_do_not_mix(tmp_path):
    path = write_rows(tmp_path / "train.jsonl", rows_of(range(20)))
    other = write_rows(tmp_path / "chat.jsonl", [{"prompt": f"{n}?", "response": f"{n}."} for n in range(5)])
    config = make_config(tmp_path, data={"path": path, "evaluation_path": other, "max_length": 200})
    with pytest.raises(UserError, match=r"expected maths problems, as data\.path holds, got conversations"):
        make_data(config, tmp_path)


def test_a_json_list_and_a_gsm8k_file_are_problems_where_that_is_said(tmp_path):
    rows = [{"question": each["problem"], "answer": f"So.\n#### {each['answer']}"} for each in rows_of(range(9))]
    path = tmp_path / "gsm8k.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    data = make_config(tmp_path, data={"path": str(path)}).data
    assert load_corpus(data, tmp_path / "cache").has_problems
    lines = make_config(tmp_path, data={"path": write_rows(tmp_path / "gsm8k.jsonl", rows)}).data
    assert not load_corpus(lines, tmp_path / "cache").has_problems
    asked_for = lines.model_copy(update={"format": "problems"})
    corpus = load_corpus(asked_for, tmp_path / "cache")
    assert corpus.has_problems
    assert json.loads(corpus.documents[0])[1] == ["assistant", "So.\n$\\boxed{1}$"]


def test_faults_of_a_file_are_named_as_those_of_the_data(tmp_path):
    path = write_rows(tmp_path / "own.jsonl", [*rows_of(range(5)), {"problem": "x", "answer": ""}])
    config = make_config(tmp_path, data={"path": path})
    with pytest.raises(UserError, match=r"data\.path: line 6 of .*own\.jsonl.*data\.bad_rows=skip"):
        make_data(config, tmp_path)
    corpus = load_corpus(config.data.model_copy(update={"bad_rows": "skip"}), tmp_path / "cache")
    assert corpus.rows_left_out == {"empty answer": 1}


def test_a_text_file_is_no_problem_file(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    config = make_config(tmp_path, data={"path": str(tmp_path / "a.txt"), "format": "problems"})
    with pytest.raises(UserError, match=r"data\.path: expected a \.jsonl or \.json file of problems"):
        make_data(config, tmp_path)


def test_a_problem_longer_than_the_context_is_left_out_and_counted(tmp_path, capsys):
    rows = rows_of(range(40))
    for row in rows[::10]:
        row["solution"] = "Word by word. " * 200
    config = make_config(tmp_path, data={"path": write_rows(tmp_path / "own.jsonl", rows), "max_length": 150})
    data = make_data(config, tmp_path)
    left_out = sum(sum(data.manifest[split]["conversations_left_out"].values()) for split in ("train", "evaluation"))
    assert left_out == 4
    assert len(data.problems(TRAIN)) == len(data.train)
    assert all("Word" not in each.solution for each in data.problems(TRAIN))
    assert "longer than a sequence, data.max_length" in capsys.readouterr().out


LONG = (
    "A farmer has {a} cows and {b} sheep on a large field behind the old house by the river and sells {c} cows at the "
    "market on a cold morning in winter while his daughter counts what is left. How many animals are there?"
)


def documents_of(*numbers):
    return [as_document(Problem("x", LONG.format(a=a, b=b, c=c), str(a + b - c))) for a, b, c in numbers]


def test_a_problem_with_other_numbers_is_another_problem():
    assert find_repeated(documents_of((10, 20, 3)), documents_of((10, 20, 4), (20, 10, 3))).tolist() == [False, False]


def test_a_problem_is_repeated_with_the_same_numbers_in_nearly_the_same_words():
    held_out, train = documents_of((10, 20, 3)), documents_of((10, 20, 3), (11, 20, 3))
    assert find_repeated(held_out, [train[0].replace("cold", "bright"), train[1]]).tolist() == [True, False]


def test_a_sign_makes_another_problem():
    problems = [as_document(Problem("x", f"Solve $x {sign} 2 = 3$.", "1")) for sign in "+-"]
    assert find_repeated(problems[:1], problems[1:]).tolist() == [False]
    same = as_document(Problem("y", "solve $x+2=3$", "1"))
    assert find_repeated(problems[:1], [same]).tolist() == [True]


def test_levels_stand_in_the_order_of_the_windows(made):
    problems = made[1].problems(TRAIN)
    assert find_levels(problems).tolist() == [each.level for each in problems]
    assert find_levels([replace(problems[0], level=None), problems[1]]).tolist() == [float("inf"), problems[1].level]
    with pytest.raises(UserError, match="expected maths problems with levels for 'level', got problems without any"):
        find_levels([replace(problems[0], level=None)])
