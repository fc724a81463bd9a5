"""Texts that two tokenizers read: the spans are those of prepared windows, and their bytes are the text."""

from itertools import pairwise

import pytest
import torch

from kdkit.alignment import align_texts
from kdkit.alignment.bytes import overlap_vocabularies
from kdkit.alignment.tokenizers import token_bytes
from kdkit.data.batches import find_spans
from kdkit.data.packing import pack_windows
from kdkit.errors import UserError


def bytes_of_spans(ids, rows, starts, table):
    """Return the bytes that each span predicts: those of the tokens after its rows."""
    flat = ids.flatten()
    pieces = [table[int(flat[row + 1])] for row in rows.tolist()]
    return [b"".join(pieces[a:b]) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def test_both_sides_of_every_span_are_the_same_bytes_and_together_they_are_the_text(documents, small_pair):
    batch = align_texts(documents[:5], *small_pair)
    spans, tables = batch.spans, [token_bytes(tokenizer) for tokenizer in small_pair]
    student = bytes_of_spans(batch.student_input_ids, spans.student_rows, spans.student_starts, tables[0])
    teacher = bytes_of_spans(batch.teacher_input_ids, spans.teacher_rows, spans.teacher_starts, tables[1])
    assert student == teacher and len(student) > 50
    bounds = spans.sequence_starts.tolist()
    texts = [b"".join(student[a:b]).decode() for a, b in pairwise(bounds)]
    assert texts == documents[:5]


def test_the_spans_of_a_text_are_those_of_its_prepared_window(documents, small_pair):
    text = documents[0]
    batch = align_texts([text], *small_pair)
    overlap = overlap_vocabularies(*(token_bytes(tokenizer) for tokenizer in small_pair))
    windows, _ = pack_windows([text], *small_pair, overlap, 4096, 4096)
    of_window = find_spans(windows, [0], windows.student_ids.shape[1], windows.teacher_ids.shape[1])
    count = len(batch.spans.same_token)  # the window ends with an end token more
    assert torch.equal(of_window.student_starts[:count], batch.spans.student_starts[:-1])
    assert torch.equal(of_window.teacher_starts[:count], batch.spans.teacher_starts[:-1])
    assert torch.equal(of_window.same_token[:count], batch.spans.same_token)
    assert 0 < int(batch.spans.same_token.sum()) < count


def test_padding_and_the_start_token_predict_nothing(documents, small_pair):
    batch = align_texts([documents[0], documents[1][:40]], *small_pair)
    for ids, labels in (
        (batch.student_input_ids, batch.student_labels),
        (batch.teacher_input_ids, batch.teacher_labels),
    ):
        assert bool((labels[:, 0] == -100).all()) and int((labels[1] == -100).sum()) > 1
        assert torch.equal(labels[labels != -100], ids[labels != -100])
    assert len(batch.spans.student_rows) == int((batch.student_labels != -100).sum())


@pytest.mark.parametrize("texts", [[], ["", "a"], "a text", ""])
def test_texts_that_are_none_are_refused(texts, small_pair):
    with pytest.raises(UserError, match="expected a list of texts that are not empty"):
        align_texts(texts, *small_pair)
