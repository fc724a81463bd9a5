"""Pooling of token states to sentence vectors, and the settings for it in a model's folder.

A sentence-transformers folder lists its modules in `modules.json`; each has its own config.json
(`1_Pooling/config.json`), in the form of version 6 or in the older one of `pooling_mode_*` switches.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import EntryNotFoundError

from kdkit.embeddings.models.late import MASK, LateReading, parse_late
from kdkit.embeddings.models.places import resolve_prompt
from kdkit.errors import UserError
from kdkit.machine.hub import hub_is_reachable, is_local_path

SWITCHES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""sentence-transformers' poolings, with the switch for each that its versions before 6 write; in this order several
are put one behind the other."""
LAST = "last"
"""Our name for `lasttoken`."""
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", LAST)
"""Our names of all of them."""
KINDS = ("Dense", "Normalize", "LayerNorm", "Dropout")
"""Modules behind Transformer and Pooling, in any number and order; see `kdkit.embeddings.models.modules`."""
NO_LIMIT = 10**6
"""Lengths from here on are tokenizers' way to say that they have no limit."""


@dataclass(frozen=True)
class Reading:
    """How token states become a vector."""

    pooling: str
    """One of `POOLINGS`, or several joined by `+`, whose vectors stand one behind the other: `cls+mean`."""
    normalize: bool
    """Whether the model's own vectors have length 1."""
    max_length: int
    """Longest input in tokens, special ones and prompt included."""
    prompt: str = ""
    """Text before every sentence."""
    prompts: dict[str, str] = field(default_factory=dict)
    """The model's own prompts, by name."""
    head: tuple[tuple[str, str], ...] = ()
    """Kind and folder of each module between the pooling and a last Normalize, which is `normalize`."""
    own_pooling: str = ""
    """The pooling that the folder declares; empty: none."""
    pool_prompt: bool = True
    """Whether the prompt's tokens are pooled too; false: `include_prompt` of the folder (INSTRUCTOR)."""
    notes: tuple[str, ...] = ()
    """What had to be assumed."""
    late: LateReading | None = None
    """How token vectors are made, of a model that has one for every token; what is pooled is then their mean."""


def pool(hidden_states: torch.Tensor, attention_mask: torch.Tensor, how: str, skip: int = 0) -> torch.Tensor:
    """Make one vector of each sentence's token states, padded on whichever side.

    Args:
        hidden_states: `[B, S, H]`, any dtype; what stands at padding does not matter, not even NaN.
        attention_mask: `[B, S]`, 1 at real tokens.
        how: `mean` of the real tokens, `cls` (the first of them), `last`, `max` in each place, `mean_sqrt_len_tokens`
            (their sum by the root of their number), `weightedmean` (weights 1, 2, 3, ...); or several, joined by `+`.
        skip: so many first tokens of each sentence are left out, a prompt's; they count as places for `weightedmean`.

    Returns:
        fp32, `[B, H]`, or `[B, number of poolings * H]`; zeros for a row without real tokens.
    """
    places = attention_mask.to(hidden_states.device).cumsum(dim=1)
    is_real = attention_mask.to(hidden_states.device, torch.bool) & (places > skip)
    states = hidden_states.float().masked_fill(~is_real[..., None], 0.0)
    return torch.cat([_pool_one(states, is_real, places, one) for one in how.split("+")], dim=-1)


def _pool_one(states: torch.Tensor, is_real: torch.Tensor, places: torch.Tensor, how: str) -> torch.Tensor:
    """Pool fp32 states that are zero wherever they do not count."""
    if how in ("mean", "mean_sqrt_len_tokens"):
        number = is_real.sum(dim=1, keepdim=True).clamp(min=1)
        return states.sum(dim=1) / (number if how == "mean" else number.sqrt())
    if how == "weightedmean":
        weights = (places * is_real)[..., None].float()
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    if how == "max":
        largest = states.masked_fill(~is_real[..., None], -torch.inf).amax(dim=1)
        return largest.masked_fill(~is_real.any(dim=1, keepdim=True), 0.0)
    if how not in ("cls", LAST):
        raise UserError(f"pool: expected {', '.join(POOLINGS)}, or several joined by +, got {how!r}; choose one")
    steps = torch.arange(1, is_real.shape[1] + 1, device=is_real.device)
    place = (is_real * (steps if how == LAST else steps.flip(0))).argmax(dim=1)
    return states.gather(1, place[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]


def read_reading(
    name: str,
    key: str,
    *,
    revision: str | None = None,
    causal: bool = False,
    pooling: str = "auto",
    normalize: str | bool = "auto",
    prompt: str = "",
    max_length: int | None = None,
) -> Reading:
    """Read from a model's folder how its vectors are made; the caller's settings come first.

    Args:
        name: folder, or hub name.
        key: the setting that named it, for messages.
        causal: whether its tokens attend only to those before them: then the last one's state covers the whole text.
        prompt: a text, or the name of one of the model's prompts; empty: the model's default prompt, if it has one.
        max_length: None: the model's own, or 512 where it declares none.

    Raises:
        UserError: modules, a pooling or a head that are not supported.
    """
    modules = read_modules(name, key, revision)
    if any(kind == MASK for kind, _ in modules):
        return _read_late(name, key, revision, modules, prompt, max_length)
    settings = (read_json(name, f"{modules[1][1]}/config.json", revision) or {}) if modules else {}
    own, pool_prompt = _own_pooling(settings) if modules else "", settings.get("include_prompt", True)
    if pooling == "auto" and not set(own.split("+")) <= {"", *POOLINGS}:
        raise UserError(
            f"{key}: expected a pooling out of {', '.join(POOLINGS)}, got {own!r} in {modules[1][1]}/config.json of "
            f"{name!r}; choose another model, or set the pooling"
        )
    chain = modules[2:]
    ends_normalized = bool(chain) and chain[-1][0] == "Normalize"
    fallback = "last" if causal else "mean"
    kind = "a causal model" if causal else "an encoder"
    note = () if own or pooling != "auto" else (f"its folder says no pooling; {fallback} is usual for {kind}",)
    settings = read_json(name, "config_sentence_transformers.json", revision) or {}
    prompts = {label: text or "" for label, text in (settings.get("prompts") or {}).items()}
    return Reading(
        pooling=(own or fallback) if pooling == "auto" else pooling,
        normalize=ends_normalized if normalize == "auto" else bool(normalize),
        max_length=max_length or _own_length(name, revision) or 512,
        prompt=resolve_prompt(prompt, name, revision, key),
        prompts=prompts,
        head=tuple(chain[:-1] if ends_normalized else chain),
        own_pooling=own,
        pool_prompt=pool_prompt,
        notes=note,
    )


def _read_late(
    name: str, key: str, revision: str | None, modules: list[tuple[str, str]], prompt: str, max_length: int | None
) -> Reading:
    """Read a folder of a model with a vector for every token; its vector of a whole text is their mean."""
    mask = next(folder for kind, folder in modules if kind == MASK)
    files = ("sentence_bert_config.json", f"{mask}/config.json", "config_sentence_transformers.json")
    transformer, masked, own = (read_json(name, file, revision) or {} for file in files)
    longest = max_length or _own_length(name, revision) or 512
    chain = [(kind, folder) for kind, folder in modules[1:] if kind != MASK]
    is_normalized = bool(chain) and chain[-1][0] == "Normalize"
    return Reading(
        pooling="mean",
        normalize=is_normalized,
        max_length=longest,
        prompt=resolve_prompt(prompt, name, revision, key),
        prompts={label: text or "" for label, text in (own.get("prompts") or {}).items()},
        head=tuple(chain[:-1] if is_normalized else chain),
        own_pooling="mean",
        late=parse_late(transformer, masked, own, longest, name, key),
    )


def read_modules(name: str, key: str, revision: str | None = None) -> list[tuple[str, str]]:
    """Read `modules.json`: kind and folder of each module, in their order; empty where there is no such file.

    Raises:
        UserError: other modules than a transformer, a pooling, and any of `KINDS`; or, with a vector for every token,
            a transformer, a mask, and any of Dense and Normalize.
    """
    listed = read_json(name, "modules.json", revision) or []
    modules = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in listed]
    kinds = [kind for kind, _ in modules]
    is_late = kinds[:1] == ["Transformer"] and MASK in kinds and set(kinds[1:]) <= {MASK, "Dense", "Normalize"}
    if listed and not is_late and (kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= set(KINDS)):
        raise UserError(
            f"{key}: expected Transformer, Pooling and then any of {', '.join(KINDS)}, got {', '.join(kinds)} in "
            f"modules.json of {name!r}; choose another model, or give its vectors as teacher.vectors"
        )
    return modules


def has_token_vectors(name: str, revision: str | None = None) -> bool:
    """Return whether a model, a folder or a hub name, has a vector for every token of a text."""
    return any(str(module["type"]).endswith(MASK) for module in read_json(name, "modules.json", revision) or [])


def read_json(name: str, file: str, revision: str | None = None) -> Any:
    """Read a JSON file of a model; None where it has no such file.

    Raises:
        UserError: it is damaged.
    """
    path = find_file(name, file, revision)
    try:
        return None if path is None else json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON, got another text ({error}); fetch or save the model again") from None


def find_file(name: str, file: str, revision: str | None = None) -> Path | None:
    """Find a file in a model's folder, or fetch it from the hub; None where the model has no such file."""
    if is_local_path(name):
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=revision, local_files_only=not hub_is_reachable()))
    except EntryNotFoundError:
        return None


def _own_pooling(config: dict[str, Any]) -> str:
    """Return the pooling of a `1_Pooling/config.json`, old or new; several are joined by `+`."""
    modes = config.get("pooling_mode") or [mode for mode, switch in SWITCHES.items() if config.get(switch)] or "mean"
    return "+".join(LAST if mode == "lasttoken" else mode for mode in ([modes] if isinstance(modes, str) else modes))


def _own_length(name: str, revision: str | None) -> int | None:
    """Return the longest input that a folder declares; version 6 writes it into the tokenizer's file."""
    declared = (read_json(name, "sentence_bert_config.json", revision) or {}).get("max_seq_length")
    length = declared or (read_json(name, "tokenizer_config.json", revision) or {}).get("model_max_length")
    return int(length) if length and length < NO_LIMIT else None
