"""An embedding model: a transformer, a pooling, perhaps a head; loading it and reading sentences with it."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.embeddings.models.backbone import context_length, is_causal, load_backbone
from kdkit.embeddings.models.late import STATES
from kdkit.embeddings.models.modules import SENTENCE, head_width, read_head
from kdkit.embeddings.models.places import choose_prompt, load_fast_tokenizer, resolve_embedding_path
from kdkit.embeddings.models.pooling import Reading, pool, read_reading
from kdkit.embeddings.models.static import NO_LIMIT, is_static, load_table
from kdkit.errors import UserError
from kdkit.machine.hub import is_local_path
from kdkit.models.loading import check_model_folder
from kdkit.runs.folder import fingerprint, fingerprint_files

PIECE = 4096
"""Texts that are tokenized at once."""


@dataclass(frozen=True)
class Encoded:
    """Sentence vectors of a batch, and the token states and attention maps that were requested."""

    pooled: torch.Tensor
    """fp32, `[B, H]`: behind the head if there is one, not normalised."""
    hidden_states: tuple[torch.Tensor, ...] = ()
    """`num_layers + 1` tensors `[B, S, H]`, the embedding layer's first; empty unless requested."""
    attentions: tuple[torch.Tensor, ...] = ()
    """`num_layers` tensors `[B, num_heads, S, S]`; empty unless requested."""


class EmbeddingModel(nn.Module):
    """A transformer whose token states are pooled to one vector per sentence."""

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        reading: Reading,
        head: nn.Module | None = None,
    ):
        """Put a model together.

        Args:
            head: behind the pooling: modules of `kdkit.embeddings.models.modules` in a row, or one linear map.
        """
        super().__init__()
        self.backbone, self.head = backbone, head
        self.tokenizer, self.reading = tokenizer, reading

    @property
    def num_layers(self) -> int:
        """Layers of the transformer, without the embedding layer."""
        return self.backbone.config.num_hidden_layers

    @property
    def backbone_width(self) -> int:
        """Width of the token states."""
        return self.backbone.config.hidden_size

    @property
    def pooled_width(self) -> int:
        """Width of the vectors before the head."""
        return self.backbone_width * len(self.reading.pooling.split("+"))

    @property
    def width(self) -> int:
        """Width of the sentence vectors."""
        return head_width(self.head, self.pooled_width)

    @property
    def pad_id(self) -> int:
        """Id that fills up a batch; any will do, since the attention mask hides it."""
        return self.tokenizer.pad_token_id

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        hidden_states: bool = False,
        attentions: bool = False,
    ) -> Encoded:
        """Encode a batch.

        Args:
            input_ids: int64, `[B, S]`; padded on the right where positions are absolute (BERT).
            attention_mask: `[B, S]`.

        Raises:
            UserError: attention maps of a model loaded without them: transformers would return none, silently.
        """
        output = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=hidden_states,
            output_attentions=attentions,
        )
        maps = tuple(output.attentions or ()) if attentions else ()
        if attentions and len(maps) != self.num_layers:
            raise UserError(
                f"EmbeddingModel: expected attention maps of {self.num_layers} layers, got {len(maps)}; load the model "
                "with attentions=True (transformers gives maps with attn_implementation='eager' only)"
            )
        pooled = self.pool(output.last_hidden_state, attention_mask)
        states = tuple(output.hidden_states) if hidden_states else ()
        return Encoded(self.project(pooled), states, maps)

    def pool(self, states: torch.Tensor, attention_mask: torch.Tensor, how: str = "") -> torch.Tensor:
        """Pool token states as the model does, or as `how` says, without a prompt's tokens where they do not count."""
        reading = self.reading
        skip = count_prompt_tokens(self.tokenizer, reading) if reading.prompt and not reading.pool_prompt else 0
        return pool(states, attention_mask, how or reading.pooling, skip)

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """Apply the head, if there is one, in fp32, whatever the dtype of model or autocast: fp32, `[..., H]`."""
        if self.head is None:
            return states.float()
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float())


def load_embedding_model(
    path: str,
    key: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    pooling: str = "auto",
    normalize: str | bool = "auto",
    prompt: str = "",
    max_length: int | None = None,
    attentions: bool = False,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> EmbeddingModel:
    """Load an embedding model, in evaluation mode: a sentence-transformers folder, or any encoder or causal LM.

    Args:
        path: hub name, folder, or the name of the packaged model.
        key: the setting that named it, for messages.
        max_length: longest input in tokens; None: the model's own.
        attentions: load it so that it can return attention maps, which is slower.

    Raises:
        UserError: no network, no safetensors weights, an encoder-decoder, unsupported modules, or a
            `max_length` beyond its context.
    """
    name = resolve_embedding_path(path, key)
    if is_static(name, revision):
        return _load_static(name, key, revision, max_length).to(device, dtype)
    name = check_model_folder(name, key)
    tokenizer = load_fast_tokenizer(path, revision, key, trust_remote_code)
    backbone = load_backbone(name, key, revision, trust_remote_code, attentions, dtype).to(device)
    reading = read_reading(
        name,
        key,
        revision=revision,
        causal=is_causal(backbone),
        pooling=pooling,
        normalize=normalize,
        prompt=prompt,
        max_length=max_length,
    )
    context = context_length(backbone)
    if max_length is None:
        reading = replace(reading, max_length=min(reading.max_length, context))
    if reading.late is not None:
        reading = replace(reading, late=reading.late.within(context))
    if context < reading.max_length:
        raise UserError(
            f"{key}: expected inputs of at most {context} tokens, its context, got max_length {reading.max_length}; "
            "lower it"
        )
    width = backbone.config.hidden_size * len(reading.pooling.split("+"))
    head = read_head(name, reading.head, width, key, revision, SENTENCE if reading.late is None else STATES)
    model = EmbeddingModel(backbone, tokenizer, reading, head)
    return model.to(device).eval()


def check_weights(model: nn.Module, key: str, path: str) -> None:
    """Refuse a model whose weights are no numbers.

    Args:
        key: the setting that named it, for messages.

    Raises:
        UserError: NaN or infinite weights.
    """
    parts = dict(model.named_parameters())
    if broken := [name for name, values in parts.items() if not values.isfinite().all()]:
        raise UserError(
            f"{key}: expected finite weights in {path!r}, got NaN or infinite ones in {len(broken)} of {len(parts)} "
            f"tensors ({broken[0]}); name another model"
        )


def _load_static(name: str, key: str, revision: str | None, max_length: int | None) -> EmbeddingModel:
    """Load a static model, which has no layers and no limit of its own."""
    table, tokenizer, normalize = load_table(name, key, revision)
    reading = Reading(pooling="mean", normalize=normalize, max_length=max_length or NO_LIMIT, own_pooling="mean")
    return EmbeddingModel(table, tokenizer, reading).eval()


def fingerprint_model(path: str, revision: str | None, key: str) -> dict[str, str]:
    """Identify the model of a path without loading it: a hub model by name and revision, a folder by its content.

    Raises:
        UserError: see `check_model_folder`.
    """
    name = resolve_embedding_path(path, key)
    name = name if is_static(name, revision) else check_model_folder(name, key)
    if not is_local_path(name):
        return {"path": name, "revision": revision or "main"}
    folder = Path(name)
    files = [folder / "config.json", folder / "tokenizer.json", *sorted(folder.rglob("*.safetensors"))]
    return {"files": fingerprint(*(fingerprint_files(file) for file in files if file.is_file()))}


def tokenize(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int, prompt: str = ""
) -> list[list[int]]:
    """Return the ids of each text behind the prompt, with special tokens, cut to `max_length`."""
    if not texts:
        return []
    prompted = [prompt + text for text in texts] if prompt else texts
    ids = tokenizer(prompted, truncation=True, max_length=max_length, padding=False).input_ids
    tokenizer.backend_tokenizer.no_truncation()  # or whoever uses it next would read texts that are cut
    return ids


def _tokenize_in_pieces(
    tokenizer: PreTrainedTokenizerFast, texts: list[str], max_length: int, prompt: str
) -> list[np.ndarray]:
    """Tokenize as `tokenize`, some texts at a time: a tokenizer holds words and places of all texts of a call."""
    ids: list[np.ndarray] = []
    for start in range(0, len(texts), PIECE):
        piece = tokenize(tokenizer, texts[start : start + PIECE], max_length, prompt)
        ids += [np.array(text, np.int32) for text in piece]
    return ids


def count_prompt_tokens(tokenizer: PreTrainedTokenizerFast, reading: Reading) -> int:
    """Count the tokens before a text's own: the prompt's and special ones, as sentence-transformers counts them."""
    if not reading.prompt:
        return 0
    (ids,) = tokenize(tokenizer, [""], reading.max_length, reading.prompt)
    return len(ids) - (bool(ids) and ids[-1] in tokenizer.all_special_ids)


def pad_ids(ids: Sequence[Sequence[int]], pad_id: int, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """Make a batch of texts, as wide as the longest of them, at least 1.

    Returns:
        `input_ids` and `attention_mask`, int64, `[B, S]`.
    """
    width = max([1, *map(len, ids)])
    input_ids, attention_mask = np.full((len(ids), width), pad_id), np.zeros((len(ids), width), np.int64)
    for row, text in enumerate(ids):
        place = slice(width - len(text), width) if side == "left" else slice(len(text))
        input_ids[row, place] = text
        attention_mask[row, place] = 1
    return torch.from_numpy(input_ids), torch.from_numpy(attention_mask)


def batches_by_length(ids: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Yield the numbers of texts of about equal length, the longest first: a batch that is too large fails at once."""
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def encode(
    model: EmbeddingModel,
    texts: list[str],
    batch_size: int,
    *,
    autocast_dtype: torch.dtype | None = None,
    normalize: bool = True,
    prompt: str | None = None,
) -> np.ndarray:
    """Return the vector of each text, in the order given, with dropout off.

    Args:
        autocast_dtype: compute in it; None: in the weights' own.
        normalize: scale every vector to length 1.
        prompt: a text before every one of them, or the name of one of `model.reading.prompts`, such as `query`; None:
            the prompt in use, `model.reading.prompt`; empty: none.

    Returns:
        fp32, `[num_texts, H]`.

    Raises:
        UserError: see `choose_prompt`.
    """
    reading = model.reading
    if prompt is not None:
        model.reading = replace(reading, prompt=choose_prompt(prompt, reading.prompts, "prompt"))
    try:
        ids = _tokenize_in_pieces(model.tokenizer, texts, reading.max_length, model.reading.prompt)
        return encode_ids(model, ids, batch_size, autocast_dtype=autocast_dtype, normalize=normalize)
    finally:
        model.reading = reading


@torch.no_grad()
def encode_ids(
    model: EmbeddingModel,
    ids: Sequence[Sequence[int]],
    batch_size: int,
    *,
    autocast_dtype: torch.dtype | None = None,
    normalize: bool = False,
) -> np.ndarray:
    """Return the vector of each text, given by its token ids; see `encode`."""
    vectors = torch.zeros(len(ids), model.width)
    was_training, device = model.training, model.device
    model.eval()
    for rows in batches_by_length(ids, batch_size):
        batch = pad_ids([ids[row] for row in rows], model.pad_id)
        with torch.autocast(device.type, autocast_dtype) if autocast_dtype else nullcontext():
            vectors[rows] = model(*(tensor.to(device) for tensor in batch)).pooled.cpu()
    model.train(was_training)
    return (F.normalize(vectors, dim=-1) if normalize else vectors).numpy()
