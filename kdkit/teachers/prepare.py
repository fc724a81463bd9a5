"""The teacher stage: load the model that the configuration names, or build one once (notebook 02)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from kdkit.config.language import BUILD, Config
from kdkit.data.batches import WindowCollator, longest_sequence
from kdkit.data.prepare import PreparedData
from kdkit.errors import UserError
from kdkit.machine.gguf_files import is_gguf, read_gguf_header
from kdkit.machine.hub import is_local_path
from kdkit.machine.session import Session
from kdkit.machine.user_code import is_user_code, make_user_object
from kdkit.models.finite import check_finite, describe_model, is_finite
from kdkit.models.generation import Generated, Sampling, generate_ids
from kdkit.models.loading import (
    check_context,
    check_fits,
    check_model_folder,
    check_rows,
    context_length,
    load_causal_lm,
    read_model_config,
)
from kdkit.models.reading import ModelReader, Reader
from kdkit.models.writer import Writer, model_writer
from kdkit.runs.folder import fingerprint, fingerprint_files
from kdkit.runs.hashes import hash_file
from kdkit.runs.messages import note
from kdkit.teachers.build import build_key, build_teacher, built_architecture, built_context
from kdkit.teachers.gguf import GGUFTeacher
from kdkit.teachers.interface import TextTeacher, WritingTeacher
from kdkit.teachers.online import OnlineTeacher


class Teacher(WritingTeacher):
    """A causal LM of transformers, loaded and frozen, and where its weights lie."""

    has_layers = True

    def __init__(
        self, model: PreTrainedModel, path: str, was_built: bool, tokenizer: PreTrainedTokenizerFast | None = None
    ):
        """Keep the model.

        Args:
            path: for messages and reports.
            was_built: whether it is a teacher of `teacher.path: build`.
            tokenizer: its tokenizer; needed to write and to read text with it alone, not to answer a trainer.
        """
        self._model, self._tokenizer = model, tokenizer
        self.path, self.was_built = path, was_built
        self.device, self.context = model.device, context_length(model.config)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.num_bytes, self.weight_type = model.get_memory_footprint(), str(model.dtype).removeprefix("torch.")

    @property
    def name(self) -> str:
        """Its class and dtype, for messages."""
        return describe_model(self._model)

    @property
    def names(self) -> tuple[str, ...]:
        """See `TextTeacher.names`; one that was built here is also called what its `path` says."""
        return (*super().names, BUILD) if self.was_built else super().names

    @property
    def model(self) -> PreTrainedModel:
        """The model."""
        return self._model

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer."""
        assert self._tokenizer is not None, "this teacher was made without its tokenizer"
        return self._tokenizer

    @torch.no_grad()
    def get_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """See `TextTeacher.get_logits`."""
        return self._model(input_ids=input_ids.to(self.device), use_cache=False).logits.float()

    @torch.no_grad()
    def get_hidden_states(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `TextTeacher.get_hidden_states`."""
        options = {"use_cache": False, "output_hidden_states": True}
        return self._model.base_model(input_ids=input_ids.to(self.device), **options).hidden_states

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stop_ids: Sequence[int],
        *,
        num_samples: int = 1,
        first: int = 0,
        on_token: Callable[[int], None] | None = None,
    ) -> list[list[Generated]]:
        """See `TextTeacher.write`; batch by batch."""
        sizes = {"vocab_size": len(self.tokenizer), "batch_size": self.batch_size}
        options = {"num_samples": num_samples, "first": first, "on_token": on_token}
        return generate_ids(self._model, prompts, sampling, stop_ids, **sizes, **options)

    def reader(self, autocast_dtype: torch.dtype | None = None) -> Reader:
        """See `TextTeacher.reader`."""
        return ModelReader(self._model, None, autocast_dtype)

    def online(self, vocab_size: int, autocast_dtype: torch.dtype | None = None) -> OnlineTeacher:
        """See `TextTeacher.online`."""
        return OnlineTeacher(self._model, vocab_size, autocast_dtype)

    def writer(self, batch_size: int = 16, autocast_dtype: torch.dtype | None = None) -> Writer:
        """See `TextTeacher.writer`."""
        return model_writer(self._model, self.tokenizer, batch_size, autocast_dtype)


def prepare_teacher(session: Session[Config], data: PreparedData, dtype: torch.dtype | None = None) -> TextTeacher:
    """Load the teacher, frozen; build it first if the configuration says so and the cache has none.

    Args:
        dtype: of its weights, where it is a model of transformers; None: that of the run, in which models are compared
            with each other.

    Raises:
        UserError: see `check_teacher_lengths`, `load_causal_lm`, `check_fits` and `check_first_answer`.
    """
    config = session.config
    check_teacher_lengths(config, data)
    if is_user_code(config.teacher.path) or is_gguf(config.teacher.path):
        teacher = _prepare_without_layers(session, data)
    else:
        teacher = _prepare_model(session, data, dtype)
    teacher.member = config.teachers.only
    return teacher


def _prepare_model(session: Session[Config], data: PreparedData, dtype: torch.dtype | None) -> Teacher:
    """Load a model of transformers, or build it, and check its first answer."""
    config = session.config
    path = str(build_teacher(session, data)) if config.teacher.path == BUILD else config.teacher.path
    model = load_causal_lm(
        path,
        "teacher.path",
        dtype=session.hardware.dtype if dtype is None else dtype,
        device=session.hardware.teacher_device,
        revision=config.teacher.revision,
        trust_remote_code=config.teacher.trust_remote_code,
    ).requires_grad_(False)
    longest = longest_sequence("teacher", data.train, data.evaluation)
    check_fits(model, len(data.teacher_tokenizer), longest, "teacher.path", "teacher.max_length")
    check_first_answer(session, data, model, "teacher.path")
    return Teacher(model, path, config.teacher.path == BUILD, data.teacher_tokenizer)


def make_own_teacher(path: str, key: str) -> TextTeacher:
    """Make a teacher of the user's own class.

    Raises:
        UserError: see `make_user_object`; a class that is no `TextTeacher`.
    """
    made = make_user_object(path, key)
    if not isinstance(made, TextTeacher):
        raise UserError(
            f"{key}: expected a subclass of kdkit.teachers.interface.TextTeacher, got {type(made).__name__}; "
            "derive the class from it"
        )
    made.path = made.path or path
    return made


def _prepare_without_layers(session: Session[Config], data: PreparedData) -> TextTeacher:
    """Load a GGUF file or make a teacher of the user's own class, and check its first answer."""
    path = session.config.teacher.path
    if is_gguf(path):
        on_gpu = session.hardware.teacher_device.startswith("cuda")
        teacher: TextTeacher = GGUFTeacher(path, data.teacher_tokenizer, "teacher.path", on_gpu=on_gpu)
    else:
        teacher = make_own_teacher(path, "teacher.path")
        note(f"teacher.path: {teacher.name} is code of your own, run with all that you may do")
    check_first_rows(teacher, data, "teacher.path")
    return teacher


def check_first_rows(teacher: TextTeacher, data: PreparedData, key: str) -> None:
    """Ask a teacher that gives logits about the first training sequence.

    Raises:
        UserError: logits of another shape than its tokenizer's, NaN or inf among them.
    """
    input_ids = WindowCollator(data.train, "teacher")([0])["input_ids"]
    logits = teacher.reader().read(input_ids)(torch.arange(input_ids.shape[1]))
    if not is_finite(logits):
        place = int((~logits.isfinite().all(dim=1)).nonzero()[0])
        raise UserError(
            f"{key}: expected finite logits, got NaN or inf from {teacher.name} at position {place} of the first "
            "training sequence; check its weights"
        )


def check_first_answer(session: Session[Config], data: PreparedData, model: PreTrainedModel, key: str) -> None:
    """Ask a teacher about the first training sequence.

    Raises:
        UserError: NaN or inf in its answer; see `check_finite`.
    """
    first = WindowCollator(data.train, "teacher")([0])
    check_finite(model, first["input_ids"], key, "the first training sequence", session.hardware.autocast_dtype)


def check_teacher_lengths(config: Config, data: PreparedData) -> None:
    """Check every teacher's context against the text that it will read, by the configurations of the models alone.

    Raises:
        UserError: a vocabulary smaller than the tokenizer's; a context shorter than a sequence, or than the student's
            own text where that has the same tokens.
    """
    longest = longest_sequence("teacher", data.train, data.evaluation)
    for path in (config.teacher.path, *config.teacher.others):
        key = "teacher.path" if path == config.teacher.path else "teacher.others"
        if path == BUILD:
            context = built_context(config)
        elif is_user_code(path):
            context = make_own_teacher(path, key).context
        elif is_gguf(path):
            context = read_gguf_header(path, key).context
        else:
            main = path == config.teacher.path
            trust = config.teacher.trust_remote_code
            model_config = read_model_config(
                path, key, revision=config.teacher.revision if main else None, trust_remote_code=trust
            )
            context = context_length(model_config)
            check_rows(model_config.get_text_config().vocab_size, len(data.teacher_tokenizer), key)
        check_context(context, longest, key, "teacher.max_length")
        if data.same_tokenizer:
            check_own_text(config, data, context, key)


def num_teacher_layers(config: Config) -> int | None:
    """Return how many layers the teacher has, by its configuration alone; None: it shows none, or is code of one's own.

    Raises:
        UserError: see `read_model_config`.
    """
    if is_gguf(config.teacher.path) or is_user_code(config.teacher.path):
        return None
    return teacher_architecture(config).get_text_config().num_hidden_layers


def teacher_architecture(config: Config, vocab_size: int | None = None) -> PreTrainedConfig:
    """Return the architecture of a teacher of transformers, by its configuration alone.

    Args:
        vocab_size: of one that is built here; None: what is asked for, which its text may not yield.

    Raises:
        UserError: see `read_model_config` and, of code of one's own, `make_own_teacher`.
    """
    teacher = config.teacher
    if teacher.path == BUILD:
        return built_architecture(config, vocab_size or teacher.build.vocab_size)
    if is_user_code(teacher.path):
        return make_own_teacher(teacher.path, "teacher.path").model.config
    return read_model_config(
        teacher.path, "teacher.path", revision=teacher.revision, trust_remote_code=teacher.trust_remote_code
    )


def check_own_text(config: Config, data: PreparedData, context: int | None, key: str) -> None:
    """Check that a model can read what the student writes in on-policy stages.

    Args:
        context: of the model; None: no limit.
        key: the setting that named the model, for messages.

    Raises:
        UserError: prompt and new tokens are more.
    """
    for name, prompt, new in own_text_lengths(config, data):
        if context is not None and prompt + new > context:
            remedy = f"max_new_tokens={context - prompt}" if prompt < context else "a shorter prompt_length"
            raise UserError(
                f"train.stages: expected on-policy text of at most {context} tokens, the context of {key}, got "
                f"{prompt} + {new} in stage {name!r} (start token and prompt + max_new_tokens); set its on_policy to "
                f"{remedy}"
            )


def own_text_lengths(config: Config, data: PreparedData) -> list[tuple[str, int, int]]:
    """Return each on-policy stage's name, the student tokens of its prompts, start token included, and new tokens."""
    longest = longest_sequence("student", data.train)
    return [
        (stage.name, min(1 + stage.on_policy.prompt_length, longest), stage.on_policy.max_new_tokens)
        for stage in config.train.stages
        if stage.on_policy is not None
    ]


def has_layers(path: str) -> bool:
    """Return whether the teacher of a path shows its layers, without loading it; see `TextTeacher.has_layers`."""
    return not is_gguf(path) and (not is_user_code(path) or make_own_teacher(path, "teacher.path").has_layers)


def identify_files(path: str, key: str) -> dict[str, str]:
    """Return what the answers of a GGUF file, or of a teacher of the user's own, depend on.

    Raises:
        UserError: see `read_gguf_header` and `make_own_teacher`.
    """
    if is_gguf(path):
        return {"gguf": hash_file(read_gguf_header(path, key).path)}
    return make_own_teacher(path, key).identify()


def identify_teacher(session: Session[Config], data: PreparedData) -> dict[str, str]:
    """Identify the teacher of a configuration without loading or building it: what a cache of its signals must match.

    A folder is known by its weights, a hub model by name and revision, a built one by all that makes it.

    Args:
        data: of the run; a built teacher is trained on its text.

    Raises:
        UserError: see `check_model_folder`.
    """
    config = session.config
    if config.teacher.path == BUILD:
        return {"path": BUILD, "key": build_key(session, data)}
    if is_user_code(config.teacher.path) or is_gguf(config.teacher.path):
        return identify_files(config.teacher.path, "teacher.path")
    name = check_model_folder(config.teacher.path, "teacher.path")
    if not is_local_path(name):
        return {"path": name, "revision": config.teacher.revision or "main"}
    files = [Path(name) / "config.json", *sorted(Path(name).glob("*.safetensors"))]
    return {"weights": fingerprint(*(fingerprint_files(file) for file in files))}
