"""Prepared data that is harder than that of `tests.tiny`: tokens that cross, sequences of very different lengths.

The tokenizers of `tests.tiny` are trained on one text, so the smaller one only cuts the tokens of the larger one.
Here a span may have several rows on both sides.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from kdkit.alignment.bytes import overlap_vocabularies
from kdkit.alignment.tokenizers import end_token_id, token_bytes, train_tokenizer
from kdkit.config.language import Config
from kdkit.data.packing import pack_windows
from kdkit.data.prepare import PreparedData
from kdkit.data.text.corpora import load_corpus, split_documents
from kdkit.data.windows import PAD, Windows


def cross_data(config: Config, folder: Path) -> PreparedData:
    """Prepare a configuration's corpus for a student that knows the ends of words and a teacher that knows beginnings.

    " quick" is " ", "q", "uick" for one and " quic", "k" for the other.
    """
    documents = load_corpus(config.data, folder / "cache").documents
    train, evaluation = split_documents(documents, config.data.evaluation_fraction, config.seed)
    words = [document.split() for document in train]
    student = train_tokenizer([" ".join(word[1:] for word in text if word[1:]) for text in words], 290)
    teacher = train_tokenizer([" ".join(word[:-1] for word in text if word[:-1]) for text in words], 320)
    tables, ends = (token_bytes(student), token_bytes(teacher)), (end_token_id(student), end_token_id(teacher))
    overlap = overlap_vocabularies(*tables, ends)
    lengths = config.data.max_length, 2 * config.data.max_length
    windows = [pack_windows(split, student, teacher, overlap, *lengths)[0] for split in (train, evaluation)]
    manifest = {
        "same_tokenizer": False,
        "key": "crossed",
        "corpus": {"source": config.data.path, "fingerprint": "crossed"},
    }
    manifest["train"] = windows[0].describe()
    return PreparedData(*windows, student, teacher, overlap, manifest)


def cut_unevenly(data: PreparedData) -> PreparedData:
    """Cut the training sequences to very different lengths, where both sides of a span begin.

    Packed sequences are all about as long as they may be, and a loss that is divided by the wrong number of
    tokens cannot be told from a right one by them. The numbers of bytes are left as they were.
    """
    windows = Windows(*(np.array(array) for array in vars(data.train).values()))
    for row in range(len(windows)):
        starts = np.flatnonzero(windows.teacher_positions[row] != PAD)
        last = starts[max(1, (row * 7) % len(starts))]
        windows.student_ids[row, last + 1 :] = PAD
        windows.teacher_ids[row, windows.teacher_positions[row, last] + 1 :] = PAD
        windows.teacher_positions[row, last:] = PAD
        windows.same_token[row, last:] = False
    assert len(set((windows.student_ids != PAD).sum(axis=1).tolist())) > 5
    return replace(data, train=windows)
