"""A model of which nothing but vectors is known, in the evaluation."""

from typing import Any

from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.measures import Vectors, texts_of
from kdkit.embeddings.teacher.vectors import TextVectors


def look_up(file: TextVectors, tasks: list[TaskData]) -> Vectors:
    """Look up every distinct text of the tasks once; it was read when the file was made, so no prompt changes it."""
    prompted = texts_of(tasks)
    texts = list(dict.fromkeys(text for _, text in prompted))
    number = {text: place for place, text in enumerate(texts)}
    return Vectors(file.of(texts, "texts"), {pair: number[pair[1]] for pair in prompted})


def describe_vectors(file: TextVectors) -> dict[str, Any]:
    """Describe a model of which nothing but vectors is known."""
    known = {"width": file.width, "pooling": "", "normalize": True, "prompt": "", "device": "a file"}
    unknown = ("parameters", "size_bytes", "num_layers", "max_length", "precision", "sentences_per_second")
    return known | dict.fromkeys(unknown)
