"""Settings of a student that is made from the teacher (`student.from_teacher`): every kind with its own options.

A kind is written as its name (`from_teacher: layers`) or, with options, as
`from_teacher: {kind: layers, num_layers: 2}`.
"""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from kdkit.config.types import Count, Section
from kdkit.errors import UserError

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


ExpertScore = Literal["load", "contribution", "saliency", "activation", "diverse", "fitted"]
"""How experts are ranked: kdkit.models.from_teacher.mixtures.scores."""


class MoeToDense(StartFromTeacher):
    """A dense model of a mixture: some experts of each layer side by side in one feed-forward layer, or their mean."""

    kind: Literal["moe_to_dense"] = "moe_to_dense"
    num_experts: Count | None = None
    """Experts of each layer that are joined; null: as many as the teacher sends a token to."""
    join: Literal["chosen", "average"] = "chosen"
    """`average`: the mean of all experts by their load, as wide as one, in place of chosen ones side by side."""
    score: ExpertScore = "diverse"
    """By which they are chosen: `load`; `contribution`, the sum of router weight x output norm; `saliency`, its mean
    over the expert's own tokens (REAP); `activation`, mean weight x output norm on all (ACP); `diverse`, the same
    among experts that differ (DO-ACP); `fitted`, those that together give what the layer gives."""
    scale: Literal["routing", "uniform", "fitted"] = "routing"
    """What their outputs are multiplied by: their mean router weights, equal shares, or least squares."""

    @model_validator(mode="after")
    def _average(self) -> "MoeToDense":
        if self.join == "average" and self.num_experts is not None:
            raise UserError(
                f"student.from_teacher.num_experts: expected none with join=average, the mean of all, got "
                f"{self.num_experts}; leave one of the two out"
            )
        return self


class MoeToMoe(StartFromTeacher):
    """A mixture with fewer experts a layer; the others are dropped (REAP) or merged into those (REAM)."""

    kind: Literal["moe_to_moe"] = "moe_to_moe"
    num_experts: Count | None = None
    """Experts that are kept of each layer; null: half of them, rounded up."""
    score: ExpertScore = "saliency"
    """By which they are chosen, see `moe_to_dense`."""
    others: Literal["drop", "merge"] = "drop"
    """`merge`: each of the others into the kept one most like it."""


class ShareCore(StartFromTeacher):
    """Parts of the teacher share a core and have small wrappers of low rank of their own: the experts of each layer, or
    the layers of a dense teacher.
    """

    kind: Literal["shared_core"] = "shared_core"
    wrapper_rank: Count = 8
    """Rank of every wrapper."""
    core: Literal["mean", "nearest"] = "mean"
    """Start the core as the mean of its parts, or as the part nearest to the mean; wrappers as the rest, truncated."""
    layers_per_core: Count | None = None
    """Neighbouring layers of a dense teacher that share a core; null: all. Of a mixture every layer has its own."""


def _by_kind(value: object) -> object:
    """Read `layers` as `{kind: layers}`."""
    return {"kind": value} if isinstance(value, str) else value


AnyStart = DropLayers | Prune | MoeToDense | MoeToMoe | ShareCore
StartSettings = Annotated[AnyStart, Field(discriminator="kind"), BeforeValidator(_by_kind)]
"""How a student is made from its teacher."""


def start_options() -> dict[str, list[str]]:
    """Return the names of all kinds and the options that each one takes."""
    fields = {member.model_fields["kind"].default: member.model_fields for member in get_args(AnyStart)}
    return {kind: [field for field in options if field != "kind"] for kind, options in fields.items()}
