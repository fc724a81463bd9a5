"""Calibration, bins of places and contexts, against plain torch and sums by hand."""

import math

import numpy as np
import pytest
import torch

from kdkit.data.windows import PAD
from kdkit.evaluate.language import Units, choose_units, resample_text
from kdkit.evaluate.measures.calibration import measure_calibration
from kdkit.evaluate.measures.context import measure_contexts, score_sequences
from kdkit.evaluate.measures.places import (
    bin_document_position,
    bin_frequency,
    bin_window_position,
    compare_places,
    measure_spans,
)
from kdkit.evaluate.measures.run import measure_levels, retention_intervals
from kdkit.evaluate.measures.tokens import Predictions, find_documents, find_units, predict_tokens, sum_by_unit
from kdkit.evaluate.retention import compare_predictions, sum_up
from kdkit.models.reading import ModelReader
from kdkit.training.scoring import score_windows, sum_tokens
from tests.tiny import make_config, make_data, make_llama, make_teacher

pytestmark = pytest.mark.usefixtures("one_thread")
BATCH = 4


class Scene:
    """Two students and a teacher with another tokenizer, and what they predict of the held-out text."""

    def __init__(self, folder):
        self.data = make_data(make_config(folder), folder)
        self.windows = self.data.evaluation
        size = len(self.data.student_tokenizer)
        self.students = {"student": make_llama(size, 1).eval(), "baseline": make_llama(size, 2).eval()}
        self.models = {"teacher": (make_teacher(self.data).model, "teacher")}
        self.models |= {name: (model, "student") for name, model in self.students.items()}
        self.sides = {name: side for name, (_, side) in self.models.items()}
        self.found = {name: predict_tokens(m, self.windows, side, BATCH) for name, (m, side) in self.models.items()}
        self.scores = {name: sum_tokens(p.nats, self.windows, self.sides[name]) for name, p in self.found.items()}
        self.units = choose_units(self.scores, 0)
        self.unit = find_units(self.windows, "student", self.units)
        self.nats = {name: each.nats for name, each in self.found.items()}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("measures"))


@torch.no_grad()
def test_predictions_are_those_of_plain_torch(scene):
    model, found, ids = scene.students["student"], scene.found["student"], scene.windows.student_ids
    for window in (0, len(ids) - 1):
        row = torch.tensor(ids[window][ids[window] != PAD].tolist())
        shares = model(row[None]).logits[0, :-1, : len(scene.data.student_tokenizer)].double().softmax(-1)
        target, width = row[1:], len(row) - 1
        picked = shares.gather(1, target[:, None])[:, 0]
        hot = torch.nn.functional.one_hot(target, shares.shape[1])
        expected = (
            -picked.log(),
            shares.amax(1),
            (shares.argmax(1) == target).double(),
            (shares - hot).square().sum(1),
        )
        got = (found.nats, found.confidence, found.is_right, found.brier)
        for ours, plain in zip(got, expected, strict=True):
            assert ours[window, :width] == pytest.approx(plain.numpy(), abs=1e-5)
            assert not ours[window, width:].any()
        assert found.is_target[window].sum() == width


def test_sums_of_predictions_are_the_scores_of_the_windows(scene):
    for name, (model, side) in scene.models.items():
        whole = score_windows(model, scene.windows, side, 3)
        assert scene.scores[name].bits_per_byte == pytest.approx(whole.bits_per_byte)
        assert scene.scores[name].document_nats == pytest.approx(whole.document_nats)
        documents = find_documents(scene.windows, side)
        sums = sum_by_unit(scene.nats[name].reshape(1, -1), documents.reshape(-1), len(whole.document_nats))[0]
        assert sums == pytest.approx(whole.document_nats)


def sure(confidence: np.ndarray, right: np.ndarray) -> Predictions:
    """Predictions in windows of one token."""
    shape = (len(confidence), 1)
    confidence, right = confidence.reshape(shape), right.astype(float).reshape(shape)
    return Predictions(np.ones(shape, bool), -np.log(confidence), confidence, right, 1 - confidence)


def test_a_model_that_is_as_often_right_as_it_says_has_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.05, 1.0, 20_000)
    honest, boastful = (rng.uniform(size=20_000) < share for share in (confidence, confidence - 0.2))
    units, unit = Units(20_000, 8, 0), np.arange(20_000)[:, None]
    good, bad = (measure_calibration(sure(confidence, right), unit, units, 10) for right in (honest, boastful))
    assert good["ece"] < 0.02 and bad["ece"] == pytest.approx(0.19, abs=0.02)
    low, high = bad["ece_interval_95"]
    assert low < bad["ece"] < high < low + 0.02
    assert len(bad["bins"]) == 10 and all(each["share"] == pytest.approx(0.1, abs=0.01) for each in bad["bins"])
    assert all(each["accuracy"] < each["confidence"] for each in bad["bins"])


def test_the_calibration_error_is_the_published_sum_over_bins():
    confidence, right = np.array([0.2, 0.3, 0.6, 0.7, 0.8, 0.9]), np.array([0, 1, 0, 1, 1, 1])
    found = measure_calibration(sure(confidence, right), np.arange(6)[:, None], Units(6, 1, 0), 3)
    assert found["ece"] == pytest.approx((abs(0.5 - 1) + abs(1.3 - 1) + abs(1.7 - 2)) / 6)
    assert found["accuracy"] == pytest.approx(4 / 6) and found["confidence"] == pytest.approx(3.5 / 6)
    same = measure_calibration(sure(np.full(6, 0.5), right), np.arange(6)[:, None], Units(6, 1, 0), 3)
    assert len(same["bins"]) == 1 and same["ece"] == pytest.approx(4 / 6 - 0.5)


def test_spans_hold_all_bits_of_all_models_and_all_bytes(scene):
    spans = measure_spans(scene.nats, scene.sides, scene.data, scene.windows)
    assert spans.num_bytes.sum() == scene.windows.num_bytes.sum()
    for name, nats in scene.nats.items():
        assert spans.nats[name].sum() == pytest.approx(nats.sum())
    assert len(spans.first) < scene.found["student"].is_target.sum()  # tokens of one span stay together
    assert spans.lengths.sum() == scene.found["student"].is_target.sum()


def test_bins_of_places_add_up_to_the_whole(scene):
    spans = measure_spans(scene.nats, scene.sides, scene.data, scene.windows)
    positions = compare_predictions(
        scene.models["teacher"][0], scene.students, scene.data, scene.windows, batch_size=BATCH, top_k=3
    )
    for bins in (
        bin_frequency(scene.windows, scene.data.train, 3),
        bin_window_position(scene.windows),
        bin_document_position(scene.windows),
    ):
        rows = compare_places(bins, spans, positions, scene.unit, scene.units, rarest=True)
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        for name, score in scene.scores.items():
            together = sum(row["share"] * row["models"][name]["bits_per_byte"] for row in rows)
            assert together == pytest.approx(score.bits_per_byte, rel=1e-6)
            for row in rows:
                low, high = row["models"][name]["interval_95"]
                assert low <= row["models"][name]["bits_per_byte"] <= high
    kept, edges = sum_up(positions), retention_intervals(positions, scene.windows, scene.units)
    for name in scene.students:
        low, high = edges[name]["kl_to_teacher_interval_95"]
        assert low < kept[name]["kl_to_teacher"] < high


def test_frequency_counts_the_training_text_and_position_the_tokens_before(scene):
    windows, train = scene.windows, scene.data.train
    bins = bin_frequency(windows, train, 3)
    counts = np.bincount(train.student_ids[:, 1:][train.student_ids[:, 1:] != PAD], minlength=400)
    target = scene.found["student"].is_target[0]
    frequency = counts[windows.student_ids[0][1:][target[:-1]]]
    order = np.argsort(frequency, kind="stable")
    assert (np.diff(bins.of_position[0][target][order]) >= 0).all()
    assert bins.names[0].startswith(f"{counts[windows.student_ids[:, 1:][windows.student_ids[:, 1:] != PAD]].min():,}")
    assert bin_window_position(windows).of_position[0][:20].tolist() == [0] * 8 + [1] * 8 + [2] * 4
    # the third document of the text begins somewhere inside a window
    documents, place = find_documents(windows, "student"), bin_document_position(windows).of_position
    row = next(i for i in range(len(windows)) if len(np.unique(documents[i])) > 1)
    start = int(np.flatnonzero(np.diff(documents[row]))[0]) + 1
    assert place[row, start] == 0 and place[row, start - 1] >= 0


@torch.no_grad()
def plain_sliding(model, ids: list[int], max_length: int, stride: int) -> np.ndarray:
    """The loop of transformers' guide "Perplexity of fixed-length models", token by token."""
    nats, previous = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        wanted = end - previous
        labels = torch.tensor([ids[begin:end]])
        inputs = labels.clone()
        labels[:, :-wanted] = -100
        logits = model(inputs).logits[:, :-1].double()
        losses = torch.nn.functional.cross_entropy(logits[0], labels[0, 1:], reduction="none", ignore_index=-100)
        nats += losses[labels[0, 1:] != -100].tolist()
        previous = end
        if end == len(ids):
            break
    return np.array(nats)


@pytest.mark.parametrize("stride", [1, 5, 11])
def test_a_sliding_window_reads_as_the_guide_of_transformers_says(scene, stride):
    model, size = scene.students["student"], len(scene.data.student_tokenizer)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, size, length).tolist() for length in (40, 12, 3, 1)]
    reader = ModelReader(model, size)
    found = score_sequences(reader, texts, 12, stride, batch_size=3)
    for text, nats in zip(texts, found, strict=True):
        assert len(nats) == len(text) - 1
        if len(text) > 1:
            assert nats == pytest.approx(plain_sliding(model, text, 12, stride), rel=1e-4)


@torch.no_grad()
def test_each_document_is_read_alone_after_its_start_token(scene):
    tokenizers = {"student": scene.data.student_tokenizer, "teacher": scene.data.teacher_tokenizer}
    found = measure_contexts(scene.models, scene.nats, scene.windows, tokenizers, stride=0.5, batch_size=BATCH, seed=0)
    model, start = scene.students["student"], scene.data.student_tokenizer.eos_token_id
    ids, documents = scene.windows.student_ids, find_documents(scene.windows, "student")
    is_token = ids[:, 1:] != PAD
    tokens, owner = ids[:, 1:][is_token], documents[:, :-1][is_token]
    length, stride = found["length"]["student"], found["stride"]["student"]
    texts = [[start, *tokens[owner == number].tolist()] for number in range(owner.max() + 1)]
    alone = np.concatenate([plain_sliding(model, text, length, stride) for text in texts])
    ways = found["models"]["student"]
    assert ways["by_document"]["perplexity"] == pytest.approx(math.exp(alone.mean()), rel=1e-4)
    bits = alone.sum() / math.log(2) / scene.windows.num_bytes.sum()
    assert ways["by_document"]["bits_per_byte"] == pytest.approx(bits, rel=1e-4)
    stream = plain_sliding(model, [start, *tokens.tolist()], length, stride)
    assert ways["sliding"]["perplexity"] == pytest.approx(math.exp(stream.mean()), rel=1e-4)
    for name, score in scene.scores.items():
        way = found["models"][name]["in_windows"]
        assert way["bits_per_byte"] == pytest.approx(score.bits_per_byte)
        assert way["perplexity"] == pytest.approx(score.perplexity)
        low, high = way["perplexity_interval_95"]
        assert low < way["perplexity"] < high
    assert found["documents"] == len(texts) and found["bytes"] == scene.windows.num_bytes.sum()


def test_intervals_of_levels_hold_them(scene):
    resampled = resample_text(scene.scores, 0)
    found = measure_levels(scene.found, scene.windows, scene.models, resampled, scene.units)
    for name, edges in found.items():
        for key, value in (
            ("bits_per_byte", scene.scores[name].bits_per_byte),
            ("perplexity", scene.scores[name].perplexity),
        ):
            low, high = edges[f"{key}_interval_95"]
            assert low < value < high
