"""What every ONNX graph needs: the packages, a quiet export, INT8 weights, a session of onnxruntime."""

import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdkit.errors import UserError

FULL, QUANTISED = "onnx/model.onnx", "onnx/model_qint8.onnx"
"""The graph in fp32 and with INT8 weights, within a model's folder, where optimum and sentence-transformers look."""
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
OPSET = 23
"""Of the operators: the first with attention, RMS norms and rotary positions as one operator each."""
ROUNDED = ("MatMul", "Gemm", "Gather")
"""Operators whose weights become INT8: products and tables; by default ONNX's Attention is taken for another's."""
INSTALL = "pip install 'kdkit[onnx]'"
INT8_ACTIVATIONS = 4
"""onnxruntime's `accuracy_level` of that name."""
LARGEST_BATCH = 2**16
MOST_SAID = 120
"""Characters of another program's reason."""
INSIDE_LIMIT = 2**31
"""Bytes of one protobuf file at most; weights of larger models stand in a file beside it."""


def check_packages() -> None:
    """Refuse where a package is missing that writes or runs graphs.

    Raises:
        UserError: naming the extra.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"--format onnx: expected the packages {', '.join(PACKAGES)}, got no {missing[0]}; {INSTALL}")


def export_graph(
    module: nn.Module, inputs: tuple[Any, ...], file: Path, *, names: tuple[list[str], list[str]], sizes: Any
) -> Path:
    """Write a module on the CPU as an ONNX file in fp32.

    Args:
        inputs: one example, whose sizes differ where they may differ later.
        names: of the inputs and of the outputs.
        sizes: which sizes are free, as `torch.onnx.export` takes them (`dynamic_shapes`).

    Raises:
        UserError: an operator that has no counterpart in ONNX; it is named.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=sizes,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            for node in program.model.graph:
                node.metadata_props.clear()  # stack traces of every node: half of a small model's file
            program.save(file, external_data=weights >= INSIDE_LIMIT)
    except torch.onnx.OnnxExporterError as error:
        raise UserError(
            f"--format onnx: expected operators that ONNX has, got {_operator(error)} in the model; export it "
            "as int8, int4 or gguf, or use its folder of safetensors"
        ) from error
    return file


def _operator(error: BaseException) -> str:
    """Return the operator that an error of the exporter is about, from its whole chain of causes; else the first."""
    cause: BaseException | None = error
    while cause is not None:
        if found := re.search(r"op='([\w.:]+)'", str(cause)):
            return found[1]
        error, cause = cause, cause.__cause__ or cause.__context__
    return f"what torch.export cannot trace ({' '.join(str(error).split())[:MOST_SAID]})"


def quantise_graph(source: Path, file: Path, block: int | None = None) -> Path:
    """Write a copy with INT8 weights; activations are quantised as they come (dynamic quantisation).

    Args:
        block: neighbours that share a scale in a product, of its weights and of its activations; None: all of them,
            which is quicker, and coarse where a few activations are far larger than all others.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # its advice to pre-process does not help transformers
    graph = source if block is None else _in_blocks(source, block)
    quantize_dynamic(graph, file, weight_type=QuantType.QInt8, op_types_to_quantize=list(ROUNDED))
    logging.disable(logging.NOTSET)
    return file


def _in_blocks(source: Path, block: int) -> Any:
    """Return a graph whose products with one matrix are INT8 in blocks; those of tables and experts are as before."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantiser = MatMulNBitsQuantizer(
        onnx.load(source), bits=8, block_size=block, is_symmetric=True, accuracy_level=INT8_ACTIVATIONS
    )
    quantiser.process()
    return quantiser.model.model


def open_graph(file: Path) -> Any:
    """Return an `onnxruntime.InferenceSession` on the CPU with as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says about packages that are not needed, and about names of axes that are shared."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
