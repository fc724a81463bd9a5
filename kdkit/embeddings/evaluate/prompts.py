"""Which prompt a model reads before the queries and documents of a task."""

from kdkit.embeddings.models.places import choose_prompt
from kdkit.embeddings.models.pooling import Reading

ROLES = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""What models call the prompts of queries and documents, as sentence-transformers looks for them."""


def find_prompt(reading: Reading, wanted: str) -> str:
    """Return the text that a model reads before texts of a task.

    Args:
        wanted: a prompt's name or text; `query` and `document` are the model's own, where it has them; empty: what it
            always reads.

    Raises:
        UserError: see `choose_prompt`.
    """
    for name in (wanted, *ROLES.get(wanted, ())):
        if name in reading.prompts:
            return reading.prompts[name]
    if not wanted or wanted in ROLES:
        return reading.prompt
    return choose_prompt(wanted, reading.prompts, "evaluate.tasks")
