#!/usr/bin/env bash
# transformers with bitsandbytes: after a training with an 8-bit optimizer, the next one in the process has other bits, and
# the first model's embeddings are never freed.
#
# Versions: transformers 5.24.0, bitsandbytes 0.50.2, torch 2.13.0, accelerate 1.15.0 (seen in November 2026, on a CPU).
# Behaviour: with optim="adamw_bnb_8bit" Trainer asks that embeddings keep 32 bits. bitsandbytes writes that into one object
#   of the process, by the parameter's number in its group, for every optimizer to come; and it keeps the embedding module
#   itself in a list. So the parameter that has this number in any later 8-bit optimizer silently gets 32 bits, and a deleted
#   model's embeddings stay in memory: in a notebook that trains several models, those of all of them.
# Expected: an exception made for one model ends with its trainer.
# Seen: 4,096 numbers of a linear layer alone: torch.uint8 | after a training of a Llama: torch.float32
#   | the deleted model's embeddings are still alive: True
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 bitsandbytes==0.50.2 torch==2.13.0 accelerate==1.15.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import gc
import logging
import sys
import weakref

import torch
from bitsandbytes.optim import AdamW8bit
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

logging.disable(logging.WARNING)


def bits_of_a_layer():
    layer = torch.nn.Linear(64, 64, bias=False)
    optimizer = AdamW8bit(layer.parameters(), lr=1e-3)
    layer(torch.randn(2, 64)).sum().backward()
    optimizer.step()
    return optimizer.state[layer.weight]["state1"].dtype


before = bits_of_a_layer()
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, **shape))
embeddings = weakref.ref(model.model.embed_tokens)
arguments = TrainingArguments(sys.argv[1], optim="adamw_bnb_8bit", use_cpu=True, report_to=[])
trainer = Trainer(model, arguments)
optimizer = trainer.create_optimizer()
input_ids = torch.randint(1000, (2, 8))
model(input_ids=input_ids, labels=input_ids).loss.backward()
optimizer.step()
del model, trainer, optimizer
gc.collect()
alive, after = embeddings() is not None, bits_of_a_layer()
print("before:", before, "| after another model's training:", after, "| its embeddings are still alive:", alive)
assert (before, after, alive) == (torch.uint8, torch.float32, True), "the behaviour has changed: correct this finding"
PYTHON
