"""A model of which nothing but vectors is known, in the evaluation."""

from typing import Any

from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.measures import Vectors, texts_of
from kdkit.embeddings.teacher.vectors import TextVectors


def look_up(file: TextVectors, tasks: list[TaskData]) -> Vectors:
    """Look up every distinct text of the tasks once."""
    texts = list(dict.fromkeys(texts_of(tasks)))
    return Vectors(file.of(texts, "texts"), {text: place for place, text in enumerate(texts)})


def describe_vectors(file: TextVectors) -> dict[str, Any]:
    """Describe a model of which nothing but vectors is known."""
    known = {"width": file.width, "pooling": "", "normalize": True, "prompt": "", "device": "a file"}
    unknown = ("parameters", "size_bytes", "num_layers", "max_length", "precision", "sentences_per_second")
    return known | dict.fromkeys(unknown)
