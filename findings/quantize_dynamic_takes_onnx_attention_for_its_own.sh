#!/usr/bin/env bash
# onnxruntime: quantize_dynamic writes a file that onnxruntime cannot load, without a word, where a graph has ONNX's Attention.
#
# Versions: onnxruntime 1.32.0, onnx 1.23.2, numpy 2 (seen in November 2026).
# Behaviour: since opset 23 ONNX has an operator Attention of its own (query, key, value, mask), which torch.onnx.export writes
#   for scaled_dot_product_attention with opset_version=23. quantize_dynamic looks at an operator's name and not at its
#   domain: it takes it for onnxruntime's older com.microsoft Attention (input, weight, bias), and makes a QAttention of it
#   with the query as input and the key as weight. It returns as if all were well; the file is refused when it is loaded.
# Expected: what is quantised is a product with a stored weight; an attention without one stays as it is.
# Seen: before: loaded, ['Attention']; after: ['DynamicQuantizeLinear', 'QAttention'] of com.microsoft, InvalidGraph
#   (Unrecognized attribute: is_causal for operator QAttention).
# Remedy: op_types_to_quantize=["MatMul", "Gemm", "Gather"].
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import logging

import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

logging.disable(logging.WARNING)


def load(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


shape = [1, 2, 4, 8]  # batch, heads, tokens, width
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("query", "key", "value", "out")]
node = helper.make_node("Attention", ["query", "key", "value"], ["out"], is_causal=1, name="attention")
graph = helper.make_graph([node], "graph", values[:3], values[3:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "model.onnx")
load("model.onnx")
quantize_dynamic("model.onnx", "default.onnx")
quantize_dynamic("model.onnx", "named.onnx", op_types_to_quantize=["MatMul", "Gemm", "Gather"])
load("named.onnx")
operators = sorted({(node.domain, node.op_type) for node in onnx.load("default.onnx").graph.node})
print("before: Attention | after:", operators)
try:
    load("default.onnx")
    refused = ""
except Exception as error:
    refused = str(error)
print("loaded:", not refused, "|", refused[-80:])
assert ("com.microsoft", "QAttention") in operators, "the behaviour has changed: correct this finding"
assert "is_causal for operator QAttention" in refused, "the behaviour has changed: correct this finding"
PYTHON
