"""Where an embedding model, its tokenizer and its prompts are: hub names, folders and one packaged model.

Used by the data step, which tokenizes for both models, and by everything that loads one of them.
"""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tokenizers.normalizers import Lowercase, Sequence
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.embeddings import PACKAGED
from kdkit.errors import UserError
from kdkit.machine.hub import explain_load_error, hub_is_reachable, is_local_path, resolve_model_path
from kdkit.machine.packages import PREFIX

NAME_OF_PROMPT = re.compile(r"[\w.-]+")
"""What a prompt's name looks like; texts have spaces or a colon."""


def resolve_embedding_path(path: str, key: str) -> str:
    """Return a hub name as it is, and a folder or a packaged model as a folder that exists.

    Args:
        path: hub name, folder, `package:NAME`, or the bare name of the package of notebook 06.
        key: the setting that named it, for messages.

    Raises:
        UserError: see `resolve_model_path`.
    """
    return resolve_model_path(PREFIX + path if path == PACKAGED else path, key)


def load_fast_tokenizer(
    path: str, revision: str | None, key: str, trust_remote_code: bool = False
) -> PreTrainedTokenizerFast:
    """Load the tokenizer of an embedding model: a fast one, which gives the characters that each token covers.

    Raises:
        UserError: see `resolve_embedding_path` and `load_tokenizer`; it has no padding token.
    """
    tokenizer = load_tokenizer(resolve_embedding_path(path, key), key, revision, trust_remote_code)
    if tokenizer.pad_token_id is None:
        raise UserError(
            f"{key}: expected a tokenizer with a padding token, got none in {path!r}; set its pad_token and save it"
        )
    if _read_json(path, "sentence_bert_config.json", revision, key).get("do_lower_case"):
        backend = tokenizer.backend_tokenizer
        backend.normalizer = Sequence([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])
    return tokenizer


def resolve_prompt(prompt: str, path: str, revision: str | None, key: str) -> str:
    """Return the text that stands before every sentence.

    Args:
        prompt: that text, or the name of one of the model's own prompts (config_sentence_transformers.json); empty:
            the model's default prompt, where it declares one.
        path: hub name or folder of the model.
        key: the setting that named the model, for messages.

    Raises:
        UserError: the file that declares the prompts cannot be read; see `choose_prompt`.
    """
    declared = _read_json(path, "config_sentence_transformers.json", revision, key)
    own = declared.get("prompts") or {}
    return choose_prompt(prompt or declared.get("default_prompt_name") or "", own, key.rpartition(".")[0] + ".prompt")


def choose_prompt(prompt: str, own: Mapping[str, str | None], key: str) -> str:
    """Return the text of a prompt that is given by its name, or as that text.

    Args:
        own: the model's own prompts, by name.
        key: the setting that gives the prompt, for messages.

    Raises:
        UserError: one word without a colon that is nearly a name: in silence it would stand before every sentence.
    """
    if prompt in own:
        return own[prompt] or ""
    names = {name.lower(): name for name in own}
    looks_like_name = NAME_OF_PROMPT.fullmatch(prompt) and prompt not in own.values()
    near = get_close_matches(prompt.lower(), names) if looks_like_name else []
    if near:
        raise UserError(
            f"{key}: expected a text, or the name of one of the model's prompts ({', '.join(own)}), got {prompt!r}; "
            f"name {names[near[0]]!r}, or end a text with a space"
        )
    return prompt


def check_length(length: int, setting: str, path: str, revision: str | None, key: str) -> None:
    """Refuse inputs beyond a model's context, by its config.json alone: before sentences are cut to that length.

    Args:
        setting: the one that gave the length.
        key: the one that named the model.

    Raises:
        UserError: more tokens than the model has positions for.
    """
    check_context(_read_json(path, "config.json", revision, key), length, setting, path, key)


def check_context(declared: dict[str, Any], length: int, setting: str, path: str, key: str) -> None:
    """Refuse inputs beyond the context that a config.json declares; see `check_length`."""
    context = declared.get("max_position_embeddings")
    if isinstance(context, int) and declared.get("position_embedding_type", "absolute") == "absolute":
        # RoBERTa and its kin give up the first positions, up to that of padding
        takes_padding = declared.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet")
        context -= (declared.get("pad_token_id", 1) + 1) if takes_padding else 0
        if length > context:
            raise UserError(
                f"{setting}: expected at most {context} tokens, the context of {path!r} ({key}), got {length}; set "
                f"{setting}={context}"
            )


def _read_json(path: str, file: str, revision: str | None, key: str) -> dict[str, Any]:
    """Read a JSON file of a model; empty where it has no such file."""
    name = resolve_embedding_path(path, key)
    try:
        found = cached_file(
            name,
            file,
            revision=revision,
            local_files_only=is_local_path(name) or not hub_is_reachable(),
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return json.loads(Path(found).read_text(encoding="utf-8")) if found else {}
    except (OSError, ValueError) as error:
        raise explain_load_error(error, name, key, file) from None
