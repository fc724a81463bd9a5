"""Which prompt a model reads before the queries and documents of a task."""

from dataclasses import replace

from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.pooling import Reading
from kdkit.errors import UserError

ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""What models call the prompts of queries and documents, as sentence-transformers looks for them."""


def find_prompt(reading: Reading, wanted: str) -> str:
    """Return the text that a model reads before texts of a task.

    Args:
        wanted: a prompt's name or text; `query` and `document` are the model's own, where it has them; empty: what it
            always reads.

    Raises:
        UserError: a name that differs from one of the model's in its case alone.
    """
    for name in (wanted, *ROLES.get(wanted, ())):
        if name in reading.prompts:
            return reading.prompts[name]
    if not wanted or wanted in ROLES:
        return reading.prompt
    if alike := [name for name in reading.prompts if name.casefold() == wanted.casefold()]:
        raise UserError(
            f"evaluate.tasks: expected a prompt's text or one of {', '.join(reading.prompts)}, got {wanted!r}; "
            f"write {alike[0]!r}"
        )
    return wanted


def with_prompt(model: EmbeddingModel, prompt: str) -> EmbeddingModel:
    """Return the model as it reads behind another prompt; both share their weights."""
    if prompt == model.reading.prompt:
        return model
    reading = replace(model.reading, prompt=prompt)
    return EmbeddingModel(model.backbone, model.tokenizer, reading, model.head).train(model.training)
