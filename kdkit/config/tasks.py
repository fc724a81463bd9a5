"""Settings of an evaluation task for embedding models."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from kdkit.config.types import Count, Section


def _as_text(value: object) -> object:
    """Read the number 1 as the label `1`, as a data file does."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Label = Annotated[str, BeforeValidator(_as_text)]
"""A label of a data set."""


class Task(Section):
    """A data set that embeddings are judged by."""

    name: str
    """Name in tables."""
    kind: Literal["sts", "classification", "pairs"]
    """Spearman of cosines and scores; a linear probe on labels; telling related pairs from others by cosine."""
    path: str
    """A .csv, .jsonl or .parquet file, or a hub data set's name."""
    configuration: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Hub revision; pin it."""
    split: str = "test"
    """Split of a hub data set that is scored."""
    fit_path: str | None = None
    """File of the texts a probe is fitted on (classification), or on which the threshold is chosen (pairs)."""
    fit_split: str | None = None
    """The same as a split of the hub data set; neither: only what needs no fitting is reported."""
    columns: dict[Literal["sentence1", "sentence2", "label", "score"], str] = Field(default_factory=dict)
    """Names of the columns where they differ."""
    positive_label: Label = "1"
    """Label of a related pair (pairs)."""
    samples_per_label: Count = 8
    """Texts per label in the n-shot protocol (classification)."""
    max_rows: Count | None = None
    """Rows at most, the first ones; null: all."""
