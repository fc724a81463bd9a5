"""A tiny model with a vector for every token, and queries with documents, for tests of late interaction."""

import json

import numpy as np
import torch

from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.embeddings.models.export import save_embedding_model
from kdkit.embeddings.models.late import LateReading
from tests.embedders import TEACHER_WIDTH, WORDS, save_teacher

LATE_WIDTH = 10


def save_encoder(folder):
    """Save a tiny encoder whose tokenizer knows a mask token, a comma and a full stop."""
    model = load_embedding_model(str(save_teacher(folder / "plain")), "teacher.path")
    model.tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    model.tokenizer.add_tokens([",", "."])
    torch.manual_seed(0)
    model.backbone.resize_token_embeddings(len(model.tokenizer))
    return save_embedding_model(model, folder / "encoder")


def make_late(folder, **reading):
    """Return the encoder with a head on its tokens; `reading` replaces settings of how it reads."""
    model = load_embedding_model(str(folder / "encoder"), "teacher.path")
    torch.manual_seed(1)
    model.head = torch.nn.Linear(TEACHER_WIDTH, LATE_WIDTH, bias=False)
    settings = {"query_length": 12, "document_length": 16, "expansion": 12, "skipped": (",", ".")} | reading
    model.reading = model.reading.__class__("mean", True, 32, late=LateReading(**settings))
    return model


def write_rankings(folder, queries=8, documents=30):
    """Write pairs for training, and a retrieval folder whose documents begin with the words of their query."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(WORDS, size=draw.integers(4, 9))) for _ in range(documents)]
    rows = [(" ".join(draw.choice(WORDS, 4)), " ".join(draw.choice(WORDS, 6)) + ", .") for _ in range(60)]
    pairs = "".join(f'"{first}","{second}"\n' for first, second in rows)
    (folder / "pairs.csv").write_text("anchor,positive\n" + pairs)
    (folder / "set/qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{n}", "text": text} for n, text in enumerate(texts)]
    asked = [{"_id": f"q{n}", "text": " ".join(texts[n].split()[:3])} for n in range(queries)]
    for name, lines in (("corpus", corpus), ("queries", asked)):
        (folder / f"set/{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(queries))
    (folder / "set/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder
