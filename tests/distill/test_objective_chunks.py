"""A loss is masked, and computed in chunks of any size: what is in no loss, in no chunk, and no number at all."""

import math
from itertools import pairwise

import pytest
import torch

from kdkit.data.batches import counted_rows
from kdkit.errors import UserError
from kdkit.losses.chunked import engine as chunked
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.losses.dynamic_mapping import cdm
from tests.distill.objectives import LOSSES, Batch, every_loss, objective_for, pair_for
from tests.memory import Allocations
from tests.tiny import make_config, make_run, make_trainer


@every_loss
def test_masked_positions_get_zero_gradient_and_have_no_part_in_the_loss(pairs, loss):
    pair = pair_for(pairs, loss)
    objective = objective_for(loss, pair.data)
    # the second sequence is masked whole, the first one's first half too
    batch = Batch(pair, [0, 1, 2], masked={0: 9, 1: 1000})
    counted = batch.targets != IGNORE_INDEX
    terms, (gradient, _) = batch.compute(objective)
    assert (gradient[~counted] == 0).all()
    assert (gradient[counted] != 0).any(dim=1).all()
    assert terms[1].item() == pytest.approx(batch.cross_entropies().sum().item() / 10, rel=1e-5)
    if loss == "cdm":
        return  # which positions belong together depends on the whole text
    with torch.no_grad():
        batch.hidden[~counted] += 1.0
    again, _ = batch.compute(objective)
    assert again.tolist() == pytest.approx(terms.tolist())


def test_cdm_aligns_positions_by_the_text_where_it_is_masked_too(pairs, tmp_path):
    pair = pairs["crossed"]
    config = make_config(tmp_path, distill={"loss": "cdm"})
    trainer = make_trainer(config, make_run(tmp_path), pair.data, pair.teacher)
    expected = got = 0.0
    for row in range(6):
        batch = trainer.data_collator([row])
        batch["labels"][:, :10] = IGNORE_INDEX
        batch["counted"] = counted_rows(batch["labels"], batch["spans"])
        got += trainer.compute_step(trainer.model, batch, 10)[1]["kd_loss"].item()
        with torch.no_grad():
            student = trainer.model(input_ids=batch["input_ids"]).logits[0]
            teacher = pair.teacher.model(input_ids=batch["teacher_input_ids"]).logits[0]
        texts = batch["input_ids"][0, 1:], batch["teacher_input_ids"][0, 1:]
        values, groups = cdm(student[:-1], teacher[:-1], *texts, trainer.objective.span_loss.matcher)
        spans = batch["spans"]
        asked = (spans.student_starts[:-1] >= 9)[spans.span_of_student_rows()]
        expected += values[groups][asked].sum().item() / 10
    assert got == pytest.approx(expected, rel=1e-4)


@every_loss
def test_a_batch_that_is_masked_whole_gives_zero_with_a_graph(pairs, loss):
    pair = pair_for(pairs, loss)
    batch = Batch(pair, [0, 1], masked={0: 1000, 1: 1000})
    terms, gradients = batch.compute(objective_for(loss, pair.data))
    assert terms.tolist() == [0.0, 0.0, 0.0]
    assert all((gradient == 0).all() for gradient in gradients)


@every_loss
def test_chunks_and_blocks_of_any_size_give_the_same_terms_and_gradients(pairs, loss, monkeypatch):
    pair = pair_for(pairs, loss)
    objective, batch = objective_for(loss, pair.data), Batch(pair, [0, 1, 2], masked={1: 4})
    results = []
    for chunk_rows, block_rows in ((10_000, 10_000), (10_000, 3), (7, 2)):
        monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", 4 * 320 * chunk_rows)
        monkeypatch.setitem(chunked.BLOCK_BYTES, "cpu", 4 * 320 * block_rows)
        results.append(batch.compute(objective))
    for terms, gradients in results[1:]:
        assert torch.allclose(terms, results[0][0], rtol=1e-5)
        for got, expected in zip(gradients, results[0][1], strict=True):
            assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "cdm"])
def test_no_tensor_of_all_rows_and_the_vocabulary_is_ever_made(pairs, loss, monkeypatch, tmp_path):
    pair, rows = pair_for(pairs, loss), list(range(16))
    monkeypatch.setitem(chunked.CHUNK_BYTES, "cpu", 4 * 320 * 32)
    # the overlap is measured on 128 rows, which are about all that there are here
    config = make_config(tmp_path, distill={"loss": loss, "overlap_top_k": 0})
    trainer = make_trainer(config, make_run(tmp_path), pair.data, pair.teacher)
    batch = trainer.data_collator(rows)
    spans = batch["spans"]
    known = [*trainer.model.parameters(), *pair.teacher.model.parameters()]
    with Allocations(*known) as allocations:
        trainer.compute_step(trainer.model, batch, None)[0].backward()
    smallest = min(len(pair.data.student_tokenizer), len(pair.data.teacher_tokenizer))
    # the models' own activations of 16 sequences are larger than a chunk, but far from all rows of logits
    assert allocations.largest < min(len(spans.student_rows), len(spans.teacher_rows)) * smallest / 2


def test_cdm_makes_the_logits_of_one_sequence_at_a_time(pairs):
    pair = pairs["crossed"]
    batch, objective = Batch(pair, list(range(8))), objective_for("cdm", pair.data)
    _, chunks = objective.loss_of(batch.spans, batch.targets, batch.signals, 10.0)
    starts = batch.spans.student_starts[batch.spans.sequence_starts].tolist()
    assert [(chunk.start, chunk.stop) for chunk in chunks] == list(pairwise(starts))


@pytest.mark.parametrize("loss", ["forward_kl", "projected_kl", "alm"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_teacher_that_is_not_a_number_is_named_by_its_training_sequence(pairs, loss, bad):
    pair = pair_for(pairs, loss)
    batch = Batch(pair, [5, 3, 8])
    # one coordinate: infinite logits, not sums of infinities, which are NaN
    batch.signals.hidden[(batch.signals.windows == 3).nonzero()[0], 0] = bad
    with pytest.raises(UserError, match=r"teacher: expected finite logits, got NaN or inf for training sequence 3;"):
        batch.compute(objective_for(loss, pair.data))
