"""Saving an embedding model as a folder that sentence-transformers loads, versions 3 to 6.

Written in the older form (`sentence_transformers.models.*`, `pooling_mode_*`), which all of them read.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.late import MASK, STATES, write_late
from kdkit.embeddings.models.modules import Dense, head_modules, save_module
from kdkit.embeddings.models.pooling import LAST, SWITCHES, Reading
from kdkit.embeddings.models.static import FOLDER as STATIC_FOLDER
from kdkit.embeddings.models.static import TokenTable, save_table
from kdkit.models.loading import no_bar
from kdkit.runs.disk import write_text

CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, feature-extraction, sentence-similarity, kdkit]
---

# {width}-dimensional sentence embeddings

```python
from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer(FOLDER).encode(["A sentence.", "Another one."])
```

{num_layers} layers, {pooling} pooling, {num_parameters:,} parameters, at most {max_length} tokens.
"""

LATE_CARD = """---
library_name: sentence-transformers
tags: [sentence-transformers, multi-vector, late-interaction, colbert, kdkit]
---

# A {width}-dimensional vector for every token

```python
from sentence_transformers import MultiVectorEncoder  # from version 6

model = MultiVectorEncoder(FOLDER)
scores = model.similarity(model.encode_query(["A question?"]), model.encode_document(["An answer.", "Another one."]))
```

{num_layers} layers, {num_parameters:,} parameters, queries of {query_length} tokens, documents of at most \
{document_length}.
"""
LATE_PLACES = {
    "Transformer": "base.modules.transformer",
    "Dense": "base.modules.dense",
    MASK: "multi_vector_encoder.modules.multi_vector_mask",
    "Normalize": "base.modules.normalize",
}
"""Where sentence-transformers has the modules of such a model."""

STATIC_LINE = (
    "A static model, the mean of its tokens' rows: {num_rows:,} rows, {num_parameters:,} parameters, any length.\n"
)


def save_embedding_model(
    model: EmbeddingModel, folder: str | Path, extra_card: str = "", other_heads: Sequence[torch.nn.Linear] = ()
) -> Path:
    """Save a model; `SentenceTransformer(folder)` and `load_embedding_model(folder)` give its vectors again.

    One with a vector for every token (`reading.late`) is for `MultiVectorEncoder(folder)`.

    Args:
        extra_card: Markdown behind the first lines of the model card.
        other_heads: for vectors of other widths, saved as `2_Dense_WIDTH`; name one in `modules.json` to use it.
    """
    folder, reading = Path(folder), model.reading
    if isinstance(model.backbone, TokenTable):
        return _save_static(model, folder, extra_card)
    with no_bar():
        model.backbone.save_pretrained(folder)
    side, model.tokenizer.padding_side = model.tokenizer.padding_side, "right"  # as kdkit pads: positions may count
    model.tokenizer.save_pretrained(folder)
    model.tokenizer.padding_side = side
    if reading.late is not None:
        return _finish_late(model, folder, extra_card)
    head = head_modules(model.head)
    kinds = [type(module).__name__ for module in head]
    modules = ["Transformer", "Pooling", *kinds] + ["Normalize"] * reading.normalize
    places = ["" if kind == "Transformer" else f"{number}_{kind}" for number, kind in enumerate(modules)]
    _write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, place) in enumerate(zip(modules, places, strict=True))
        ],
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": reading.max_length, "do_lower_case": False})
    _write_json(folder / "config_sentence_transformers.json", _prompts(reading) | {"similarity_fn_name": "cosine"})
    _write_json(folder / "1_Pooling/config.json", _pooling(reading, model.backbone_width))
    for module, place in zip(head, places[2:], strict=False):
        save_module(module, folder / place)
    for linear in other_heads:
        save_module(Dense(linear), folder / f"2_Dense_{linear.out_features}")
    if reading.normalize:
        (folder / places[-1]).mkdir(exist_ok=True)
    card = CARD.format(
        width=model.width,
        num_layers=model.num_layers,
        pooling=reading.pooling,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        max_length=reading.max_length,
    )
    write_text(folder / "README.md", card + ("\n" + extra_card if extra_card else ""))
    return folder


def _save_static(model: EmbeddingModel, folder: Path, extra_card: str) -> Path:
    """Save a table; a head, which is linear, is multiplied into its rows: the mean of projected rows is the same."""
    rows = model.project(model.backbone.embedding.weight).detach()
    save_table(TokenTable(rows), model.tokenizer, folder / STATIC_FOLDER)
    modules = [("StaticEmbedding", STATIC_FOLDER)] + [("Normalize", "1_Normalize")] * model.reading.normalize
    listed = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for number, (kind, place) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", listed)
    if model.reading.normalize:
        (folder / "1_Normalize").mkdir(exist_ok=True)
    _write_json(
        folder / "config_sentence_transformers.json", _prompts(model.reading) | {"similarity_fn_name": "cosine"}
    )
    text = CARD.partition("{num_layers}")[0] + STATIC_LINE
    card = text.format(width=rows.shape[1], num_rows=len(rows), num_parameters=rows.numel())
    write_text(folder / "README.md", card + ("\n" + extra_card if extra_card else ""))
    return folder


def _finish_late(model: EmbeddingModel, folder: Path, extra_card: str) -> Path:
    """Save what makes token vectors of a transformer's states, beside the transformer."""
    late, head = model.reading.late, head_modules(model.head)
    kinds = ["Transformer", *(type(module).__name__ for module in head), MASK]
    kinds += ["Normalize"] * model.reading.normalize
    places = ["" if kind == "Transformer" else f"{number}_{kind}" for number, kind in enumerate(kinds)]
    listed = []
    for number, (kind, place) in enumerate(zip(kinds, places, strict=True)):
        home = f"sentence_transformers.{LATE_PLACES[kind]}.{kind}"
        listed.append({"idx": number, "name": str(number), "path": place, "type": home})
    _write_json(folder / "modules.json", listed)
    transformer, mask, own = write_late(late)
    _write_json(folder / "sentence_bert_config.json", transformer)
    _write_json(folder / "config_sentence_transformers.json", own)
    for module, place in zip(head, places[1:], strict=False):
        save_module(module, folder / place, STATES)
    _write_json(folder / places[len(head) + 1] / "config.json", mask)
    if model.reading.normalize:
        _write_json(folder / places[-1] / "config.json", {"module_input_name": STATES, "module_output_name": STATES})
    sizes = {"query_length": late.query_length, "document_length": late.document_length}
    count = sum(parameter.numel() for parameter in model.parameters())
    card = LATE_CARD.format(width=model.width, num_layers=model.num_layers, num_parameters=count, **sizes)
    write_text(folder / "README.md", card + ("\n" + extra_card if extra_card else ""))
    return folder


def _prompts(reading: Reading) -> dict[str, Any]:
    """Return the prompts, the one in use as default."""
    if not reading.prompt:
        return {"prompts": reading.prompts, "default_prompt_name": None}
    used = next((label for label, text in reading.prompts.items() if text == reading.prompt), "default")
    return {"prompts": reading.prompts | {used: reading.prompt}, "default_prompt_name": used}


def _pooling(reading: Reading, width: int) -> dict[str, Any]:
    """Return the pooling in the older form, which puts several in an order of its own; else in that of version 6."""
    names = ["lasttoken" if how == LAST else how for how in reading.pooling.split("+")]
    if names != [mode for mode in SWITCHES if mode in names]:
        return {"embedding_dimension": width, "pooling_mode": names, "include_prompt": reading.pool_prompt}
    switches = {switch: mode in names for mode, switch in SWITCHES.items()}
    return {"word_embedding_dimension": width, "include_prompt": reading.pool_prompt} | switches


def _write_json(path: Path, values: Any) -> None:
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
