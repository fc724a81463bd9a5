"""A static embedding model: a table with a row for every token, whose mean over a text is its vector.

No attention and no position: a text is read at the speed of its tokenizer. Saved as the module StaticEmbedding of
sentence-transformers; its own tables and model2vec's are read. Source: model2vec (Tulkens and van Dongen 2024).
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import PreTrainedTokenizerFast

from kdkit.embeddings.models.pooling import find_file, read_json
from kdkit.errors import UserError

MODULE = "StaticEmbedding"
"""Name of the module in `modules.json`."""
FOLDER = f"0_{MODULE}"
"""Its folder where kdkit saves one."""
NO_LIMIT = 2**20
"""Longest input in tokens of a model that has no limit."""
NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "bos_token", "eos_token", "mask_token")


class TokenTable(nn.Module):
    """A table in the place of a transformer: token states are its rows, and there are no layers."""

    def __init__(self, rows: torch.Tensor):
        """Take the rows, `[V, H]`."""
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(rows.contiguous(), freeze=False)
        self.config = SimpleNamespace(num_hidden_layers=0, hidden_size=rows.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.embedding.weight.device

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table, by the name that transformers uses."""
        return self.embedding

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> SimpleNamespace:
        """Look rows up: `last_hidden_state` `[B, S, H]`, and `hidden_states`, which holds nothing else."""
        states = self.embedding(input_ids)
        return SimpleNamespace(last_hidden_state=states, hidden_states=(states,), attentions=None)


def plain_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a copy that puts no special tokens around a text, as StaticEmbedding reads it."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_padding()
    backend.no_truncation()
    names = {name: text for name in NAMES if (text := getattr(tokenizer, name)) is not None}
    return _wrap(backend, names)


def is_static(name: str, revision: str | None = None) -> bool:
    """Return whether a model's folder lists a StaticEmbedding first."""
    try:
        listed = read_json(name, "modules.json", revision) or []
    except OSError:  # a hub name that does not exist: explained where its weights are read
        return False
    return bool(listed) and str(listed[0]["type"]).rpartition(".")[2] == MODULE


def load_table(name: str, key: str, revision: str | None) -> tuple[TokenTable, PreTrainedTokenizerFast, bool]:
    """Load a static model: its table, its tokenizer, and whether its vectors have length 1.

    Raises:
        UserError: modules behind it other than Normalize; no weights or tokenizer there.
    """
    listed = read_json(name, "modules.json", revision)
    others = [str(module["type"]).rpartition(".")[2] for module in listed[1:]]
    if others not in ([], ["Normalize"]):
        raise UserError(
            f"{key}: expected {MODULE} and perhaps Normalize, got {', '.join(others)}; choose another model"
        )
    folder = f"{listed[0]['path']}/" if listed[0]["path"] else ""
    weights, words = (find_file(name, folder + file, revision) for file in ("model.safetensors", "tokenizer.json"))
    if weights is None or words is None:
        lacking = "model.safetensors" if weights is None else "tokenizer.json"
        raise UserError(f"{key}: expected {folder}{lacking} in {name!r}, got none; save the static model again")
    backend = Tokenizer.from_file(str(words))
    backend.no_padding()
    names = read_json(name, folder + "tokenizer_config.json", revision) or {}
    known = {label: names[label] for label in NAMES if isinstance(names.get(label), str)}
    return TokenTable(_rows(load_file(weights))), _wrap(backend, known), others == ["Normalize"]


def save_table(table: TokenTable, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Fill the folder of the module."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": table.embedding.weight.detach().cpu().contiguous()}, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)


def _rows(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return a row for every token id, fp32; model2vec keeps rows, their tokens and weights apart."""
    if "embedding.weight" in weights:
        return weights["embedding.weight"].float()
    rows = weights["embeddings"].float()
    if "mapping" in weights:
        rows = rows[weights["mapping"].long()]
    return rows * weights["weights"].float()[:, None] if "weights" in weights else rows


def _wrap(backend: Tokenizer, names: dict[str, str]) -> PreTrainedTokenizerFast:
    """Make a tokenizer without special tokens around a text; a batch needs some token to be filled up with."""
    backend.post_processor = TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    first = backend.id_to_token(0)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **({"pad_token": first, "cls_token": first} | names))
