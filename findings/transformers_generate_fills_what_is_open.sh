#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.13.0): a GenerationConfig passed to generate() does not decide alone. Whatever it leaves open is
# taken from the model's own generation_config (its folder's generation_config.json), and what is open there too from the
# library's defaults, among them top_k=50. So GenerationConfig(do_sample=True, temperature=1.0) samples with a folder's
# repetition_penalty, bad_words_ids, guidance_scale, ..., and never the whole distribution. top_k=0 and top_p=1.0 do not
# help: the folder's repetition_penalty stays. Only a model whose own generation_config was replaced draws what is stated.
# Expected from memory: the passed configuration replaces the model's; what it does not name is off.
# Seen:  passed alone: 50 of 70 tokens, penalty 1.7 applied | top_k=0: 70 tokens, penalty 1.7 applied | own replaced: 70 tokens, plain
# Exits 1 if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

transformers.logging.set_verbosity_error()
torch.manual_seed(0)
shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
model = LlamaForCausalLM(LlamaConfig(vocab_size=70, bos_token_id=0, eos_token_id=1, pad_token_id=1, **shape)).eval()
in_folder = GenerationConfig(repetition_penalty=1.7, eos_token_id=1, pad_token_id=1)
prompt = torch.tensor([[0, 5, 9]])


def scores(own, **stated):
    """Return the scores of the next token that generate() draws from."""
    model.generation_config = own
    passed = GenerationConfig(do_sample=True, temperature=1.0, max_new_tokens=1, eos_token_id=1, pad_token_id=1, **stated)
    options = {"attention_mask": torch.ones_like(prompt), "output_scores": True, "return_dict_in_generate": True}
    return model.generate(prompt, generation_config=passed, **options).scores[0][0]


logits = model(prompt).logits[0, -1]
penalised = logits.clone()
seen = [0, 5, 9]
penalised[seen] = torch.where(logits[seen] < 0, logits[seen] * 1.7, logits[seen] / 1.7)


def describe(values):
    """Say how many tokens can be drawn, and whether the penalty is in their scores."""
    kept = values.isfinite()
    form = "plain" if torch.allclose(values[kept], logits[kept]) else "other"
    form = "penalty 1.7 applied" if torch.allclose(values[kept], penalised[kept]) else form
    return f"{int(kept.sum())} of 70 tokens, {form}"


found = {
    "passed alone": describe(scores(in_folder)),
    "top_k=0, top_p=1": describe(scores(in_folder, top_k=0, top_p=1.0)),
    "own replaced, top_k=0": describe(scores(GenerationConfig(), top_k=0)),
}
print(f"transformers {transformers.__version__}, torch {torch.__version__}")
print(" | ".join(f"{name}: {value}" for name, value in found.items()))
expected = ["50 of 70 tokens, penalty 1.7 applied", "70 of 70 tokens, penalty 1.7 applied", "70 of 70 tokens, plain"]
sys.exit(list(found.values()) != expected)
PY
