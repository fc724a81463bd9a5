"""Settings that stand in both families of configurations, for language and for embeddings."""

from typing import Literal

from kdkit.config.types import Count, Section, VocabularySize

BUILD = "build"
"""Value of `path`: make the model from scratch."""


class ModelConfig(Section):
    """Where a model comes from."""

    path: str
    revision: str | None = None
    """Hub revision; pin it for results that others can repeat."""
    trust_remote_code: bool = False
    """Run code that comes with the model; leave it off unless you have read that code."""


class BuildConfig(Section):
    """A small student from random weights (`student.path: build`)."""

    tokenizer: Literal["own", "teacher"]
    """`own`: a BPE of `vocab_size` entries trained on the text of the run; `teacher`: the teacher's."""
    vocab_size: VocabularySize
    """Entries of its own tokenizer."""
    hidden_size: Count
    """Width of the residual stream."""
    num_layers: Count
    """Transformer layers."""
    num_heads: Count
    """Attention heads; must divide `hidden_size`."""
    intermediate_size: Count
    """Width of the feed-forward layer."""


class ReportConfig(Section):
    """What the report says."""

    title: str = ""
    """Heading of the page; empty: the run's name."""
