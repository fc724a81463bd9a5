"""What the stages of every training share: language models' and embedding models' add fields of their own."""

from dataclasses import dataclass

from kdkit.config.training import ParameterRule


@dataclass(frozen=True)
class TrainingStage:
    """One stage of a training, complete; its optimizer and schedule start anew."""

    name: str
    steps: int
    """Optimizer steps of this stage."""
    first_step: int
    """Optimizer steps of the stages before it."""
    learning_rate: float
    """Peak of the schedule."""
    rules: list[ParameterRule]
    """Learning rates by parameter name; see `kdkit.training.parameters`."""
