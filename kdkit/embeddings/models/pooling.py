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

from kdkit.embeddings.models.places import resolve_prompt
from kdkit.errors import UserError
from kdkit.machine.hub import hub_is_reachable, is_local_path

POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
"""Names in `1_Pooling/config.json`, and ours."""
SWITCHES = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "lasttoken": "pooling_mode_lasttoken",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
}
"""The same before version 6: one switch for each."""
MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
"""Supported modules, in the only supported order; the last two may be missing."""


@dataclass(frozen=True)
class Reading:
    """How token states become a vector."""

    pooling: str
    """`mean`, `cls` or `last`."""
    normalize: bool
    """Whether the model's own vectors have length 1."""
    max_length: int
    """Longest input in tokens, special ones and prompt included."""
    prompt: str = ""
    """Text before every sentence."""
    prompts: dict[str, str] = field(default_factory=dict)
    """The model's own prompts, by name."""
    head_folder: str = ""
    """Folder of its linear head within the model's folder; empty: none."""
    own_pooling: str = ""
    """The pooling that the folder declares; empty: none."""
    pool_prompt: bool = True
    """Whether the prompt's tokens are pooled too; false: `include_prompt` of the folder (INSTRUCTOR)."""
    notes: tuple[str, ...] = ()
    """What had to be assumed."""


def pool(hidden_states: torch.Tensor, attention_mask: torch.Tensor, how: str) -> torch.Tensor:
    """Make one vector of each sentence's token states, padded on whichever side.

    Args:
        hidden_states: `[B, S, H]`, any dtype; what stands at padding does not matter, not even NaN.
        attention_mask: `[B, S]`, 1 at real tokens.
        how: `mean` of the real tokens, `cls` (the first of them) or `last`.

    Returns:
        fp32, `[B, H]`; zeros for a row without real tokens.
    """
    is_real = attention_mask.to(hidden_states.device, torch.bool)
    states = hidden_states.float().masked_fill(~is_real[..., None], 0.0)
    if how == "mean":
        return states.sum(dim=1) / is_real.sum(dim=1, keepdim=True).clamp(min=1)
    if how not in ("cls", "last"):
        raise UserError(f"pool: expected mean, cls or last, got {how!r}; choose one of them")
    steps = torch.arange(1, is_real.shape[1] + 1, device=is_real.device)
    place = (is_real * (steps if how == "last" else steps.flip(0))).argmax(dim=1)
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
    settings = read_json(name, f"{modules['Pooling']}/config.json", revision) or {} if "Pooling" in modules else {}
    own, pool_prompt = _own_pooling(settings) if "Pooling" in modules else "", settings.get("include_prompt", True)
    if pooling == "auto" and own and own not in POOLINGS.values():
        raise UserError(
            f"{key}: expected a model that pools by mean, cls or last token, got {own!r} in its "
            f"{modules['Pooling']}/config.json; choose another model, or set the pooling"
        )
    fallback = "last" if causal else "mean"
    kind = "a causal model" if causal else "an encoder"
    note = () if own or pooling != "auto" else (f"its folder says no pooling; {fallback} is usual for {kind}",)
    settings = read_json(name, "config_sentence_transformers.json", revision) or {}
    prompts = {label: text or "" for label, text in (settings.get("prompts") or {}).items()}
    own_length = (read_json(name, "sentence_bert_config.json", revision) or {}).get("max_seq_length")
    return Reading(
        pooling=(own or fallback) if pooling == "auto" else pooling,
        normalize="Normalize" in modules if normalize == "auto" else bool(normalize),
        max_length=max_length or own_length or 512,
        prompt=resolve_prompt(prompt, name, revision, key),
        prompts=prompts,
        head_folder=modules.get("Dense", ""),
        own_pooling=own,
        pool_prompt=pool_prompt,
        notes=note,
    )


def read_modules(name: str, key: str, revision: str | None = None) -> dict[str, str]:
    """Read `modules.json`: the folder of each kind of module; empty where there is no such file.

    Raises:
        UserError: other modules than ours, or in another order.
    """
    listed = read_json(name, "modules.json", revision) or []
    kinds = [str(module["type"]).rpartition(".")[2] for module in listed]
    if listed and kinds != [kind for kind in MODULES if kind in kinds or kind in MODULES[:2]]:
        raise UserError(
            f"{key}: expected the modules Transformer, Pooling and perhaps Dense, Normalize, got {', '.join(kinds)} "
            f"in modules.json; choose another model"
        )
    return {kind: str(module["path"]) for kind, module in zip(kinds, listed, strict=True)}


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
    return "+".join(POOLINGS.get(mode, mode) for mode in ([modes] if isinstance(modes, str) else modes))
