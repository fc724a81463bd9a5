"""Scoring: by document as by hand, in chunks as at once, without keys and values, in little memory."""

import numpy as np
import pytest
import torch

from kdkit.alignment.tokenizers import unknown_id
from kdkit.data.prepare import data_from_texts
from kdkit.data.windows import PAD, Windows
from kdkit.losses.chunked import engine
from kdkit.training.scoring import score_windows
from tests.crossed import cross_data
from tests.lossy import train_unigram
from tests.memory import Allocations
from tests.tiny import make_config, make_data, make_llama


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    return make_data(make_config(folder), folder)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_scores_by_document_equal_a_slow_reference(tmp_path, side):
    data = cross_data(make_config(tmp_path), tmp_path)
    windows = data.evaluation
    model = make_llama(len(data.student_tokenizer if side == "student" else data.teacher_tokenizer))
    score = score_windows(model, windows, side, batch_size=3)
    expected, ids = {}, windows.student_ids if side == "student" else windows.teacher_ids
    for row, pieces in zip(ids, windows.pieces, strict=True):
        tokens = torch.from_numpy(row[row != PAD])[None].long()
        with torch.no_grad():
            logprobs = model(input_ids=tokens).logits[0].log_softmax(-1)
        for i, token in enumerate(tokens[0, 1:].tolist()):
            piece = [p for p in pieces if p[0] != PAD and p[1 if side == "student" else 2] <= i][-1]
            expected[piece[0]] = expected.get(piece[0], 0.0) - logprobs[i, token].item()
    assert len(expected) > 3 and score.document_nats == pytest.approx(
        [expected[key] for key in sorted(expected)], rel=1e-4
    )
    assert score.document_nats.sum() == pytest.approx(score.window_nats.sum())
    assert score.document_bytes.sum() == score.window_bytes.sum() == windows.num_bytes.sum()


def test_scoring_keeps_no_keys_and_values_and_no_whole_logits(data, monkeypatch):
    model = make_llama(40_000)
    seen = []
    forward = model.base_model.forward
    monkeypatch.setattr(model.base_model, "forward", lambda **k: seen.append(forward(**k)) or seen[-1])
    monkeypatch.setitem(engine.CHUNK_BYTES, "cpu", 40_000 * 4 * 3)
    biggest = [0]
    logits = engine.Head.logits

    def watched(head, hidden, room=None):
        biggest[0] = max(biggest[0], len(hidden))
        return logits(head, hidden, room)

    monkeypatch.setattr(engine.Head, "logits", watched)
    in_chunks = score_windows(model, data.evaluation, "student", batch_size=8)
    assert all(output.past_key_values is None for output in seen) and len(seen) > 1
    assert biggest[0] == 3
    monkeypatch.setitem(engine.CHUNK_BYTES, "cpu", 2**40)
    assert score_windows(model, data.evaluation, "student", 8).window_nats == pytest.approx(in_chunks.window_nats)


@pytest.mark.parametrize(("vocab_size", "length", "limit"), [(60_000, 256, 200e6), (151_936, 640, 1e9)])
def test_scoring_a_large_vocabulary_takes_little_memory_beside_the_model(vocab_size, length, limit):
    model = make_llama(vocab_size)
    ids = torch.randint(vocab_size, (8, length), generator=torch.Generator().manual_seed(0)).numpy().astype("int32")
    windows = Windows(ids, ids, ids * 0, ids > 0, np.full(8, length))
    with Allocations(*model.parameters()) as seen:
        score_windows(model, windows, "student", 8)
    # whole logits would be 0.5 and 3.1 GB once, and several times that on the way
    assert seen.peak_bytes < limit


def test_unknown_text_costs_eight_bits_a_byte_beside_its_token(documents):
    latin = train_unigram(["the apple and a river stand beside quick zebras jumping over fox vows"] * 30)
    texts = ["the apple " + "\u4e2d\u6587" * 9 + " and a river"] * 5 + ["a river and the apple"] * 5
    data = data_from_texts(texts, latin, latin, max_length=32)
    windows, model = data.train, make_llama(len(latin))
    plain = Windows(**{**vars(windows), "unknown": None})
    charged, free = (score_windows(model, w, "student", batch_size=4) for w in (windows, plain))
    ids = windows.student_ids[windows.student_ids != PAD]
    assert (ids == unknown_id(latin)).sum() == 5
    extra = (charged.window_nats - free.window_nats).sum() / np.log(2) / 8
    assert extra == pytest.approx(5 * 18 * 3, abs=5)  # a space may belong to the unknown token
    assert charged.bits_per_byte >= 8 * 5 * 18 * 3 / windows.num_bytes.sum()
    assert charged.document_nats.sum() == pytest.approx(charged.window_nats.sum())
    assert charged.perplexity == pytest.approx(free.perplexity)
    share = data.manifest["train"]["student_unknown_share"]
    assert share == pytest.approx(extra / windows.num_bytes.sum())
