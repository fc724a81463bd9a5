"""Loading a causal LM: safetensors only, checked against its tokenizer and the length it must read."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from kdkit.errors import UserError
from kdkit.machine.gguf_files import is_gguf
from kdkit.machine.hardware import experts_implementation
from kdkit.machine.hub import explain_load_error, hub_is_reachable, is_local_path, resolve_model_path
from kdkit.models.quantised.model import is_quantised, load_quantised
from kdkit.models.shared_core.model import register_shared_cores
from kdkit.runs.folder import is_unwatched_notebook

CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len")
"""Where configurations keep their context; transformers gives most of them the first name, MPT and custom code not."""


MAX_HEADER = 100_000_000
"""Bytes of the header of a safetensors file at most, by its definition."""


def check_model_folder(path: str, key: str) -> str:
    """Return a model's name or folder; a folder must hold a configuration and safetensors weights.

    Args:
        path: hub name or folder.
        key: the setting that named it, for messages.

    Raises:
        UserError: no such folder, no configuration, or no safetensors weights in it.
    """
    if is_gguf(path):
        raise UserError(
            f"{key}: expected a model of transformers, got the GGUF file {path!r}, which llama.cpp runs and nobody can "
            "train or look into; only teacher.path takes one"
        )
    name = resolve_model_path(path, key)
    if not is_local_path(name):
        return name
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{key}: expected a model folder with config.json, got {path!r} without one; name another folder"
        )
    if not list(folder.glob("*.safetensors")):
        pickled = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
        got = f"only {pickled}" if pickled else "no weights"
        raise UserError(
            f"{key}: expected *.safetensors weights in {path!r}, got {got}; "
            "save the model with save_pretrained (pickled weights are not loaded)"
        )
    _check_shards(folder, path, key)
    return name


def read_model_config(
    path: str, key: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """Read a model's config.json alone, which is enough to know its context.

    Raises:
        UserError: see `check_model_folder`; no network, or an architecture that transformers does not know.
    """
    name = check_model_folder(path, key)
    register_shared_cores()
    try:
        return AutoConfig.from_pretrained(name, **_options(name, revision, trust_remote_code))
    except (OSError, ValueError, RuntimeError) as error:
        raise explain_load_error(error, name, key, "causal LM with safetensors weights") from None


def _options(name: str, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    """Return what every call of transformers that reads from a folder or the hub is told."""
    offline = is_local_path(name) or not hub_is_reachable()
    return {"revision": revision, "trust_remote_code": trust_remote_code, "local_files_only": offline}


def _check_shards(folder: Path, path: str, key: str) -> None:
    """Find a missing or torn file of weights before anything is loaded: hours may lie between."""
    index = folder / "model.safetensors.index.json"
    names = {file.name for file in folder.glob("*.safetensors")}
    if index.is_file():
        try:
            wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{key}: expected an index of weights in {str(index)!r}, got {error}; copy it again"
            ) from None
        if missing := sorted(wanted - names):
            raise UserError(
                f"{key}: expected {len(wanted)} files of weights in {path!r}, as {index.name} says, got "
                f"{len(wanted) - len(missing)}, without {missing[0]}; copy the missing ones"
            )
        names = wanted
    for name in sorted(names):
        size = (folder / name).stat().st_size
        if size < _safetensors_size(folder / name):
            raise UserError(
                f"{key}: expected a model with whole weights in {path!r}, got {name}, cut short at {size:,} bytes; "
                "copy it again"
            )


def _safetensors_size(file: Path) -> int:
    """Return the bytes that a file of weights has when it is whole; 0 where it is something else."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8).ljust(8, b"\0"), "little")
        if not 0 < length <= MAX_HEADER:
            return 8 * (length == 0)
        header = stream.read(length)
    try:
        tensors = json.loads(header)
        return (
            8 + length + max((t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"), default=0)
        )
    except (ValueError, AttributeError, KeyError, TypeError):
        return 8 + length


def load_causal_lm(
    path: str,
    key: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load any causal LM by hub name or folder, in evaluation mode; one of `export --format int8` keeps its few bits.

    Args:
        path: hub name or folder.
        key: the setting that named it, for messages.
        dtype: of the weights; a model to be trained is loaded in fp32.
        device: where to put it.

    Raises:
        UserError: no network, no weights, or an architecture that transformers does not know.
    """
    name = check_model_folder(path, key)
    config = read_model_config(path, key, revision=revision, trust_remote_code=trust_remote_code)
    shared = _options(name, revision, trust_remote_code)
    try:
        if is_quantised(config):
            return load_quantised(Path(name), config, dtype, device)
        capability = (0, 0) if device == "cpu" else torch.cuda.get_device_capability(device)
        experts = {"experts_implementation": experts_implementation(capability)} if num_experts(config) else {}
        with bar_of(name):
            model, report = AutoModelForCausalLM.from_pretrained(
                name, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **experts, **shared
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise explain_load_error(error, name, key, "causal LM with safetensors weights") from None
    if report["missing_keys"]:
        # transformers would go on with random numbers in their place
        missing = sorted(report["missing_keys"])
        raise UserError(
            f"{key}: expected weights for every parameter, got none for {len(missing)} of them in {path!r} "
            f"({', '.join(missing[:3])}, ...); the weights belong to another architecture than config.json"
        )
    return model.to(device).eval()


def bar_of(name: str) -> AbstractContextManager[None]:
    """Return what hides transformers' bar, but for a download that somebody watches: a second of reading needs none."""
    return no_bar() if is_local_path(name) or is_unwatched_notebook() else nullcontext()


@contextmanager
def no_bar() -> Iterator[None]:
    """Hide the bars of transformers and of the hub."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def num_experts(config: object) -> int:
    """Return the number of experts that a model configuration declares; 0 for a dense model."""
    values = config.to_dict()
    return int(values.get("num_experts") or values.get("num_local_experts") or values.get("n_routed_experts") or 0)


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the most tokens that a model reads at once; None: it has no limit.

    The names differ (`n_positions`, `max_seq_len`, all in a nested text configuration). Stretched rotary positions
    (YaRN) reach `factor` times as far as those that were trained. A sliding window is no limit: it forgets, and
    reads on.
    """
    text = config.get_text_config(decoder=True)
    limit = next((value for name in CONTEXT_NAMES if isinstance(value := getattr(text, name, None), int)), 0)
    rotary = getattr(text, "rope_parameters", None) or {}
    stretched = (rotary.get("factor") or 1.0) * (rotary.get("original_max_position_embeddings") or 0)
    return max(limit, int(stretched)) if limit > 0 else None  # XLNet says -1


def check_context(context: int | None, longest: int, key: str, length_key: str) -> None:
    """Check that a model can read the longest text that it will be given.

    Args:
        context: see `context_length`; None: no limit.
        longest: in tokens of the model.
        key: the setting that named the model, for messages.
        length_key: the setting that decides how long the text is.

    Raises:
        UserError: the context is shorter.
    """
    if context is not None and context < longest:
        raise UserError(
            f"{length_key}: expected at most {context} tokens, the context of {key}, got {longest} in the longest "
            f"window; set {length_key}={context}, or choose a model that reads more"
        )


def check_rows(rows: int, vocab_size: int, key: str) -> None:
    """Compare the vocabulary rows of a model, or of its configuration, with the size of its tokenizer.

    Raises:
        UserError: fewer rows than the tokenizer has ids.
    """
    if rows < vocab_size:
        raise UserError(
            f"{key}: expected at least {vocab_size} vocabulary rows for its tokenizer, got a model with {rows}; "
            "model and tokenizer do not belong together"
        )


def check_fits(model: PreTrainedModel, vocab_size: int, max_length: int, key: str, length_key: str) -> None:
    """Check a model against its tokenizer and the longest sequence it will read; print if its head is padded.

    Raises:
        UserError: fewer rows than the tokenizer has ids, or a context shorter than a sequence.
    """
    rows = model.get_output_embeddings().weight.shape[0]
    check_rows(rows, vocab_size, key)
    if rows > vocab_size:
        print(f"{key}: {rows:,} vocabulary rows for {vocab_size:,} tokens; the rows beyond them are left out")
    check_context(context_length(model.config), max_length, key, length_key)
