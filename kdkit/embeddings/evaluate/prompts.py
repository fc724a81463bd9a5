"""Which prompt a model reads before the queries and documents of a task."""

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.models.late import DOCUMENT
from kdkit.embeddings.models.places import NAME_OF_PROMPT, choose_prompt, resolve_embedding_path
from kdkit.embeddings.models.pooling import Reading, read_reading
from kdkit.errors import UserError

ROLES = {"query": ("query",), "document": DOCUMENT}
"""What models call the prompts of queries and documents."""

RANKED = ("retrieval", "reranking")
"""Kinds of tasks whose texts have prompts."""
KEY = "evaluate.tasks"


def find_prompt(reading: Reading, wanted: str) -> str:
    """Return the text that a model reads before texts of a task.

    Args:
        wanted: a prompt's name or text; `query` and `document` are the model's own, where it has them; empty: what it
            always reads. A name is no text: a model that does not have it, such as a student that was trained without,
            reads what it always reads.

    Raises:
        UserError: see `choose_prompt`.
    """
    named = [reading.prompts[name] for name in (wanted, *ROLES.get(wanted, ())) if name in reading.prompts]
    if named:
        return next(filter(None, named), "")  # see `DOCUMENT`
    if not wanted or wanted in ROLES:
        return reading.prompt
    text = choose_prompt(wanted, reading.prompts, KEY)
    return reading.prompt if _is_name(wanted, reading) else text


def _is_name(wanted: str, reading: Reading) -> bool:
    """Return whether a prompt is given by its name, not as a text."""
    return NAME_OF_PROMPT.fullmatch(wanted) is not None and wanted not in reading.prompts.values()


def check_prompts(config: EmbeddingConfig) -> None:
    """Refuse a prompt of a task that the teacher does not have, before anything is trained.

    Raises:
        UserError: see `find_prompt`; a name that it does not have.
    """
    teacher = config.teacher
    ranked = [task for task in config.evaluate.tasks if task.kind in RANKED]
    if teacher.vectors is not None or not ranked:
        return
    reading = read_reading(
        resolve_embedding_path(teacher.path, "teacher.path"), "teacher.path", revision=teacher.revision
    )
    for task in ranked:
        for key, wanted in (("query_prompt", task.query_prompt), ("document_prompt", task.document_prompt)):
            find_prompt(reading, wanted)
            if wanted not in (*ROLES, *reading.prompts) and _is_name(wanted, reading):
                own = ", ".join(reading.prompts) or "none"
                raise UserError(
                    f"evaluate.tasks.{task.name}.{key}: expected a text, or the name of one of the prompts of "
                    f"{teacher.path!r} ({own}), got {wanted!r}; end a text with a colon or space, or leave {key} out"
                )
