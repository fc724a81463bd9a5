"""One variant of an embedding model with one seed, trained and scored as notebook 06 does; for a sweep."""

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.evaluate.run import SCORES, evaluate_embedding_run, open_tasks, task_scorer
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.evaluate.sweeps.comparison import ScoreTrial
from kdkit.machine.session import Session
from kdkit.report.embeddings.page import write_embedding_report

TRAINING = (
    "kdkit.embeddings.data.prepare",
    "kdkit.embeddings.evaluate.run",
    "kdkit.embeddings.teacher.probe",
    "kdkit.embeddings.training.train",
)
"""What decides a figure; see `kdkit.workflow.several.trial.TRAINING`."""


def train_embedding_trial(session: Session[EmbeddingConfig], resume: bool) -> ScoreTrial:
    """Train, score and report on one run; the sentences and the teacher's answers are shared through the cache.

    Args:
        resume: go on with a training that was stopped.

    Raises:
        UserError: see `distill_all` and `evaluate_embedding_run`.
    """
    run = session.run
    data = prepare_sentences(session, None)
    tasks = open_tasks(session, data)
    probe_embedding_teacher(session, data)
    name, training = next(iter(distill_all(session, data, task_scorer(session, tasks), resume=resume).items()))
    models = evaluate_embedding_run(session, data, tasks)["models"]
    write_embedding_report(run)
    return ScoreTrial(
        teacher=models["teacher"].get("average"),
        baseline=models["untrained"]["average"],
        student=models[name]["average"],
        seconds=training["seconds"],
        steps=training["steps"],
        resamples=[sum(draw) / len(draw) for draw in zip(*run.read_json(SCORES)["tasks"].values(), strict=True)],
        parameters=training.get("parameters"),
    )
