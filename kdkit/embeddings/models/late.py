"""How a model with a vector for every token reads queries and documents: late interaction, as in ColBERT.

Its folder is that of sentence-transformers' `MultiVectorEncoder` (from version 6): a transformer, a head on token
states, a mask of what counts.
"""

import string
from dataclasses import dataclass, replace
from typing import Any, Literal

from kdkit.errors import UserError

MASK = "MultiVectorMask"
"""The module by which such a folder is known."""
STATES = "token_embeddings"
"""What its modules work on, by sentence-transformers' name."""
PUNCTUATION = string.punctuation
"""Tokens that ColBERT leaves out of documents."""

DOCUMENT = ("document", "passage", "corpus")
"""What models call the prompt of documents; the first that is not empty holds. sentence-transformers 6.2 says so too,
but gives every model an empty `document` and then reads that."""

Role = Literal["query", "document"]


@dataclass(frozen=True)
class LateReading:
    """How queries and documents become token vectors that are scored by MaxSim."""

    query_length: int
    """Longest query in tokens, special ones and prompt included."""
    document_length: int
    """Longest document."""
    query_prompt: str = ""
    """Text before every query."""
    document_prompt: str = ""
    """Text before every document."""
    expansion: int = 0
    """Tokens that a query has at least: shorter ones are filled up with mask tokens, which count; 0: none are."""
    attend: bool = False
    """Whether the other tokens see those mask tokens."""
    expansion_token: str | None = None
    """Token to fill up with; None: the tokenizer's mask token, else its end token."""
    skipped: tuple[str, ...] = ()
    """Tokens that do not count."""
    skipped_in: tuple[str, ...] = ("document",)
    """Roles in which they do not."""
    mean: bool = False
    """Whether a score is divided by the number of the query's tokens (MeanMaxSim)."""

    def prompt(self, role: Role) -> str:
        """Return the text before every text of a role."""
        return self.query_prompt if role == "query" else self.document_prompt

    def length(self, role: Role) -> int:
        """Return the longest text of a role, in tokens."""
        return self.query_length if role == "query" else self.document_length

    def within(self, context: int) -> "LateReading":
        """Cut the lengths to what a model can read."""
        lengths = (min(length, context) for length in (self.query_length, self.document_length, self.expansion))
        return replace(self, **dict(zip(("query_length", "document_length", "expansion"), lengths, strict=True)))


def parse_late(
    transformer: dict[str, Any], mask: dict[str, Any], own: dict[str, Any], max_length: int, name: str, key: str
) -> LateReading:
    """Read the settings of a `MultiVectorEncoder`.

    Args:
        transformer: of sentence_bert_config.json.
        mask: of the mask's config.json.
        own: of config_sentence_transformers.json.
        max_length: in tokens, where a role has no length of its own.
        name: of the model, for messages.
        key: the setting that named it.

    Raises:
        UserError: a mask that keeps tokens of images only.
    """
    if mask.get("keep_only_token_ids"):
        raise UserError(f"{key}: expected a model of texts, got {name!r}, which keeps the tokens of images only")
    expansion, prompts = transformer.get("query_expansion") or {}, own.get("prompts") or {}
    floor = expansion.get("length", 0)
    longest = transformer.get("query_length") or max_length
    return LateReading(
        query_length=floor if expansion.get("strategy") == "fixed" else max(longest, floor),
        document_length=transformer.get("document_length") or max_length,
        query_prompt=prompts.get("query") or "",
        document_prompt=next((prompts[name] for name in DOCUMENT if prompts.get(name)), ""),
        expansion=floor,
        attend=bool(expansion.get("attend")),
        expansion_token=expansion.get("token"),
        skipped=tuple(mask.get("skiplist_words") or ()),
        skipped_in=tuple(mask.get("skiplist_tasks") or ("document",)),
        mean=own.get("similarity_fn_name") == "meanmaxsim",
    )


def write_late(late: LateReading) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return what `parse_late` reads: the settings of transformer, mask and model."""
    is_fixed = late.query_length == late.expansion
    expansion = {
        "strategy": "fixed" if is_fixed else "min",
        "attend": late.attend,
        "token": late.expansion_token,
        "length": late.expansion,
    }
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": STATES,
        "document_length": late.document_length,
    }
    transformer |= {} if is_fixed else {"query_length": late.query_length}
    transformer |= {"query_expansion": expansion} if late.expansion else {}
    mask = {"skiplist_words": list(late.skipped), "skiplist_tasks": list(late.skipped_in), "keep_only_token_ids": None}
    own = {
        "model_type": "MultiVectorEncoder",
        "prompts": {"query": late.query_prompt, "document": late.document_prompt},
        "default_prompt_name": None,
        "similarity_fn_name": "meanmaxsim" if late.mean else "maxsim",
    }
    return transformer, mask, own
