"""Settings of a student that is built here."""

from typing import Annotated

from pydantic import Field, model_validator

from kdkit.config.built.architecture import ArchitectureConfig, check_architecture, require_divides
from kdkit.config.types import BuildConfig, Count, Digits, DropShare, VocabularySize


class BuildStudentConfig(ArchitectureConfig, BuildConfig):
    """A small model from random weights (`student.path: build`): a Llama, with `qk_norm` a Qwen3, with a sliding window
    alone a Ministral.
    """

    tokenizer: Annotated[str, Field(min_length=1)] = "own"
    """`own`: a BPE of `vocab_size` entries trained on the text of the run; `teacher`: the teacher's; or the folder or
    hub name of another, such as `python -m kdkit tokenizer train` makes."""
    vocab_size: VocabularySize = 1024
    digits: Digits = "together"
    """Of its `own` tokenizer: `apart`, every digit is a token, so that a small model can calculate."""
    hidden_size: Count = 64
    num_layers: Count = 3
    num_heads: Count = 4
    intermediate_size: Count = 192
    max_length: Count | None = None
    """Context in tokens; null: 512, or more where `data.max_length` or the student's own text are longer."""
    dropout: DropShare = 0.0
    """Share of the attention weights that are dropped in training; a Llama has no other dropout."""

    @model_validator(mode="after")
    def _shapes(self) -> "BuildStudentConfig":
        require_divides("student.build", self.hidden_size, self.num_heads)
        check_architecture("student.build", self, self.num_heads, self.num_layers)
        return self
