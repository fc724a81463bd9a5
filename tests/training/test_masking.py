"""Masking: an exact share of the answer, hidden from the input or the loss, the same again when a training resumes."""

import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kdkit.config.language import config_from_values
from kdkit.distill import train
from kdkit.errors import UserError
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.machine.interrupt import Stopped
from kdkit.training.masking import OPENING, Masking, find_replacements
from kdkit.training.scoring import score_windows
from tests.distill.test_stop import press_at
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher, make_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

ON = {"masking": {"enabled": True}}
REST = {"max_steps": 6, "log_every": 1, "save_every": 3}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Return a folder with a prepared corpus, its data and a teacher."""
    folder = tmp_path_factory.mktemp("masking")
    data = make_data(make_config(folder), folder)
    return folder, data, make_teacher(data)


def labelled(lengths: list[int], prompt: int, width: int) -> dict[str, torch.Tensor]:
    """Return a batch of sequences whose labels begin behind a prompt; ids count up from 10."""
    ids = torch.arange(10, 10 + width).repeat(len(lengths), 1)
    places = torch.arange(width)
    inside = (places < torch.tensor(lengths)[:, None]) & (places >= prompt)
    return {"input_ids": ids, "labels": ids.masked_fill(~inside, IGNORE_INDEX), "windows": lengths}


def masking(share: float = 0.3, opening: int = 0, token: torch.Tensor = torch.tensor([5])) -> Masking:  # noqa: B008
    """Return a masking; a sequence is known by its length."""
    return Masking(share, "input", token, opening)


def batches_of(trainer, step: int = 0, count: int = 2) -> tuple[list[dict], torch.Tensor]:
    trainer.state.global_step = step
    given = list(itertools.islice(iter(trainer.get_train_dataloader()), count))
    return trainer.get_batch_samples(iter(given), count, torch.device("cpu"))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.99])
def test_each_sequence_loses_exactly_its_share_of_the_answer_and_nothing_of_the_prompt(share):
    lengths, prompt = [40, 11, 7, 3], 3
    batch = labelled(lengths, prompt, 48)
    masking(share).apply([batch], (0, 1))
    hidden = batch["masked_input_ids"] != batch["input_ids"]
    assert hidden.sum(dim=1).tolist() == [round(share * (length - prompt)) for length in lengths]
    assert not hidden[:, :prompt].any() and not hidden[batch["labels"] == IGNORE_INDEX].any()
    assert (batch["masked_input_ids"][hidden] == 5).all()
    assert torch.equal(batch["labels"], labelled(lengths, prompt, 48)["labels"])


def test_the_opening_of_plain_text_stays():
    batch = labelled([30], 1, 30)
    masking(0.9, opening=OPENING).apply([batch], (0,))
    hidden = batch["masked_input_ids"] != batch["input_ids"]
    assert not hidden[:, : 1 + OPENING].any() and hidden.sum() == round(0.9 * (29 - OPENING))


@pytest.mark.parametrize("token", [torch.tensor([5]), torch.arange(200, 300)])
def test_order_and_cut_into_micro_batches_and_their_padding_change_nothing(token):
    lengths = [40, 11, 25, 30]
    whole, parts = labelled(lengths, 2, 48), [labelled([length], 2, length + 1) for length in lengths]
    masking(token=token).apply([whole], (3, 7))
    masking(token=token).apply(parts[::-1], (3, 7))
    for row, part in enumerate(parts):
        width = part["input_ids"].shape[1]
        assert torch.equal(whole["masked_input_ids"][row, :width], part["masked_input_ids"][0])
    other = labelled(lengths, 2, 48)
    masking(token=token).apply([other], (3, 8))
    assert not torch.equal(other["masked_input_ids"], whole["masked_input_ids"])


def test_what_stands_in_for_a_token_never_begins_or_ends_a_text(small_pair, real_tokenizer):
    own = small_pair[0]
    assert len(find_replacements(own)) == len(own) - 1, "its only special token ends documents"
    assert own.eos_token_id not in find_replacements(own)
    assert find_replacements(real_tokenizer("bert-base-uncased")).tolist() == [103]
    smollm = real_tokenizer("smollm2")
    assert not set(find_replacements(smollm).tolist()) & {smollm.bos_token_id, smollm.eos_token_id}


@pytest.mark.parametrize("with_teacher", [True, False])
def test_the_student_reads_the_gaps_and_still_has_to_predict_the_text(parts, tmp_path, with_teacher):
    folder, data, teacher = parts
    teacher = teacher if with_teacher else None
    plain = make_trainer(make_config(folder), make_run(tmp_path, "plain"), data, teacher)
    masked = make_trainer(make_config(folder, train=ON), make_run(tmp_path, "masked"), data, teacher)
    (first, *_), items = batches_of(plain)
    (second, *_), masked_items = batches_of(masked)
    assert torch.equal(first["labels"], second["labels"]) and items == masked_items
    assert "masked_input_ids" not in first
    expected = masked.model(input_ids=second["masked_input_ids"]).logits
    loss, terms = masked.compute_step(masked.model, second, items)
    rows = second["labels"][:, 1:] != IGNORE_INDEX
    nats = torch.nn.functional.cross_entropy(expected[:, :-1][rows], second["labels"][:, 1:][rows], reduction="sum")
    assert terms["ce_loss"].item() == pytest.approx(nats.item() / items.item(), rel=1e-5)
    # taken away, the loss is another one: it acts
    del second["masked_input_ids"]
    assert masked.compute_step(masked.model, second, items)[0].item() != pytest.approx(loss.item(), rel=1e-4)


def test_tokens_dropped_from_the_loss_are_in_neither_its_terms_nor_its_count(parts, tmp_path):
    folder, data, teacher = parts
    settings = {"masking": {"enabled": True, "share": 0.5, "dropped_from": "loss"}}
    trainer = make_trainer(make_config(folder, train=settings), make_run(tmp_path), data, teacher)
    plain = make_trainer(make_config(folder), make_run(tmp_path, "plain"), data, teacher)
    batches, items = batches_of(trainer)
    given, all_items = batches_of(plain)
    assert items == sum((batch["labels"] != IGNORE_INDEX).sum() for batch in batches)
    assert 0.3 * all_items < items < 0.8 * all_items
    batch = batches[0]
    assert torch.equal(batch["input_ids"], given[0]["input_ids"]) and "masked_input_ids" not in batch
    assert batch["counted"].sum() == (batch["labels"] != IGNORE_INDEX).sum().item()
    trainer.compute_step(trainer.model, batch, items)[0].backward()
    gradient = trainer.model.lm_head.weight.grad.clone()
    trainer.model.zero_grad()
    trainer.compute_step(trainer.model, given[0], items)[0].backward()
    assert not torch.allclose(gradient, trainer.model.lm_head.weight.grad, atol=1e-6)


@pytest.mark.parametrize("phase", ["student", "baseline"])
def test_a_training_that_was_stopped_hides_the_same_tokens_when_it_goes_on(parts, tmp_path, monkeypatch, phase):
    folder, data, teacher = parts
    config = make_config(folder, train=REST | ON)

    def go(run, resume=False):
        plan = make_plan(config, run, data)
        return train.distill(plan, teacher, resume) if phase == "student" else train.train_baseline(plan, resume)

    whole, run, plain = (make_run(tmp_path, name) for name in ("whole", "stopped", "plain"))
    go(whole)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        press_at(patch, 4)
        go(run)
    go(run, resume=True)
    weights = [load_file(each.path / phase / "model.safetensors") for each in (whole, run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    config = make_config(folder, train=REST)
    go(plain)
    unmasked = load_file(plain.path / phase / "model.safetensors")
    assert any(not torch.equal(weights[0][name], unmasked[name]) for name in unmasked), "it acts"


def test_evaluation_reads_the_whole_text(parts, tmp_path):
    folder, data, _ = parts
    run = make_run(tmp_path)
    config = make_config(folder, train=REST | {"masking": {"enabled": True, "share": 0.9}, "evaluate_every": 6})
    train.train_baseline(make_plan(config, run, data))
    trainer = make_trainer(config, run, data)
    logged = [line for line in run.read_metrics() if "evaluation_bits_per_byte" in line]
    score = score_windows(trainer.model, data.evaluation.first(4), "student", 8)
    assert logged[0]["evaluation_bits_per_byte"] == pytest.approx(score.bits_per_byte, rel=1e-6)


@pytest.mark.parametrize("share", [1.0, -0.1, 1.5, np.nan, "all"])
def test_a_share_outside_its_range_is_refused_with_the_range_and_a_share_that_works(share):
    with pytest.raises(UserError) as refusal:
        config_from_values({"train": {"masking": {"enabled": True, "share": share}}})
    said, _, command = str(refusal.value).partition("; set train.masking.share=")
    assert said == f"train.masking.share: expected a number of at least 0 and below 1, got {share!r}"
    values = {"train": {"masking": {"enabled": True, "share": command}}}
    assert config_from_values(values).train.masking.share == float(command)


def test_the_share_is_thirty_percent_once_it_is_switched_on():
    assert config_from_values({"train": {"masking": {"enabled": True}}}).train.masking.share == 0.3
    assert not config_from_values({}).train.masking.enabled
