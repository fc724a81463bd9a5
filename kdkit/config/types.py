"""Types that the settings are made of: checked numbers, sections, and those that both families of models have."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


def _number(value: object) -> object:
    """Read `5e-4`, which YAML 1.1 takes for a string, as the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Number = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Positive = Annotated[Number, Field(gt=0.0)]
NotNegative = Annotated[Number, Field(ge=0.0)]
Share = Annotated[Number, Field(ge=0.0, le=1.0)]
AnyShare = Annotated[Number, Field(gt=0.0, le=1.0)]
OpenShare = Annotated[Number, Field(gt=0.0, lt=1.0)]
DropShare = Annotated[Number, Field(ge=0.0, lt=1.0)]
Count = Annotated[int, Field(ge=1)]
LAYER_MAP_FORMS = '"auto", {teacher layer: student layer}, {teacher: {...}}, or a .json file with one of these'


def _layer_map(value: object) -> object:
    """Refuse what cannot be a layer map, in place of pydantic's two messages on text and mappings."""
    if isinstance(value, str) or (isinstance(value, dict) and all(isinstance(key, str | int) for key in value)):
        return value
    raise PydanticCustomError("layer_map", LAYER_MAP_FORMS, {"remedy": "name a pair of layers, or set auto"})


LayerMap = Annotated[str | dict[str | int, Any], BeforeValidator(_layer_map)]
Digits = Literal["together", "apart"]
"""How a tokenizer that is trained here cuts numbers: as the text's merges have it, or every digit for itself."""
VocabularySize = Annotated[int, Field(ge=260)]
"""Entries of a tokenizer that is trained here: the 256 bytes and the special tokens are among them."""


SourceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40)]
"""Name of a kind of text, or of a teacher: it is part of file names."""


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not declare."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


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

    tokenizer: str
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
