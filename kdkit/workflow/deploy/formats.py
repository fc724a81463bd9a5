"""The formats of an exported language model: written, and opened again as whoever uses them does."""

import copy
import importlib.util
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from kdkit.models.gguf.write import Quantisation, check_convertible, count_weight_bytes, read_weights, write_gguf
from kdkit.models.loading import load_causal_lm
from kdkit.models.onnx.causal import check_cache, positions, write_causal_graph
from kdkit.models.onnx.graph import FULL, QUANTISED, check_packages, quantise_graph
from kdkit.models.onnx.running import OnnxCausalLM
from kdkit.models.quantised.model import WEIGHTS, save_quantised, weight_bits
from kdkit.runs.disk import whole_folder
from kdkit.teachers.gguf import GGUFTeacher
from kdkit.workflow.deploy.measure import Opened, open_generating, open_torch

BITS = {"int8": 8, "int4": 4, "q8_0": 8, "q4_0": 4}
"""Of matrices, by a format or by how a GGUF file stores them."""
CLOSE = 1e-3
"""Largest difference of a logit between onnxruntime and torch in fp32."""
BLOCK = 64
"""Neighbours that share a scale in INT8; one scale for all cost SmolLM2-135M 13.6 % of bits per byte, these 0.4 %."""
STEPS = 4
"""Tokens that are read one by one in the check of a graph, after as many at once."""


def check_format(format: str, quantise: Quantisation, config: PreTrainedConfig, key: str) -> None:
    """Refuse what cannot be written in a format, before a model's weights are read.

    Raises:
        UserError: see `check_convertible`, `check_cache`, `check_packages`.
    """
    if format == "gguf":
        check_convertible(config, key)
    elif format == "onnx":
        check_packages()
        check_cache(config.get_text_config(decoder=True), key)


def write_onnx(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, key: str) -> dict[str, Opened]:
    """Write a folder with the graph in fp32, checked against torch, and in INT8.

    Raises:
        UserError: see `write_causal_graph`.
        RuntimeError: the graph in fp32 gives other logits than torch.
    """
    with whole_folder(folder) as partial:
        model.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        full = write_causal_graph(model, partial / FULL, key)
        check_graph(model, OnnxCausalLM(full, model.config), len(tokenizer))
        quantise_graph(full, partial / QUANTISED, BLOCK)
    return {
        name: _open_graph(folder / file, model.config, len(tokenizer))
        for name, file in (("onnx, fp32", FULL), ("onnx, INT8", QUANTISED))
    }


def _open_graph(file: Path, config: PreTrainedConfig, vocab_size: int) -> Opened:
    model = OnnxCausalLM(file, config)
    num_bytes = sum(each.stat().st_size for each in file.parent.glob(f"{file.name}*"))
    return open_generating(model, model.reader(vocab_size), num_bytes)


@torch.no_grad()
def check_graph(model: PreTrainedModel, graph: OnnxCausalLM, vocab_size: int) -> float:
    """Compare a graph with its model: a padded batch at once, then token by token with keys and values kept.

    Returns:
        The largest difference of a logit.

    Raises:
        RuntimeError: it is above `CLOSE`.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (2, 2 * STEPS), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, : STEPS // 2] = 0  # the second text is shorter
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask, 2 * STEPS), use_cache=False)
    past, parts = graph.empty_past(2), []
    for start, end in [(0, STEPS), *((step, step + 1) for step in range(STEPS, 2 * STEPS))]:
        seen = mask[:, :end]
        logits, past = graph.step(ids[:, start:end], seen, positions(seen, end - start), past)
        parts.append(logits)
    differences = (torch.cat(parts, dim=1) - output.logits).abs()[mask.bool()]
    found = float(differences.max())
    if not found <= CLOSE:
        raise RuntimeError(f"ONNX: expected torch's logits within {CLOSE:g}, got a difference of {found:.2g}")
    return found


def write_few_bits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, format: str
) -> dict[str, Opened]:
    """Write a folder with weights in 8 or 4 bits, which kdkit loads.

    Raises:
        UserError: see `check_width`.
    """
    weight_bits(model, BITS[format])  # before anything is written
    with whole_folder(folder) as partial:
        save_quantised(model, partial, BITS[format])
        tokenizer.save_pretrained(partial)
    loaded = load_causal_lm(str(folder), "OUT")
    return {format: open_torch(loaded, len(tokenizer), (folder / WEIGHTS).stat().st_size)}


def write_gguf_file(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, file: Path, name: str, key: str, quantise: Quantisation
) -> dict[str, Opened]:
    """Write a GGUF file, and open it by llama.cpp where that is installed; else its weights in torch.

    Raises:
        UserError: see `write_gguf`.
    """
    write_gguf(model, tokenizer, file, name, key, quantise)
    size = count_weight_bytes(file)
    label = f"gguf, {'fp32' if quantise == 'none' else quantise.upper()}"
    if importlib.util.find_spec("llama_cpp") is not None:
        teacher = GGUFTeacher(str(file), tokenizer, "OUT")
        write = lambda prompts, sampling: teacher.write(prompts, sampling, [])  # noqa: E731
        return {label: Opened(teacher.reader(), size, write)}
    stored = copy.deepcopy(model)
    stored.load_state_dict(read_weights(file, model.config, model.state_dict()))
    return {label: open_torch(stored, len(tokenizer), size, reads_here=False)}
