"""A sweep of embedding models, once: one cache, runs that notebooks open, a report of scores, a second call."""

import json
from pathlib import Path

import pytest
import yaml

from kdkit import cli
from kdkit.config.embeddings import load_embedding_config
from kdkit.runs.folder import Run
from kdkit.runs.open_run import open_embedding_run
from kdkit.workflow.several import embedding_trial, processes
from kdkit.workflow.several.compare import compare_runs
from kdkit.workflow.several.variants import as_override, load_sweep
from tests.embedders import save_teacher, write_sentences

ROOT = Path(__file__).resolve().parents[2]
VARIANTS = {
    "cosine": {"method": "cosine"},
    "faster": {"method": "cosine", "train.learning_rate": 1e-2},
    "relations": {"method": {"name": "rkd", "task_weight": 0.1}},
}
RUNS = [f"{name}-seed-{seed}" for seed in (0, 1) for name in VARIANTS]

pytestmark = pytest.mark.usefixtures("one_thread")


def call(path, *options):
    """Call the command; return its exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["sweep", str(path), "--runs-dir", f"{path.parent}/runs", *options])
    return stop.value.code


def write_sweep(folder, **changes):
    """Write a small configuration, its teacher, sentences and task, and a sweep of it; return the sweep's file."""
    save_teacher(folder / "teacher")
    write_sentences(folder / "plain.csv")
    pairs = "the cat sat,a cat ran,3\nblue tree,red house,1\nit was big,it was big,5\nquick dog,slow dog,2\n"
    (folder / "sts.csv").write_text(f"sentence1,sentence2,score\n{pairs}")
    config = {
        "method": "stella",
        "compare": ["leaf"],
        "cache_dir": str(folder / "cache"),
        "data": {"path": str(folder / "plain.csv"), "max_length": 16, "evaluation_fraction": 0.2},
        "teacher": {"path": str(folder / "teacher")},
        "student": {"layers": [0, 3]},
        "train": {"batch_size": 8, "max_steps": 3, "warmup_steps": 0},
        "evaluate": {"tasks": [{"name": "tiny", "kind": "sts", "path": str(folder / "sts.csv")}]},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(config))
    values = {"config": "base.yaml", "seeds": [0, 1], "reference": "cosine", "variants": VARIANTS} | changes
    path = folder / "few.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Sweep three variants over two seeds; return the sweep's file."""
    path = write_sweep(tmp_path_factory.mktemp("sweep"))
    assert call(path) == 0
    return path


@pytest.fixture
def folder(finished):
    return finished.parent / "runs" / "few"


def average(run):
    """Return the average of a run's student, from its own evaluation."""
    models = run.read_json("evaluation.json")["models"]
    return next(entry["average"] for entry in models.values() if entry["role"] == "student")


def test_every_variant_and_seed_is_a_run_of_its_method_alone(folder):
    for name in RUNS:
        config, run = open_embedding_run(folder / name / "config.yaml", "", name, folder)
        assert config.seed == int(name[-1]) and config.compare == []
        assert list(run.read_json("training.json")) == [str(config.method)]
        assert (run.path / "report.html").is_file() and (run.path / "student" / "modules.json").is_file()
    assert config.method.name == "rkd" and config.method.task_weight == 0.1


def test_a_seed_asks_the_teacher_once_for_all_variants(finished):
    cache = finished.parent / "cache"
    assert len(list((cache / "sentences").iterdir())) == len(list((cache / "embeddings").iterdir())) == 2


def test_the_summary_holds_the_scores_of_the_runs_and_an_interval_over_the_rows(folder):
    summary = json.loads((folder / "sweep.json").read_text())
    assert summary["measure"]["name"] == "points"
    levels = {entry["name"]: entry["levels"] for entry in summary["variants"]}
    for name in RUNS:
        assert levels[name[:-7]][int(name[-1])] == average(Run(folder / name, folder))
    difference = summary["variants"][2]["difference"]
    assert difference["per_seed"] == [a - b for a, b in zip(levels["relations"], levels["cosine"], strict=True)]
    low, high = difference["interval_95_over_text"]
    assert low <= difference["mean"] <= high


def test_the_report_speaks_of_scores(folder):
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for written in (page, text):
        assert "student before its first step" in written and "bits per byte" not in written
    assert "relations" in text and (folder / "variants.png").is_file()


def test_runs_of_a_sweep_can_be_compared(folder):
    compared = compare_runs(["cosine-seed-0", "relations-seed-0"], folder)
    assert compared["kind"] == "embeddings" and compared["runs"][1]["difference_interval_95"] is not None


def test_a_second_call_trains_nothing(finished, monkeypatch, capsys):
    monkeypatch.setattr(processes, "train_one", lambda *_: pytest.fail("something was trained"))
    assert call(finished) == 0
    assert capsys.readouterr().out.count("finished before, inputs unchanged, skipped") == 6


def test_a_run_that_fails_is_made_by_the_same_command_later(finished, folder, monkeypatch, capsys):
    (folder / "faster-seed-1" / "trial.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(embedding_trial, "distill_all", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("no memory")))
        assert call(finished) == 1
    assert "variant 'faster', seed 1: no memory; 1 of 6 runs failed" in capsys.readouterr().err
    assert json.loads((folder / "sweep.json").read_text())["variants"][1]["levels"][1] is None
    assert call(finished) == 0
    assert "faster: trained before, kept" not in capsys.readouterr().err
    assert json.loads((folder / "sweep.json").read_text())["variants"][1]["levels"][1] is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": {"cosine": {}, "b": {"method": "stela"}}}, "did you mean 'stella'?"),
        ({"variants": {"cosine": {}, "b": {"compare": ["rkd"]}}}, "expected section.key, such as router.kind"),
        ({"variants": {"cosine": {}, "b": {"train.learning_rat": 1}}}, "did you mean 'train.learning_rate'?"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_trained(tmp_path, capsys, changes, words):
    assert call(write_sweep(tmp_path, **changes)) == 2
    said = capsys.readouterr().err
    assert said.startswith("kdkit: ") and said.count("\n") == 1 and words in said
    assert not (tmp_path / "runs").exists()


def test_a_sweep_is_not_launched_in_several_processes(finished, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(finished) == 2
    assert "sweep: expected one process, got 2" in capsys.readouterr().err


def test_the_shipped_sweep_is_one_of_embedding_models():
    loaded = load_sweep(str(ROOT / "configs" / "ablation_embedding.yaml"))
    variants = loaded.variants.items()
    changes = [[*(as_override(*item) for item in of.items()), "compare=[]"] for _, of in variants]
    configs = [load_embedding_config(loaded.config, change) for change in changes]
    assert len({str(config) for config in configs}) == len(variants)
