"""The verb `mteb`: the real package on tasks that are built here, beside our own scores."""

import json

import numpy as np
import pytest

from kdkit.config.tasks import Task
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.data.sentences import Sentences
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.by_mteb import find_mteb_tasks, score_run
from kdkit.embeddings.evaluate.models import score_tasks
from kdkit.embeddings.evaluate.run import evaluate_embedding_run
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.errors import UserError
from kdkit.report.embeddings.page import write_embedding_report
from kdkit.report.embeddings.tables import mteb_table
from kdkit.runs.folder import Run
from kdkit.runs.open_run import open_embedding_run
from kdkit.workflow.vectors.mteb import MtebRequest, run_mteb
from tests.embedders import WORDS, make_session, save_teacher

mteb = pytest.importorskip("mteb", reason='needs the package mteb: pip install "kdkit[mteb]"')
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pairs():
    """Thirty pairs of sentences and their scores."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(3, 9))) for _ in range(60)]
    return texts[:30], texts[30:], draw.uniform(0, 5, size=30).round(2).tolist()


@pytest.fixture(scope="module")
def tiny_task(pairs):
    """A task of mteb that needs no hub."""
    import datasets
    from mteb.abstasks import AbsTaskSTS

    class Tiny(AbsTaskSTS):
        """Pairs of random words."""

        metadata = mteb.TaskMetadata(
            name="Tiny",
            dataset={"path": "by-hand", "revision": "0123456789abcdef"},
            description="-",
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )

        def load_data(self, **kwargs):
            """Hand the pairs over."""
            columns = dict(zip(("sentence1", "sentence2", "score"), pairs, strict=True))
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(columns)})
            self.data_loaded = True

    return Tiny()


@pytest.fixture(scope="module")
def run(tmp_path_factory, pairs):
    """A run with a student and our own scores of the same pairs."""
    path = tmp_path_factory.mktemp("runs") / "small"
    save_teacher(path / "student")
    (path / "config.yaml").write_text("method: cosine\n")
    first, second, scores = pairs
    task = TaskData(
        Task(name="Tiny", kind="sts", path="-"), Sentences(first, second, None, scores, "by hand", ""), None
    )
    model = load_embedding_model(str(path / "student"), "student.path")
    ours = score_tasks(model, [task], batch_size=8, bootstrap_samples=100, seed=0)
    (path / "evaluation.json").write_text(json.dumps({"models": {"cosine": {"role": "student", "tasks": ours}}}))
    return Run(path, path)


def test_both_evaluators_give_one_score(run, tiny_task):
    results = score_run(run, [tiny_task], ["student"], "--tasks")
    headings, rows = mteb_table(results, run.read_json("evaluation.json"))
    (row,) = rows
    assert headings[3:5] == ["by mteb", "by kdkit"]
    assert row[:3] == ["Tiny", "student", "cosine_spearman"] and row[3] == row[4]
    assert float(row[3]) != 0.0
    kept = run.read_json("mteb.json")["student"]["Tiny"]
    ours = run.read_json("evaluation.json")["models"]["cosine"]["tasks"]["Tiny"]["main"]
    assert kept["main"] == pytest.approx(ours, abs=1e-3)


def test_the_setting_scores_student_and_teacher_in_the_evaluation(tmp_path, tiny_task, pairs, monkeypatch):
    import kdkit.embeddings.evaluate.run as stage

    monkeypatch.setattr(stage, "find_mteb_tasks", lambda names, key: [tiny_task] * (names == ["Tiny"]))
    first, second, _ = pairs
    save_teacher(tmp_path / "teacher")
    (tmp_path / "lines.txt").write_text("\n".join(first + second))
    lines = [f"{a},{b},{score}" for a, b, score in zip(*pairs, strict=True)]
    (tmp_path / "tiny.csv").write_text("\n".join(["sentence1,sentence2,score", *lines]))
    values = [
        f"data={{path: {tmp_path / 'lines.txt'}, decontaminate: false, max_length: 16}}",
        f"teacher.path={tmp_path / 'teacher'}",
        f"cache_dir={tmp_path / 'cache'}",
        "student.layers=[0,3]",
        "train={per_device_train_batch_size: 8, max_steps: 1}",
        f"evaluate={{tasks: [{{name: Tiny, kind: sts, path: {tmp_path / 'tiny.csv'}}}], mteb: [Tiny]}}",
    ]
    (tmp_path / "run.yaml").write_text("method: cosine\n")
    config, run = open_embedding_run(str(tmp_path / "run.yaml"), values, "small", str(tmp_path / "runs"))
    session = make_session(config, run)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    distill_all(session, data)
    evaluate_embedding_run(session, data, stage.open_tasks(session, data))
    _, rows = mteb_table(run.read_json("mteb.json"), run.read_json("evaluation.json"))
    assert [row[1] for row in rows] == ["student", "teacher"]
    assert all(row[3] == row[4] for row in rows) and rows[0][3] != rows[1][3]
    write_embedding_report(run)
    assert "Scores by mteb" in (run.path / "report.md").read_text()


def test_names_are_looked_up_and_mistakes_answered_in_one_line(run):
    assert [task.metadata.name for task in find_mteb_tasks(["STSBenchmark"], "--tasks")] == ["STSBenchmark"]
    for names, words in (([], "got none"), (["STSBenchmrk"], "did you mean STSBenchmark")):
        with pytest.raises(UserError, match=words) as caught:
            find_mteb_tasks(names, "evaluate.mteb")
        assert "\n" not in str(caught.value) and str(caught.value).startswith("evaluate.mteb: expected")
    request = MtebRequest(run.path.name, ["STSBenchmark"], ["baseline"], str(run.path.parent))
    with pytest.raises(UserError, match="expected student or teacher, got 'baseline'"):
        run_mteb(request)
