"""`python -m kdkit sample`: from a file of conversations to training data that the next training reads."""

import json
import shlex

import pytest
import yaml

from kdkit.cli import app as cli
from kdkit.data.prepare import build_data, open_data
from kdkit.distill import train
from kdkit.distill.open_teacher import open_teacher
from tests.tiny import make_config, make_plan, make_run, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

NUMBERS = "zero one two three four five six seven eight nine ten".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return a folder with conversations, a teacher and a configuration."""
    folder = tmp_path_factory.mktemp("sample")
    pairs = [(NUMBERS[i % 10], NUMBERS[i % 10 + 1]) for i in range(40)]
    rows = [
        {"question": f"What follows {one} in row {i}?", "said": f"It is {next_one}. " * (1 + i % 3)}
        for i, (one, next_one) in enumerate(pairs)
    ]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changes = {
        "data": {
            "path": str(folder / "chats.jsonl"),
            "answer_column": "said",
            "max_length": 96,
            "near_duplicates": "keep",
        },
        "sampling": {"num_samples": 2, "max_new_tokens": 6, "batch_size": 8, "scorer": "rouge_l", "max_prompts": 20},
    }
    config = make_config(folder, **changes)
    data = open_data(build_data(config, folder / "cache"))
    changes["teacher"] = {"path": str(save_teacher(data, folder / "teacher"))}
    values = make_config(folder, **changes).model_dump(exclude_defaults=True) | {"cache_dir": str(folder / "cache")}
    (folder / "chats.yaml").write_text(yaml.safe_dump(values))
    return folder


def call(*words: str, capsys) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    captured = capsys.readouterr()
    return ended.value.code, captured.out + captured.err


def test_the_best_answers_become_the_text_of_the_next_training(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "sample", str(project / "chats.yaml"), "--output", "best.jsonl", "--runs-dir", str(tmp_path / "runs")
    code, said = call(*words, capsys=capsys)
    assert code == 0, said
    assert "40 answers to 20 prompts" in said
    rows = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert rows and {tuple(m["role"] for m in row["messages"]) for row in rows} == {("user", "assistant")}
    assert all(row["num_samples"] == 2 and isinstance(row["score"], float) for row in rows)
    held_out = [json.loads(line) for line in (tmp_path / "best.held_out.jsonl").read_text().splitlines()]
    assert all(row["messages"][-1]["content"].startswith("It is") for row in held_out)
    command = shlex.split(next(line for line in said.splitlines() if line.startswith("train on them:")))
    settings = dict(word.split("=", 1) for word in command if word.startswith("data."))
    assert settings == {
        "data.path": "best.jsonl",
        "data.evaluation_path": "best.held_out.jsonl",
        "data.answer_column": "null",
    }
    config = yaml.safe_load((project / "chats.yaml").read_text())
    config["data"] |= {name.removeprefix("data."): value for name, value in settings.items()} | {"answer_column": None}
    config = make_config(tmp_path, **config)
    data = open_data(build_data(config, project / "cache"))
    assert [each.answer for each in data.prompts("train")] == [row["messages"][-1]["content"] for row in rows]
    assert [each.answer for each in data.prompts("evaluation")] == [row["messages"][-1]["content"] for row in held_out]
    run = make_run(tmp_path, "trained")
    plan = make_plan(config, run, data)
    train.distill(plan, open_teacher(plan))
    assert (run.path / "student" / "model.safetensors").is_file()
    code, said = call(*words, capsys=capsys)
    assert code == 0 and "complete" in said


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("sampling.scorer=rouge", "sampling.scorer: expected teacher_logprob"),
        ("sampling.scorer=python:nowhere:score", "expected the Python module 'nowhere' to be importable"),
        ("data.path=FOLDER/corpus.txt", "sampling: expected conversations"),
    ],
)
def test_a_mistake_is_one_line(project, tmp_path, capsys, setting, what):
    extra = ["-p", "data.answer_column=null", "-p", "data.subset_size=40"] if setting.startswith("data") else []
    runs = ["--runs-dir", str(tmp_path / "runs")]
    code, said = call(
        "sample",
        str(project / "chats.yaml"),
        "-p",
        setting.replace("FOLDER", str(project)),
        *extra,
        *runs,
        capsys=capsys,
    )
    assert code == 2 and what in said.splitlines()[-1]
