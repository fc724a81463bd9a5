"""The verb `mteb`: the real package on tasks that are built here, beside our own scores."""

import json

import numpy as np
import pytest

from kdkit.config.tasks import Task
from kdkit.embeddings.data.sentences import Sentences
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.by_mteb import find_mteb_tasks
from kdkit.embeddings.evaluate.models import score_tasks
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.workflow.vectors.mteb import MtebRequest, run_mteb, score_run
from tests.embedders import WORDS, save_teacher

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
    headings, rows = score_run(run, [tiny_task], ["student"])
    (row,) = rows
    assert headings[3:5] == ["by mteb", "by kdkit"]
    assert row[:3] == ["Tiny", "student", "cosine_spearman"] and row[3] == row[4]
    assert float(row[3]) != 0.0
    kept = run.read_json("mteb.json")["student"]["Tiny"]
    ours = run.read_json("evaluation.json")["models"]["cosine"]["tasks"]["Tiny"]["main"]
    assert kept["main"] == pytest.approx(ours, abs=1e-3)


def test_names_are_looked_up_and_mistakes_answered_in_one_line(run):
    assert [task.metadata.name for task in find_mteb_tasks(["STSBenchmark"])] == ["STSBenchmark"]
    for names, words in (([], "got none"), (["STSBenchmrk"], "did you mean STSBenchmark")):
        with pytest.raises(UserError, match=words) as caught:
            find_mteb_tasks(names)
        assert "\n" not in str(caught.value)
    request = MtebRequest(run.path.name, ["STSBenchmark"], ["baseline"], str(run.path.parent))
    with pytest.raises(UserError, match="expected student or teacher, got 'baseline'"):
        run_mteb(request)
