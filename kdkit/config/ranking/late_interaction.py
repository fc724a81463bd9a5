"""The method of students with a vector for every token, and what a configuration with it must say."""

from collections.abc import Sequence
from typing import Any, Literal

from kdkit.config.method_base import Method, ProjectedMethod
from kdkit.config.tasks import RANKED
from kdkit.config.types import Count, NotNegative, Positive
from kdkit.errors import UserError


class LateInteraction(ProjectedMethod):
    """A vector for every token, queries and documents scored by MaxSim (ColBERT, arXiv 2004.12832); the teacher's
    scores of the documents of a batch, by KL.
    """

    name: Literal["late_interaction"] = "late_interaction"
    width: Count = 128
    """Numbers of a token's vector."""
    score_weight: NotNegative = 1.0
    """Weight of the scores' KL."""
    cosine_weight: NotNegative = 1.0
    """Weight of 1 - cos between the mean of a text's token states and the teacher's vector of it."""
    temperature: Positive = 0.05
    """Of both sides' scores."""
    score: Literal["mean", "sum"] = "mean"
    """Over the query's tokens: the mean has the range of cosines (MeanMaxSim), the sum is ColBERT's."""
    hard_negatives: bool = False
    """Also score hard negatives (`data.negatives`), not only the partners of the batch's rows."""
    query_length: Count = 32
    """Tokens of a query at most."""
    document_length: Count | None = None
    """Tokens of a document at most; null: `data.max_length`."""
    query_prompt: str = ""
    """Text before every query, such as `query: `."""
    document_prompt: str = ""
    """Text before every document."""
    query_expansion: bool = True
    """Fill short queries up to `query_length` with mask tokens, whose vectors are scored too."""
    skip_punctuation: bool = True
    """Leave the vectors of punctuation out of documents."""


def check_late(config: Any, methods: Sequence[Method]) -> None:
    """Refuse what a student with a vector for every token cannot learn from, or be judged by.

    Args:
        config: an `EmbeddingConfig`.
        methods: all of its methods; nothing is checked where none of them makes such a student.

    Raises:
        UserError: no queries and documents; a static student; other tasks than rankings; smaller or stored vectors.
    """
    late = [method for method in methods if isinstance(method, LateInteraction)]
    if not late:
        return
    tasks, name = config.evaluate.tasks, "late_interaction"
    others = [task for task in tasks if task.kind not in RANKED]
    if config.data.positives != "second":
        key, wanted, got = "data.positives", "second", config.data.positives
        remedy = "set data.positives=second: the first sentence of a row is the query, the second its document"
    elif config.student.path == "static":
        key, wanted, got = "student.path", "a student with layers", "static"
        remedy = "set student.path=reduce"
    elif others or not tasks:
        key, wanted = "evaluate.tasks", "tasks of kind retrieval or reranking, which MaxSim scores,"
        got = f"{others[0].name!r} of kind {others[0].kind}" if others else "none"
        remedy = "leave it out" if others else "set evaluate.tasks=[{name: ours, kind: retrieval, path: FOLDER}]"
    elif cut := [key for key in ("dimensions", "quantisations", "mteb") if getattr(config.evaluate, key)]:
        key, wanted, got = f"evaluate.{cut[0]}", "none", str(getattr(config.evaluate, cut[0]))
        remedy = f"set evaluate.{cut[0]}=[]"
    elif config.teacher.cross_encoder and not all(method.hard_negatives for method in late):
        key, wanted, got = "method.hard_negatives", "true with teacher.cross_encoder, which scores lists,", "false"
        remedy = "set method.hard_negatives=true"
    else:
        return
    raise UserError(f"{key}: expected {wanted} for {name}, got {got}; {remedy}")
