"""An ONNX graph of a causal LM in the place of a model of transformers: it writes, and it reads."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.errors import UserError
from kdkit.models.generation import CACHE
from kdkit.models.onnx.causal import Pair, graph_names, positions
from kdkit.models.onnx.graph import FULL, check_packages, open_graph
from kdkit.models.reading import Reader, Rows
from kdkit.runs.paths import resolve_input


class OnnxCausalLM(PreTrainedModel, GenerationMixin):
    """A causal LM that onnxruntime computes on the CPU; it has no parameters of its own."""

    config_class = PreTrainedConfig
    main_input_name = "input_ids"
    _supports_sdpa = True  # asked for when it is made; attention lies in the graph

    def __init__(self, file: Path, config: PreTrainedConfig):
        """Open a graph that `write_causal_graph` made.

        Args:
            config: of the model that it was made from.
        """
        super().__init__(config)
        self.session = open_graph(file)
        self.inputs, self.outputs = graph_names(config.get_text_config(decoder=True).num_hidden_layers)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of its logits."""
        return torch.float32

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        cache: DynamicCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast:
        """Predict, and keep keys and values in the cache that was given.

        Args:
            input_ids: int64, `[B, S]`.
            attention_mask: `[B, past + S]`; None: nothing is padding.
            position_ids: `[B, S]`; None: counted from the mask.
            past_key_values: under transformers' older name what `cache` is under its newer one.
            cache: filled by earlier calls; None: nothing was read yet.
            use_cache: it always does.
            return_dict: it always does.
        """
        given = cache if cache is not None else past_key_values
        kept = DynamicCache() if given is None else given
        past = [(layer.keys, layer.values) for layer in kept.layers if layer.is_initialized]
        past = past or self.empty_past(len(input_ids))
        if attention_mask is None:
            attention_mask = torch.ones(len(input_ids), past[0][0].shape[2] + input_ids.shape[1], dtype=torch.int64)
        if position_ids is None:
            position_ids = positions(attention_mask, input_ids.shape[1])
        logits, present = self.step(input_ids, attention_mask, position_ids, past)
        _keep(kept, present)
        return CausalLMOutputWithPast(logits=logits, **{CACHE: kept})

    def empty_past(self, batch_size: int) -> list[Pair]:
        """Return keys and values of no tokens."""
        shapes = [node.shape for node in self.session.get_inputs()[3:]]  # batch, heads, length, width
        parts = [torch.zeros(batch_size, heads, 0, width) for _, heads, _, width in shapes]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def step(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, past: list[Pair]
    ) -> tuple[torch.Tensor, list[Pair]]:
        """Run the graph: logits, fp32, `[B, S, V]`, and keys and values of all tokens so far."""
        tensors = [input_ids, attention_mask.long(), position_ids, *(part for pair in past for part in pair)]
        feeds = {name: tensor.contiguous().numpy() for name, tensor in zip(self.inputs, tensors, strict=True)}
        logits, *parts = map(torch.from_numpy, self.session.run(self.outputs, feeds))
        return logits, list(zip(parts[::2], parts[1::2], strict=True))

    def reader(self, vocab_size: int) -> Reader:
        """Return what reads with it; of a padded head the first `vocab_size` rows."""
        return _OnnxReader(self, vocab_size)


def _keep(cache: Any, present: list[Pair]) -> None:
    """Put keys and values of all tokens into a cache; the graph has joined them already, so nothing is copied."""
    for number, (keys, values) in enumerate(present):
        if number >= len(cache.layers) or not cache.layers[number].is_initialized:
            cache.update(keys, values, number)
        else:
            cache.layers[number].keys, cache.layers[number].values = keys, values


class _OnnxReader(Reader):
    """Reads with a graph, whose head computes all rows at once."""

    def __init__(self, model: OnnxCausalLM, vocab_size: int):
        super().__init__("onnxruntime", vocab_size, model.device)
        self.model = model

    def read(self, input_ids: torch.Tensor) -> Rows:
        """See `Reader.read`."""
        mask = torch.ones_like(input_ids)
        past = self.model.empty_past(len(input_ids))  # and no cache to be filled for nothing
        logits, _ = self.model.step(input_ids, mask, positions(mask, input_ids.shape[1]), past)
        flat = logits[..., : self.vocab_size].flatten(0, 1)
        return lambda rows: flat.index_select(0, rows)


def find_graph(path: str) -> Path | None:
    """Return the graph of a causal LM that a path names: a file, or in a folder the one in fp32; None: neither."""
    named = resolve_input(path)
    if named.suffix == ".onnx" and named.is_file():
        return named
    has_weights = (named / "model.safetensors").is_file()  # then they are meant, and the graph stands beside them
    return named / FULL if (named / FULL).is_file() and not has_weights else None


def load_graph(file: Path, key: str) -> tuple[OnnxCausalLM, PreTrainedTokenizerFast]:
    """Open a graph in the folder that `export --format onnx` wrote, with its tokenizer.

    Args:
        key: the setting that named it, for messages.

    Raises:
        UserError: a package that is missing, a folder without config.json or tokenizer, or a graph that is none of a
            causal LM.
    """
    check_packages()
    folder = file.parent.parent
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{key}: expected config.json in {str(folder)!r}, the folder of {file.name}, got none; write it "
            "anew: python -m kdkit export RUN OUT --format onnx"
        )
    model = OnnxCausalLM(file, AutoConfig.from_pretrained(folder, local_files_only=True))
    names = [each.name for each in model.session.get_inputs()]
    if names != model.inputs:
        raise UserError(
            f"{key}: expected a graph with the inputs {', '.join(model.inputs[:4])}, ..., got {', '.join(names[:4])} "
            f"in {str(file)!r}; write it by python -m kdkit export RUN OUT --format onnx"
        )
    return model, load_tokenizer(folder, key)
