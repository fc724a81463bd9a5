#!/usr/bin/env bash
# transformers: a subclass of a mixture of experts, in a file of one's own, computes its experts in the slow loop and refuses
# the fast ones, unless its parent class was used before in the same process.
#
# Versions: transformers 5.24.0, torch 2.13.0 (seen in November 2026, on a CPU).
# Behaviour: whether a model can use grouped products of experts is decided by looking for the text
#   "@use_experts_implementation" in the source of the file that its class is written in. A subclass that changes nothing is
#   written elsewhere, so it runs "eager", the loop over experts, without a word, and set_experts_implementation("grouped_mm")
#   raises "does not support setting experts implementation". The answer is kept on the class, where subclasses inherit it:
#   after the parent was built once, the same subclass runs grouped_mm. (LOG.md: the loop is several times slower.)
# Expected: a subclass that changes nothing runs as its parent does, whatever ran before.
# Seen: first in its process: eager | after its parent was built: grouped_mm
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.13.0
cat > "$folder/own.py" <<'PYTHON'
import sys

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM


class Own(Qwen3MoeForCausalLM):
    pass


def config():
    return Qwen3MoeConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8,
        num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16,
    )


if "after-parent" in sys.argv:
    Qwen3MoeForCausalLM(config())
print(Own(config()).config._experts_implementation)
PYTHON
first=$("$folder/venv/bin/python" "$folder/own.py")
later=$("$folder/venv/bin/python" "$folder/own.py" after-parent)
echo "first in its process: $first | after its parent was built: $later"
[ "$first" = eager ] && [ "$later" = grouped_mm ] || { echo "the behaviour has changed: correct this finding"; exit 1; }
