"""An embedding model for onnxruntime: its transformer as an ONNX graph, in fp32 and in INT8.

The folder is the sentence-transformers folder with `onnx/model.onnx` beside the weights, where its ONNX backend and
optimum look for it. The graph ends at the token states; pooling and heads stay outside, as they do there.
"""

import importlib.util
import logging
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.static import TokenTable
from kdkit.errors import UserError

FULL, QUANTISED = "onnx/model.onnx", "onnx/model_qint8.onnx"
"""The graph in fp32 and with INT8 weights, within the model's folder."""
INPUTS, OUTPUT = ["input_ids", "attention_mask"], "last_hidden_state"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
LARGEST_BATCH = 2**16


class OnnxBackbone(nn.Module):
    """A graph in the place of a transformer, run by onnxruntime on the CPU."""

    def __init__(self, file: Path, config: Any):
        """Open a file; as many threads as torch uses."""
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.config, self.device = config, torch.device("cpu")

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> SimpleNamespace:
        """Run the graph: `last_hidden_state`, `[B, S, H]`; it gives no other states and no attention."""
        feeds = dict(zip(INPUTS, (input_ids.numpy(), attention_mask.numpy()), strict=True))
        states = torch.from_numpy(self.session.run([OUTPUT], feeds)[0])
        return SimpleNamespace(last_hidden_state=states, hidden_states=(), attentions=None)


def check_exportable(model: EmbeddingModel, key: str) -> None:
    """Refuse what cannot be exported, or not here.

    Raises:
        UserError: a static model, which has no graph worth running; one with a vector for every token, whose folder the
            ONNX backend does not read; a package that is missing.
    """
    if isinstance(model.backbone, TokenTable):
        raise UserError(
            f"{key}: expected a transformer, got a static model, which is read at the speed of its tokenizer as it is; "
            "use its folder"
        )
    if model.reading.late is not None:
        raise UserError(
            f"{key}: expected a model with one vector for a text, got one with a vector for every token; use its "
            "folder with sentence_transformers.MultiVectorEncoder"
        )
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(f"--format onnx: expected the packages {', '.join(PACKAGES)}, got no {missing[0]}; {install()}")


def install() -> str:
    """Return the command that installs what is needed."""
    return "pip install 'kdkit[onnx]'"


def write_graph(model: EmbeddingModel, file: Path) -> Path:
    """Write the transformer of a model on the CPU as an ONNX file in fp32, for every batch size and length."""
    limit = min(model.reading.max_length, getattr(model.backbone.config, "max_position_embeddings", LARGEST_BATCH))
    sizes = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH), 1: torch.export.Dim("length", min=1, max=limit)}
    token = model.pad_id
    ids, mask = torch.full((3, min(4, limit)), token), torch.ones(3, min(4, limit), dtype=torch.int64)
    mask[1:, -1] = 0  # an example without padding would be traced without a mask
    file.parent.mkdir(parents=True, exist_ok=True)
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torchvision, and names of axes that are shared
        torch.onnx.export(
            _States(model.backbone).eval(),
            (ids, mask),
            str(file),
            input_names=INPUTS,
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(INPUTS, sizes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    logging.getLogger("torch.onnx").setLevel(level)
    return file


def quantise_graph(source: Path, file: Path) -> Path:
    """Write a copy with INT8 weights; activations are quantised as they come (dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # its advice to pre-process does not help transformers
    quantize_dynamic(source, file, weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)
    return file


def with_graph(model: EmbeddingModel, file: Path) -> EmbeddingModel:
    """Return the model with its transformer run by onnxruntime: the same pooling and head."""
    return EmbeddingModel(OnnxBackbone(file, model.backbone.config), model.tokenizer, model.reading, model.head).eval()


class _States(nn.Module):
    """A transformer from ids to its last token states."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return `[B, S, H]`."""
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
