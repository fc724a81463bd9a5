"""An embedding model for onnxruntime: its transformer as an ONNX graph, in fp32 and in INT8.

The folder is the sentence-transformers folder with `onnx/model.onnx` beside the weights, where its ONNX backend and
optimum look for it. The graph ends at the token states; pooling and heads stay outside, as they do there.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.static import TokenTable
from kdkit.errors import UserError
from kdkit.models.onnx.graph import LARGEST_BATCH, check_packages, export_graph, open_graph

INPUTS, OUTPUT = ["input_ids", "attention_mask"], "last_hidden_state"


class OnnxBackbone(nn.Module):
    """A graph in the place of a transformer, run by onnxruntime on the CPU."""

    def __init__(self, file: Path, config: Any):
        """Open a file; as many threads as torch uses."""
        super().__init__()
        self.session = open_graph(file)
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
    check_packages()


def write_graph(model: EmbeddingModel, file: Path) -> Path:
    """Write the transformer of a model on the CPU as an ONNX file in fp32, for every batch size and length."""
    limit = min(model.reading.max_length, getattr(model.backbone.config, "max_position_embeddings", LARGEST_BATCH))
    sizes = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH), 1: torch.export.Dim("length", min=1, max=limit)}
    token = model.pad_id
    ids, mask = torch.full((3, min(4, limit)), token), torch.ones(3, min(4, limit), dtype=torch.int64)
    mask[1:, -1] = 0  # an example without padding would be traced without a mask
    sizes = dict.fromkeys(INPUTS, sizes)
    return export_graph(_States(model.backbone).eval(), (ids, mask), file, names=(INPUTS, [OUTPUT]), sizes=sizes)


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
