"""Settings of a student that is made from the teacher (`student.from_teacher`): every kind with its own options.

A kind is written as its name (`from_teacher: layers`) or, with options, as
`from_teacher: {kind: layers, num_layers: 2}`.
"""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field

from kdkit.config.types import Count, Section

OWN, TEACHERS = "own", "teacher"
"""Values of a student's `tokenizer` that name no tokenizer that is there already."""


class StartFromTeacher(Section):
    """What all kinds have in common."""

    kind: str
    tokenizer: Annotated[str, Field(min_length=1)] = TEACHERS
    """`teacher`: the teacher's; `own`: a BPE of `student.build.vocab_size` entries trained on the text of the run; or
    the folder or hub name of another. Embeddings and head get a row for every token of another, from the teacher's
    tokens that spell it."""
    calibration_sequences: Count = 32
    """Training sequences that the teacher reads to find out which of its parts matter."""


class DropLayers(StartFromTeacher):
    """The teacher without the layers that matter least on text; a mixture of experts stays one."""

    kind: Literal["layers"] = "layers"
    num_layers: Count | None = None
    """Layers that are kept; null: half of the teacher's, rounded up."""


class Prune(StartFromTeacher):
    """The teacher made narrower, and perhaps shallower: channels, heads and inner units with the largest activations on
    text stay (Minitron).
    """

    kind: Literal["prune"] = "prune"
    num_layers: Count | None = None
    """Layers; null: the teacher's."""
    hidden_size: Count | None = None
    """Width of the residual stream; null: the teacher's."""
    num_heads: Count | None = None
    """Heads of queries, each as wide as the teacher's; null: in proportion to `num_key_value_heads`, or the
    teacher's."""
    num_key_value_heads: Count | None = None
    """Heads of keys and values; null: in proportion to `num_heads`, or the teacher's."""
    intermediate_size: Count | None = None
    """Width of the feed-forward layer, in a mixture of experts that of each; null: the teacher's."""


def _by_kind(value: object) -> object:
    """Read `layers` as `{kind: layers}`."""
    return {"kind": value} if isinstance(value, str) else value


AnyStart = DropLayers | Prune
StartSettings = Annotated[AnyStart, Field(discriminator="kind"), BeforeValidator(_by_kind)]
"""How a student is made from its teacher."""


def start_options() -> dict[str, list[str]]:
    """Return the names of all kinds and the options that each one takes."""
    fields = {member.model_fields["kind"].default: member.model_fields for member in get_args(AnyStart)}
    return {kind: [field for field in options if field != "kind"] for kind, options in fields.items()}
