"""What notebook 06 trains, without it."""

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.evaluate.run import open_tasks, task_scorer
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.machine.session import Session
from kdkit.training.together import join_processes


def train_embeddings(session: Session[EmbeddingConfig], resume: bool) -> None:
    """Train what notebook 06 trains, as the first of the processes that were launched."""
    data = prepare_sentences(session, alignment=None)
    tasks = open_tasks(session, data)
    probe_embedding_teacher(session, data)
    distill_all(session, data, task_scorer(session, tasks), resume=resume)
    join_processes(session.hardware)[0].leave()
