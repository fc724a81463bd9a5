"""The parts that compare layers, in training: weighed, balanced, resumed, refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kdkit.config.language import Config, config_from_values
from kdkit.data.batches import WindowCollator
from kdkit.distill import layer_terms
from kdkit.distill import train as stage
from kdkit.distill.checkpoints import PROJECTIONS_FILE
from kdkit.distill.layer_terms import Balance, LayerParts, make_parts
from kdkit.distill.student import make_student
from kdkit.distill.trainer import PARTS_FILE
from kdkit.errors import UserError
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.cross_entropy import IGNORE_INDEX
from kdkit.models.taps import Taps
from kdkit.teachers.cache import CachedSignals
from kdkit.teachers.prepare import Teacher
from kdkit.training.progress import Progress
from tests.tiny import (
    make_config,
    make_data,
    make_llama,
    make_plan,
    make_run,
    make_teacher,
    make_trainer,
)

ALL = {"logits": 0.7, "feature": 0.1, "attention": 0.1, "layerwise": 0.05, "contrastive": 0.05}
"""The weights of seed 001."""
PAIRED = {"logits": 0.5, "attention": 0.3, "layerwise": 0.2}
"""Parts that compare every pair of layers."""
PARTS = ("feature", "attention", "layerwise", "contrastive")
each_part = pytest.mark.parametrize("part", PARTS)


def configure(folder, weights: dict | None = None, batch_size: int = 8, accumulation: int = 1, **changes) -> Config:
    """Configure three layers a side, with some weights of the parts."""
    steps = {"batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    train = steps | {"save_every": 3} | changes.pop("train", {})
    student = {"build": {"vocab_size": 290, "hidden_size": 16, "num_layers": 3, "intermediate_size": 32}}
    distill = {"weights": weights or ALL} | changes.pop("distill", {})
    return make_config(folder, train=train, student=student, distill=distill, **changes)


def test_a_student_that_is_the_teacher_has_no_error(tmp_path):
    """One model on both sides, one tokenizer; projections that change nothing."""
    config = make_config(tmp_path, student={"build": {"tokenizer": "teacher"}}, distill={"weights": ALL})
    data = make_data(config, tmp_path)
    model = make_llama(len(data.student_tokenizer))
    parts = LayerParts(config, model, make_llama(len(data.student_tokenizer)), "twin")
    for projection in parts.projections.values():
        torch.nn.init.eye_(projection.weight)
    batch = WindowCollator(data.train, with_teacher=True)([0, 1, 2])
    with parts.student_taps, parts.teacher_taps:
        model(batch["input_ids"])
        parts.teacher_taps._states, parts.teacher_taps._maps = parts.student_taps._states, parts.student_taps._maps
        counted = torch.ones(len(batch["spans"].student_rows), dtype=torch.bool)
        widths = (batch["input_ids"].shape[1],) * 2
        _, terms = parts.loss_of(batch["spans"], widths, counted, 10.0, 1.0)
    for part in ("feature", "layerwise", "attention"):
        assert terms[f"{part}_loss"].item() == pytest.approx(0.0, abs=1e-6)
    assert terms["contrastive_loss"] > 0


def test_pairs_of_layers_are_computed_again_and_keep_little_for_equal_gradients(tmp_path, monkeypatch):
    config = make_config(tmp_path, student={"build": {"tokenizer": "teacher"}}, distill={"weights": PAIRED})
    data = make_data(config, tmp_path)
    batch = WindowCollator(data.train, with_teacher=True)([0, 1, 2])
    counted = torch.ones(len(batch["spans"].student_rows), dtype=torch.bool)
    widths, found = (batch["input_ids"].shape[1],) * 2, []
    for again in (True, False):
        if not again:
            monkeypatch.setattr(layer_terms, "compute_again", lambda values, *inputs: values(*inputs))
        student, teacher = make_llama(len(data.student_tokenizer)), make_llama(len(data.student_tokenizer))
        parts, kept = LayerParts(config, student, teacher, "twin"), []
        with parts.student_taps, parts.teacher_taps, torch.no_grad():
            teacher(batch["teacher_input_ids"])
        with parts.student_taps:
            student(batch["input_ids"])
            with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.nbytes) or x, lambda x: x):
                loss, _ = parts.loss_of(batch["spans"], widths, counted, 10.0, 1.0)
            loss.backward()
        gradients = [tensor.grad for tensor in (*student.parameters(), *parts.projections.parameters())]
        found.append((sum(kept), [gradient for gradient in gradients if gradient is not None]))
    (little, first), (much, second) = found
    assert 2 * little < much  # both sides, and nothing made of them
    assert len(first) > 10 and all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def lines_of(trainer) -> list[dict[str, float]]:
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("batch_size", [2, 1])
def test_one_batch_of_eight_equals_several_smaller_in_loss_and_gradient_norm(crossed, tmp_path, balance, batch_size):
    data, teacher = crossed
    runs = []
    for size in (8, batch_size):
        config = configure(tmp_path, None, size, 8 // size, distill={"balance": balance})
        trainer = make_trainer(config, make_run(tmp_path, str(size)), data, teacher, steps=3)
        runs.append((lines_of(trainer), trainer.parts.projections.state_dict()))
    (whole, first), (several, second) = runs
    names = ["loss", "grad_norm", "ce_loss", "kd_loss", *(f"{part}_loss" for part in PARTS)]
    for a, b in zip(whole[:1], several[:1], strict=True):
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=1e-5), name
    for a, b in zip(whole, several, strict=True):
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=5e-4), name
    assert all(torch.allclose(value, second[name], atol=2e-4) for name, value in first.items())


def test_the_loss_is_the_weighted_sum_of_its_terms(crossed, tmp_path):
    # with alm every row is asked, so the blend is a plain sum
    config = configure(tmp_path, distill={"loss": "alm", "kd_ratio": 0.6})
    for line in lines_of(make_trainer(config, make_run(tmp_path), *crossed, steps=2)):
        assert line["kd_weighted"] == pytest.approx(0.6 * 0.7 * line["kd_loss"])
        for part in PARTS:
            assert line[f"{part}_loss"] > 0
            assert line[f"{part}_weighted"] == pytest.approx(0.6 * ALL[part] * line[f"{part}_loss"], rel=1e-5)
        weighted = sum(value for name, value in line.items() if name.endswith("_weighted"))
        assert line["loss"] == pytest.approx(0.4 * line["ce_loss"] + weighted, rel=1e-5)


@each_part
def test_a_part_alone_brings_the_student_nearer_to_the_teacher(crossed, tmp_path, part):
    weights = {"logits": 0.0, part: 1.0}
    config = configure(tmp_path, weights, train={"warmup_steps": 0}, distill={"kd_ratio": 1.0})
    trainer = make_trainer(config, make_run(tmp_path), *crossed, steps=12)
    values = []
    for train in (lambda: None, trainer.train):
        train()
        with trainer.parts.student_taps, torch.no_grad():
            terms = trainer.compute_step(trainer.model, trainer.data_collator(list(range(16))), None)[1]
        values.append(terms[f"{part}_loss"].item())
        assert {name for name in terms if name.endswith("_loss")} == {"ce_loss", "kd_loss", f"{part}_loss"}
    assert values[1] < 0.95 * values[0]


def test_a_logits_weight_of_zero_asks_for_no_prediction(crossed, tmp_path, monkeypatch):
    config = configure(tmp_path, ALL | {"logits": 0.0}, distill={"kd_ratio": 0.6})
    monkeypatch.setattr(DenseSignals, "unchecked_logits", lambda *_: pytest.fail("the teacher's head was used"))
    trainer = make_trainer(config, make_run(tmp_path), *crossed)
    inputs = trainer.data_collator([0, 1])
    with trainer.parts.student_taps:
        loss, terms = trainer.compute_step(trainer.model, inputs, 20)
    assert terms["kd_loss"] == 0 and terms["kd_weighted"] == 0
    # the rows at which it would be asked keep (1 - kd_ratio) of their cross-entropy
    spans, targets = inputs["spans"], inputs["labels"][:, 1:]
    logits = trainer.model(inputs["input_ids"]).logits[:, :-1]
    ce = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
    width = inputs["input_ids"].shape[1]
    asked = spans.student_rows[spans.student_starts[:-1]]
    ce[asked // width, asked % width] *= 0.4
    expected = ce.sum() / 20 + sum(terms[f"{part}_weighted"] for part in PARTS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_weights_of_zero_cost_nothing(crossed, tmp_path, monkeypatch):
    monkeypatch.setattr(Taps, "__init__", lambda *_, **__: pytest.fail("a tap was made"))
    trainer = make_trainer(configure(tmp_path, {"logits": 1.0}), make_run(tmp_path), *crossed, steps=1)
    assert trainer.parts is None
    trainer.train()
    names = {name for line in trainer.state.log_history for name in line if name.endswith(("_loss", "_weighted"))}
    assert names == {"ce_loss", "kd_loss", "kd_weighted", "train_loss"}


@pytest.mark.parametrize(
    ("part", "states", "maps", "projections"),
    [("feature", 1, 0, 1), ("contrastive", 1, 0, 1), ("layerwise", 3, 0, 3), ("attention", 0, 3, 0)],
)
def test_a_part_taps_and_projects_only_what_it_needs(crossed, tmp_path, part, states, maps, projections):
    parts = make_trainer(configure(tmp_path, {part: 1.0}), make_run(tmp_path), *crossed).parts
    assert (len(parts.student_taps.layers), len(parts.student_taps.attentions)) == (states, maps)
    assert len(parts.projections) == projections


def test_without_a_share_for_the_teacher_nothing_is_compared(crossed, tmp_path):
    trainer = make_trainer(configure(tmp_path, distill={"kd_ratio": 0.0}), make_run(tmp_path), *crossed)
    assert trainer.parts is None


def test_projections_learn_as_a_group_of_their_own_and_are_in_no_student(crossed, tmp_path):
    trainer = make_trainer(configure(tmp_path), make_run(tmp_path), *crossed, steps=2)
    before = {name: value.clone() for name, value in trainer.parts.projections.state_dict().items()}
    trainer.train()
    after = trainer.parts.projections.state_dict()
    assert before.keys() == {
        f"{name}.weight" for name in ("feature", "contrastive", "layerwise_0", "layerwise_1", "layerwise_2")
    }
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
    row = trainer.parameter_table[-1]
    assert row["pattern"] == "(projections)" and row["tensors"] == 5 and row["parameters"] == 5 * 16 * 16
    assert not any("layerwise" in name or "feature" in name for name in trainer.model.state_dict())


def test_gradients_of_projections_are_those_of_one_step(crossed, tmp_path, monkeypatch):
    """What Trainer does not clear by itself: the projections' gradients of the step before."""
    trainer = make_trainer(configure(tmp_path, None, 4, 2), make_run(tmp_path), *crossed, steps=3)
    counts, end_step = [], LayerParts.end_step
    begin_batch = LayerParts.begin_batch

    def count(self):
        begin_batch(self)
        counts.append(self.projections["feature"].weight.grad is None)

    monkeypatch.setattr(LayerParts, "begin_batch", count)
    monkeypatch.setattr(LayerParts, "end_step", lambda self, accelerator: end_step(self, accelerator))
    trainer.train()
    assert counts == [True, False] * 3


def test_equal_seeds_give_equal_projections(crossed, tmp_path):
    first, second, other = (
        make_trainer(configure(tmp_path, seed=seed), make_run(tmp_path, name), *crossed).parts.projections.state_dict()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(not torch.equal(value, other[name]) for name, value in first.items())


STAGES = [{"name": "first", "max_steps": 4}, {"name": "second", "max_steps": 4}]


@pytest.mark.parametrize("stages", [[], STAGES], ids=["one stage", "two stages"])
def test_a_resumed_training_equals_an_uninterrupted_one(crossed, tmp_path, monkeypatch, stages):
    data, teacher = crossed
    stop_at = 2 if stages else 5
    config = configure(tmp_path, None, 4, 2, distill={"balance": True}, train={"stages": stages})
    whole, broken = make_run(tmp_path, "whole"), make_run(tmp_path, "broken")
    stage.distill(make_plan(config, whole, data), teacher)
    on_step_end = Progress.on_step_end

    def stop(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == stop_at and (not stages or self.first_step == 4):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "on_step_end", stop)
        stage.distill(make_plan(config, broken, data), teacher)
    assert list((broken.path / "checkpoints" / "student").rglob(PARTS_FILE))
    stage.distill(make_plan(config, broken, data), teacher, resume=True)
    expected, got = (load_file(run.path / PROJECTIONS_FILE) for run in (whole, broken))
    assert len(expected) == 5 and all(torch.equal(value, got[name]) for name, value in expected.items())
    expected, got = (AutoModelForCausalLM.from_pretrained(run.path / "student").state_dict() for run in (whole, broken))
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    expected, got = ([line for line in run.read_metrics() if "loss" in line] for run in (whole, broken))
    assert [line["feature_weighted"] for line in got] == [line["feature_weighted"] for line in expected]


def test_a_run_logs_all_terms_and_lists_the_projections(crossed, tmp_path):
    run = make_run(tmp_path)
    stage.distill(make_plan(configure(tmp_path, train={"max_steps": 2}), run, crossed[0]), crossed[1])
    line = next(line for line in run.read_metrics() if "loss" in line)
    assert {f"{part}_{kind}" for part in PARTS for kind in ("loss", "weighted")} | {"kd_weighted"} <= line.keys()
    table = json.loads((run.path / "training.json").read_text())["student_parameters"]
    assert [row["pattern"] for row in table][-1] == "(projections)"
    assert not {"feature.weight"} & load_file(run.path / "student" / "model.safetensors").keys()


def test_no_bar_is_shown_while_models_are_written(crossed, tmp_path, capfd):
    stage.distill(make_plan(configure(tmp_path, train={"max_steps": 3}), make_run(tmp_path), crossed[0]), crossed[1])
    assert "Writing" not in capfd.readouterr().err


class Alone:
    """What `Balance` needs of an `Accelerator`: one process."""

    device = torch.device("cpu")

    def reduce(self, values, reduction):
        return values


def test_balance_is_the_ratio_of_running_means_and_changes_once_a_step():
    balance = Balance(["feature"])
    assert balance.scale("feature") == 1.0
    for ce, feature in ((1.0, 0.1), (2.0, 0.2)):
        balance.add({"ce_loss": torch.tensor(ce), "feature_loss": torch.tensor(feature), "kd_loss": torch.tensor(9.0)})
        assert balance.scale("feature") == 1.0
    balance.end_step(Alone())
    assert balance.scale("feature") == pytest.approx(10.0)
    balance.add({"ce_loss": torch.tensor(3.0), "feature_loss": torch.tensor(0.6)})
    balance.end_step(Alone())
    assert balance.scale("feature") == pytest.approx((0.9 * 3.0 + 3.0) / (0.9 * 0.3 + 0.6))


def test_balance_brings_a_part_to_the_size_of_cross_entropy(crossed, tmp_path):
    config = configure(tmp_path, {"logits": 1.0, "feature": 0.5}, distill={"balance": True, "kd_ratio": 0.6})
    lines = lines_of(make_trainer(config, make_run(tmp_path), *crossed, steps=3))
    assert lines[0]["feature_weighted"] == pytest.approx(0.3 * lines[0]["feature_loss"], rel=1e-5)
    scale = lines[0]["ce_loss"] / lines[0]["feature_loss"]
    assert lines[1]["feature_weighted"] == pytest.approx(0.3 * scale * lines[1]["feature_loss"], rel=1e-4)


def test_a_cache_is_refused_because_it_holds_predictions_only(crossed, tmp_path):
    signals = object.__new__(CachedSignals)
    student = make_student(configure(tmp_path), crossed[0])
    with pytest.raises(UserError, match=r"expected logits only with a cache.*got feature, attention, layerwise"):
        make_parts(configure(tmp_path), student, signals)
    assert make_parts(configure(tmp_path, {"logits": 1.0}), student, signals) is None


def test_a_layer_that_there_is_not_is_refused_before_training(crossed, tmp_path):
    config = configure(tmp_path, distill={"layer_map": {"2": 0}})
    with pytest.raises(UserError, match=r"expected a teacher layer out of 0, 1, got 2"):
        make_plan(config, make_run(tmp_path), crossed[0])


def test_weights_that_are_negative_or_all_zero_are_refused():
    with pytest.raises(UserError, match=r"distill\.weights.*got only zeros"):
        config_from_values({"distill": {"weights": {"logits": 0.0}}})
    with pytest.raises(UserError, match=r"distill\.weights\.feature"):
        config_from_values({"distill": {"weights": {"feature": -0.1}}})


def test_the_parts_work_on_text_that_the_student_has_written(crossed, tmp_path):
    on_policy = {"name": "own", "max_steps": 2, "on_policy": {"max_new_tokens": 6, "prompt_length": 4}}
    config = configure(tmp_path, train={"stages": [on_policy]}, distill={"kd_ratio": 0.0})
    plan = make_plan(config, make_run(tmp_path), crossed[0])
    trainer = stage.make_trainer(plan, plan.stages[0], make_student(config, crossed[0]), crossed[1])
    for line in lines_of(trainer):
        assert all(line[f"{part}_loss"] > 0 for part in PARTS)


def test_a_teacher_in_half_precision_is_compared_in_full(crossed, tmp_path):
    data, teacher = crossed
    half = Teacher(make_teacher(data).model.to(torch.bfloat16), "tiny", True)
    assert isinstance(half, Teacher)
    trainers = [
        make_trainer(configure(tmp_path), make_run(tmp_path, name), data, asked)
        for name, asked in (("full", teacher), ("half", half))
    ]
    terms = []
    for trainer in trainers:
        with trainer.parts.student_taps:
            terms.append(trainer.compute_step(trainer.model, trainer.data_collator([0, 1, 2]), 20)[1])
    for part in PARTS:
        assert terms[1][f"{part}_loss"].dtype == torch.float32
        assert terms[1][f"{part}_loss"].item() == pytest.approx(terms[0][f"{part}_loss"].item(), rel=0.05), part
