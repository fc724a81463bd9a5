#!/usr/bin/env bash
# sentence-transformers: encode_document never reads the prompt "passage" or "corpus" of a model, which it is documented to.
#
# Versions: sentence-transformers 6.2.0, transformers 5.24.0, torch 2.13.0 (seen in November 2026).
# Behaviour: every model is given the prompts query and document, empty ones where it has none. encode_document takes the
#   first of document, passage, corpus that is among the prompts, so always document, which is empty in a model that calls
#   it passage, as the E5 family does. The same in MultiVectorEncoder. save writes the empty prompt into the model's file.
# Expected from its docstring: "uses the first available" of the three; the example of the argument `prompts` has a passage.
# Seen: prompts {'query': 'query: ', 'document': '', 'passage': 'passage: '} | vectors of encode_document are those of the
#   bare text True, of the text behind the prompt False | MultiVectorEncoder: 4 token vectors, 6 with prompt="passage: "
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sentence-transformers==6.2.0 transformers==5.24.0 torch==2.13.0
"$folder/venv/bin/python" - "$folder/model" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "passage", ":", "a", "cat"]
PROMPTS = {"query": "query: ", "passage": "passage: "}

folder = Path(sys.argv[1])
folder.mkdir()
(folder / "vocab.txt").write_text("\n".join(WORDS))
BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
torch.manual_seed(0)
shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BertModel(BertConfig(vocab_size=len(WORDS), **shape)).save_pretrained(folder)

model = SentenceTransformer(str(folder), prompts=dict(PROMPTS))
found = model.encode_document("a cat")
bare, prompted = (np.allclose(found, model.encode(text), atol=1e-6) for text in ("a cat", "passage: a cat"))
tokens = MultiVectorEncoder(str(folder), prompts=dict(PROMPTS))
counts = len(tokens.encode_document("a cat")), len(tokens.encode_document("a cat", prompt="passage: "))
print(model.prompts, "| bare text:", bare, "| behind the prompt:", prompted, "| token vectors:", counts)
assert model.prompts == PROMPTS | {"document": ""}, "the behaviour has changed: correct this finding"
assert bare and not prompted and counts == (4, 6), "the behaviour has changed: correct this finding"
PYTHON
