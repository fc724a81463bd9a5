"""What the settings of all methods of embedding distillation share; the methods stand in `kdkit.config.methods`.

`form` sets a group of options at once, and single options change it further; what the forms are is said there.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from kdkit.config.types import NotNegative, Positive, Section
from kdkit.errors import UserError

Projection = Literal["auto", "identity", "fitted", "random", "orthogonal"]
"""How a projection between the models' widths starts. `identity` needs equal widths; `fitted`: the teacher's principal
directions, turned towards the student's first vectors (Procrustes); `orthogonal`: random directions; `random`: normal,
deviation 1e-3; `auto`: identity where the widths are equal, else fitted."""


class Method(Section):
    """What all methods share."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {}
    """Options of each form other than `recommended`."""
    is_simple: ClassVar[bool] = False
    """Whether any other method has to beat it to be worth its trouble."""

    name: str
    form: Literal["recommended", "paper", "seed"] = "recommended"
    """Group of options; see the module."""
    task_weight: NotNegative = 0.0
    """Weight of the contrastive loss on the training sentences themselves (InfoNCE); 0: no second forward pass."""
    task_temperature: Positive = 0.05
    """Temperature of that loss."""
    label: str = Field("", pattern=r"^[\w.+=-]*$")
    """Name in tables and folders; empty: the method's and its form's. Two of one method need different ones."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        form = values.get("form") if isinstance(values, dict) else None
        if form not in ("paper", "seed"):  # what is no form at all is found with the other types
            return values
        if form not in cls.PRESETS:
            raise UserError(
                f"method.form: expected 'recommended' for {values.get('name')!r}, got {form!r}; it has no other form"
            )
        return cls.PRESETS[form] | values

    @property
    def folder(self) -> str:
        """The same as a name for files."""
        return str(self).replace(" (", "-").rstrip(")")

    def __str__(self) -> str:
        return self.label or (self.name if self.form == "recommended" else f"{self.name} ({self.form})")


class ProjectedMethod(Method):
    """What methods share that compare vectors of different widths."""

    projection: Projection = "auto"
    """How projections start."""
    projection_lr_multiplier: NotNegative | None = None
    """Factor of the learning rate for projections; 0: they stay as they start; null: 5, but 0 for the fitted one of
    `cosine` and `layer_reduction` where the student is narrower: what it learns, the student does not."""
