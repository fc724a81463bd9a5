"""The verb `lm-eval`: the real harness on local files, against log-probabilities that plain torch computes."""

import json
import math

import pytest
import torch

from kdkit.distill import train as stage
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import load_students
from kdkit.evaluate.harness.compare import TaskScores, compare_models
from kdkit.evaluate.harness.score import Asking, score_model, score_run
from kdkit.evaluate.harness.tasks import open_tasks
from kdkit.report.measures.harness import harness_table, run_harness_table
from kdkit.workflow.evaluators.harness import HarnessRequest, run_harness
from tests.tiny import make_config, make_data, make_plan, make_run, make_session, make_teacher, save_teacher

pytest.importorskip("lm_eval", reason='needs the package lm_eval: pip install "kdkit[lm-eval]"')
pytestmark = pytest.mark.usefixtures("one_thread")

QUESTIONS = [
    {
        "question": f"the quick fox {number}",
        "choices": [" jumps over", " a lazy dog while", " boxed"],
        "label": number % 3,
    }
    for number in range(8)
]
TEXTS = [{"text": "seven wizards boxed quietly under old trees " * (1 + number % 3)} for number in range(8)]
HEAD = "dataset_path: json\ntest_split: test\ndataset_kwargs: {data_files: {test: %s.jsonl}}\n"
CHOICE = """output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: word_perplexity}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tasks with their data beside them, and the copy of one that Jupyter keeps."""
    place = tmp_path_factory.mktemp("tasks")
    (place / ".ipynb_checkpoints").mkdir()
    (place / ".ipynb_checkpoints" / "choice-checkpoint.yaml").write_text(f"task: older\n{HEAD % 'choice'}{CHOICE}")
    for name, rows, rest in (("choice", QUESTIONS, CHOICE), ("rolling", TEXTS, ROLLING)):
        (place / f"{name}.yaml").write_text(f"task: {name}\n{HEAD % name}{rest}")
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run after notebook 03, whose teacher is a mixture of experts."""
    place = tmp_path_factory.mktemp("harness")
    changes = {"distill": {"equal_time_baseline": False}}
    data = make_data(make_config(place, **changes), place)
    config = make_config(place, **changes, teacher={"path": str(save_teacher(data, place / "teacher")), "build": {}})
    run = make_run(place)
    stage.distill(make_plan(config, run, data), make_teacher(data))
    stage.train_baseline(make_plan(config, run, data))
    session = make_session(config, run)
    return session, data


@pytest.fixture(scope="module")
def results(trained, folder):
    """What both tasks say of all models."""
    return score_run(*trained, open_tasks([str(folder)]), [], Asking())


@torch.no_grad()
def logprob(model, tokenizer, context: str, text: str) -> float:
    """Log-probability of a text after a context; without a context, of the whole text after the start token."""
    whole = tokenizer(context + text, add_special_tokens=False).input_ids
    ids = torch.tensor([whole if context else [tokenizer.eos_token_id, *whole]])
    start = len(tokenizer(context, add_special_tokens=False).input_ids) if context else 1
    rows = model(ids).logits[0, :-1].double().log_softmax(-1)
    return rows.gather(1, ids[0, 1:, None])[start - 1 :].sum().item()


def test_a_choice_is_the_one_that_the_model_finds_likeliest(trained, folder, results):
    session, data = trained
    metrics = results["tasks"]["choice"]["metrics"]
    for name, model in load_students(session).items():
        right = {"acc,none": 0, "acc_norm,none": 0}
        for row in QUESTIONS:
            # the harness reads no start token before a question
            found = [logprob(model, data.student_tokenizer, row["question"], text) for text in row["choices"]]
            per_byte = [value / len(text) for value, text in zip(found, row["choices"], strict=True)]
            for key, values in (("acc,none", found), ("acc_norm,none", per_byte)):
                right[key] += values.index(max(values)) == row["label"]
        assert {key: metrics[key]["models"][name]["value"] for key in right} == {
            key: count / len(QUESTIONS) for key, count in right.items()
        }


def test_the_harness_draws_no_bars_where_nobody_watches(trained, folder, capsys):
    session, data = trained
    asked = open_tasks([str(folder / "choice.yaml")]), Asking(limit=1)
    score_model(load_students(session)["student"], data.student_tokenizer, *asked)
    assert not capsys.readouterr().err


def test_the_bits_of_a_text_are_those_of_plain_torch(trained, results):
    session, data = trained
    for name, model in load_students(session).items():
        nats = sum(-logprob(model, data.student_tokenizer, "", row["text"]) for row in TEXTS)
        num_bytes = sum(len(row["text"].encode()) for row in TEXTS)
        value = results["tasks"]["rolling"]["metrics"]["bits_per_byte,none"]["models"][name]["value"]
        assert value == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_every_model_is_asked_and_compared_in_pairs(trained, results):
    metric = results["tasks"]["rolling"]["metrics"]["bits_per_byte,none"]
    assert list(metric["models"]) == ["teacher", "student", "baseline"] and results["left_out"] == {}
    low, high = metric["differences"]["baseline"]["interval_95"]
    gap = metric["models"]["student"]["value"] - metric["models"]["baseline"]["value"]
    assert metric["differences"]["baseline"]["value"] == pytest.approx(gap) and low <= gap <= high
    widths = [edges[1] - edges[0] for each in metric["models"].values() if (edges := each["interval_95"])]
    assert high - low < max(widths)  # texts that are hard for one are hard for the other
    _, rows = run_harness_table(trained[0].run)
    assert [row[3] for row in rows[:3]] == ["teacher", "student (distilled)", "baseline, equal steps"]
    assert [row[1] for row in rows[::3]] == [
        "acc \u2191",
        "acc_norm \u2191",
        "bits_per_byte \u2193",
        "word_perplexity \u2193",
    ]


def test_scores_are_those_of_the_harness_on_the_saved_folder(trained, folder, results, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    lines = {"choice": "choice.jsonl", "rolling": "rolling.jsonl"}
    for name, data_file in lines.items():  # the harness looks for data in the present folder
        text = (folder / f"{name}.yaml").read_text().replace(f" {data_file}", f" {folder / data_file}")
        (folder / "absolute").mkdir(exist_ok=True)
        (folder / "absolute" / f"{name}.yaml").write_text(text)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # lists packages for seven seconds
    manager = TaskManager(include_path=str(folder / "absolute"), include_defaults=False)
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(trained[0].run.path / "student"), "dtype": "float32"},
        tasks=list(lines),
        device="cpu",
        batch_size=4,
        task_manager=manager,
        bootstrap_iters=0,
    )
    for task, entry in results["tasks"].items():
        for key, metric in entry["metrics"].items():
            assert metric["models"]["student"]["value"] == pytest.approx(found["results"][task][key], rel=1e-5)


def test_the_limit_and_the_models_are_those_that_were_asked_for(trained, folder):
    tasks = open_tasks([str(folder / "choice.yaml")])
    found = score_run(*trained, tasks, ["student"], Asking(limit=3, num_fewshot=0))
    assert list(found["tasks"]) == ["choice"] and found["tasks"]["choice"]["num_documents"] == 3
    assert list(found["tasks"]["choice"]["metrics"]["acc,none"]["models"]) == ["student"]
    assert "rolling" in trained[0].run.read_json("lm_eval.json")["tasks"]  # what was found before stays
    assert {row[3] for row in harness_table(found)[1]} == {"student (distilled)"}


def test_a_teacher_that_is_no_model_of_transformers_is_named_and_left_out(trained, folder, monkeypatch, capsys):
    import kdkit.evaluate.harness.score as score
    from kdkit.teachers.interface import TextTeacher

    monkeypatch.setattr(score, "prepare_teacher", lambda *_: TextTeacher())
    tasks = open_tasks([str(folder / "choice.yaml")])
    found = score_run(*trained, tasks, [], Asking(limit=2))
    assert list(found["left_out"]) == ["teacher"] and "TextTeacher" in capsys.readouterr().out
    with pytest.raises(UserError, match="name student"):
        score_run(*trained, tasks, ["teacher"], Asking(limit=2))


def test_mistakes_are_answered_in_one_line(trained, folder, tmp_path, monkeypatch):
    session, data = trained
    (tmp_path / "empty.yaml").write_text(f"task: empty\n{HEAD % 'missing'}{CHOICE}")
    (tmp_path / "odd.yaml").write_text("doc_to_text: hm\n")
    (tmp_path / "plain").mkdir()
    cases = {
        "got none; name some": [],
        "which does not exist; name another": ["missing.yaml"],
        "a folder without any": [str(tmp_path / "plain")],
        "put them beside the file": [str(tmp_path / "empty.yaml")],
        "Unknown config shape": [str(tmp_path / "odd.yaml")],
    }
    for words, names in cases.items():
        with pytest.raises(UserError, match=words) as caught:
            open_tasks(names)
        assert "\n" not in str(caught.value) and str(caught.value).startswith("--tasks: expected")
    tasks = open_tasks([str(folder / "choice.yaml")])
    with pytest.raises(UserError, match="expected some of teacher, student, baseline, got 'pupil'"):
        score_run(session, data, tasks, ["pupil"], Asking())
    with pytest.raises(UserError, match="chat template"):
        score_model(load_students(session)["student"], data.student_tokenizer, tasks, Asking(as_chat=True))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'kdkit\[lm-eval\]'"):
        open_tasks(["hellaswag"])
    with pytest.raises(UserError, match="RUN: expected a run"):
        run_harness(HarnessRequest("any", ["hellaswag"], [], Asking(), str(tmp_path)))


def scores(values: list[float], aggregate) -> TaskScores:
    return TaskScores("t", {"m,none": aggregate(values)}, {"m,none": values}, {"m,none": aggregate}, {}, 0, 1)


def test_a_constant_difference_has_no_width_whatever_the_figure():
    for aggregate in (lambda items: sum(items) / len(items), lambda items: 2 * sum(items) / len(items)):
        first = [0.1 * i for i in range(20)]
        both = {"student": [scores([value + 1 for value in first], aggregate)], "baseline": [scores(first, aggregate)]}
        metric = compare_models(both, "student", 0)["t"]["metrics"]["m,none"]["differences"]["baseline"]
        assert metric["interval_95"] == pytest.approx((metric["value"], metric["value"]))


def test_a_figure_that_documents_do_not_add_up_to_has_no_interval():
    odd = TaskScores("t", {"m,none": 7.0}, {"m,none": [0.0, 1.0]}, {"m,none": max}, {}, 0, 1)
    metric = compare_models({"student": [odd]}, "student", 0)["t"]["metrics"]["m,none"]
    assert metric["models"]["student"]["interval_95"] is None
