"""The training loop: accumulation, two-pass steps, loss scaling, stages, going on."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch

from kdkit.embeddings.methods.base import PairFacts
from kdkit.embeddings.training.batches import make_order
from kdkit.embeddings.training.train import build_method
from kdkit.embeddings.training.trainer import EmbeddingTrainer, plan_embedding_stages
from kdkit.errors import UserError
from kdkit.machine.interrupt import StopRequest
from tests.embedders import TEACHER_WIDTH, TableTeacher, cpu, make_config, make_data, make_embedder

pytestmark = pytest.mark.usefixtures("one_thread")


def make_trainer(precision="fp32", dropout=0.1, **values):
    config = make_config(**values)
    student, data = make_embedder(dropout=dropout), make_data()
    torch.manual_seed(1)
    method = build_method(config.method, PairFacts(16, TEACHER_WIDTH, 3, 6))
    order = make_order(data, config.train, config.seed)
    stages = plan_embedding_stages(config, student, method, order)
    return EmbeddingTrainer(config, student, method, data, TableTeacher(40), cpu(precision), order, stages)


def run(trainer, tmp_path, until=None):
    logs = []

    def on_step(step, line):
        logs.append(line)
        if step == until:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        trainer.train(on_step, tmp_path / "checkpoint.pt", StopRequest())
    return [line for line in logs if line]


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def small(name):
    """Give Stella widths that this teacher has."""
    return {"name": name} | ({"dimensions": [8, 16]} if name == "stella" else {})


SENTENCE_METHODS = ["talas", "stella", "cosine", "rkd", "leaf", "similarity_kl", "layer_reduction", "simcse"]


@pytest.mark.parametrize("name", SENTENCE_METHODS)
def test_every_method_lowers_its_loss(name, tmp_path):
    steps = {"max_steps": 60, "log_every": 10, "learning_rate": 3e-3}
    logs = run(make_trainer(method=small(name), train=steps, dropout=0.0 if name != "simcse" else 0.1), tmp_path)
    assert all(math.isfinite(line["loss"]) for line in logs)
    assert logs[-1]["loss"] < logs[0]["loss"]


@pytest.mark.parametrize("form", ["paper", "seed"])
@pytest.mark.parametrize("name", ["talas", "stella"])
def test_published_forms_run(name, form, tmp_path):
    # the small widths of the publications are wider than this teacher
    options = {"dimensions": [8, 16]} if name == "stella" else {}
    logs = run(make_trainer(method={"name": name, "form": form} | options, train={"log_every": 1}), tmp_path)
    assert len(logs) == 8 and all(math.isfinite(line["loss"]) for line in logs)


def test_talas_trains_without_its_anchor(tmp_path):
    logs = run(make_trainer(method={"name": "talas", "anchor_weight": 0}, train={"log_every": 1}), tmp_path)
    assert all(line["structure_loss"] > 0 and "anchor_loss" not in line for line in logs)


@pytest.mark.parametrize("sharpness", ["none", "sam", "asam"])
def test_accumulation_does_not_change_a_step(sharpness, tmp_path):
    # a mean over sentences and no dropout: micro-batches of 4 twice must do what 8 do once
    method = {"name": "talas", "sharpness": sharpness, "structure_weight": 0, "task_weight": 0, "projection": "random"}
    steps = {"max_steps": 1, "group_by_length": False}
    whole = make_trainer(dropout=0.0, method=method, train=steps)
    halves = make_trainer(
        dropout=0.0,
        method=method,
        train=steps | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    )
    assert (halves.order.rows(0).tolist() + halves.order.rows(1).tolist()) == whole.order.rows(0).tolist()
    run(whole, tmp_path), run(halves, tmp_path)
    torch.testing.assert_close(weights(halves), weights(whole), atol=2e-5, rtol=0)


def test_a_sharpness_aware_step_uses_the_gradient_uphill(tmp_path):
    plain = make_trainer(method={"name": "talas", "sharpness": "none"}, train={"max_steps": 2})
    sharp = make_trainer(method={"name": "talas", "sharpness": "sam", "rho": 0.5}, train={"max_steps": 2})
    near = make_trainer(method={"name": "talas", "sharpness": "sam", "rho": 1e-7}, train={"max_steps": 2})
    for trainer in (plain, sharp, near):
        run(trainer, tmp_path)
    # no move, the same dropout in both passes: the same training as without
    assert (weights(near) - weights(plain)).abs().max() < 0.1 * (weights(sharp) - weights(plain)).abs().max()


def test_both_passes_see_the_same_dropout(monkeypatch):
    trainer = make_trainer(method={"name": "talas", "rho": 1e-12})
    seen = []
    compare = trainer.method.compare
    monkeypatch.setattr(
        trainer.method, "compare", lambda views: (seen.append(views.student.pooled.detach()), compare(views))[1]
    )
    trainer._enter_stage()
    trainer.train_step()
    trainer.train_step()
    assert len(seen) == 4
    assert torch.allclose(seen[0], seen[1], atol=1e-5) and torch.allclose(seen[2], seen[3], atol=1e-5)
    assert not torch.allclose(seen[0], seen[2], atol=1e-3)


@pytest.mark.parametrize("sharpness", ["none", "asam"])
def test_loss_scaling_does_not_change_the_steps(sharpness, tmp_path):
    method = {"name": "talas", "sharpness": sharpness}
    plain, scaled = (make_trainer(method=method) for _ in range(2))
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run(plain, tmp_path), run(scaled, tmp_path)
    torch.testing.assert_close(weights(scaled), weights(plain), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sharpness", ["none", "sam", "asam"])
def test_a_step_with_an_infinite_gradient_is_left_out_counted_and_the_scale_lowered(sharpness):
    trainer = make_trainer(method={"name": "talas", "sharpness": sharpness})
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    trainer.method.weights["anchor"] = 1e36
    trainer._enter_stage()
    before, scale = weights(trainer), trainer.scaler.get_scale()
    trainer.train_step()
    assert trainer.skipped_steps == 1 and trainer.step == 1
    assert torch.equal(weights(trainer), before)
    assert trainer.scaler.get_scale() < scale


def test_a_second_pass_that_overflows_is_left_out_too(monkeypatch):
    trainer = make_trainer(method={"name": "talas", "sharpness": "sam"})
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer._enter_stage()
    before = weights(trainer)
    backward = trainer._backward

    def overflow(remember):
        backward(remember)
        if not remember:
            next(p for p in trainer.model.parameters() if p.grad is not None).grad.fill_(float("inf"))

    monkeypatch.setattr(trainer, "_backward", overflow)
    trainer.train_step()
    assert trainer.skipped_steps == 1 and trainer.scaler.get_scale() == 1.0
    assert torch.equal(weights(trainer), before)


@pytest.mark.parametrize("sharpness", ["none", "asam"])
def test_half_precision_trains(sharpness, tmp_path):
    steps = {"max_steps": 30, "log_every": 10, "learning_rate": 3e-3}
    trainer = make_trainer("fp16", method={"name": "talas", "sharpness": sharpness}, train=steps, dropout=0.0)
    assert trainer.scaler.is_enabled()
    logs = run(trainer, tmp_path)
    assert logs[-1]["anchor_loss"] < logs[0]["anchor_loss"]
    assert trainer.skipped_steps < 10


@pytest.mark.parametrize("name", ["talas", "stella", "simcse"])
def test_a_training_that_was_stopped_goes_on_as_if_it_was_not(name, tmp_path):
    method = {"name": name} | ({"form": "paper", "dimensions": [8]} if name == "stella" else {})
    values = {"method": method, "train": {"save_every": 1, "max_steps": 9}}
    whole = make_trainer(**values)
    run(whole, tmp_path / "whole")
    for stop in (2, 5):
        first, second = make_trainer(**values), make_trainer(**values)
        run(first, tmp_path / str(stop), until=stop)
        second.load(tmp_path / str(stop) / "checkpoint.pt")
        assert second.step == stop - 1  # the step in which it was stopped is made again
        run(second, tmp_path / str(stop))
        assert torch.equal(weights(second), weights(whole))


def test_frozen_modules_run_without_dropout_and_do_not_move(tmp_path):
    stages = [
        {"name": "head", "share": 0.5, "parameter_lr_multipliers": [{"pattern": "^student", "lr_multiplier": 0}]},
        {"name": "all", "share": 0.5},
    ]
    trainer = make_trainer(method={"name": "stella", "dimensions": [8]}, train={"stages": stages, "dropout": "always"})
    before = [parameter.detach().clone() for parameter in trainer.student.parameters()]
    run(trainer, tmp_path, until=4)
    assert not trainer.student.backbone.training and trainer.method.training
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.student.parameters(), strict=True))
    run(trainer, tmp_path)
    assert trainer.student.backbone.training
    assert not all(torch.equal(a, b) for a, b in zip(before, trainer.student.parameters(), strict=True))


@pytest.mark.parametrize(
    ("method", "dropout", "is_used"),
    [("cosine", "auto", False), ("cosine", "always", True), ("simcse", "auto", True), ("simcse", "never", False)],
)
def test_dropout_is_used_where_two_views_are_made_with_it(method, dropout, is_used, tmp_path):
    trainer = make_trainer(method={"name": method}, train={"dropout": dropout, "max_steps": 1})
    run(trainer, tmp_path)
    assert trainer.student.backbone.training == is_used


def test_the_papers_stages_train_head_then_last_layers_then_everything():
    trainer = make_trainer(method={"name": "stella", "form": "paper", "dimensions": [8]}, train={"max_steps": 132})
    assert [(stage.name, stage.steps) for stage in trainer.stages] == [("head", 40), ("last-layers", 70), ("all", 22)]
    trained = []
    for stage in trainer.stages:
        trainer.step = stage.first_step
        trainer._enter_stage()
        trained.append({name for name, p in trainer.model.named_parameters() if p.requires_grad})
    assert all(name.startswith("method.") for name in trained[0])
    assert not any("embeddings" in name for name in trained[1]) and any("layer.0" in name for name in trained[1])
    assert trained[2] == {name for name, _ in trainer.model.named_parameters()}
    assert [stage.small_widths for stage in trainer.stages] == [False, False, True]


def test_fewer_sentences_than_a_batch_are_refused():
    with pytest.raises(UserError, match="expected at most the 40 training sentences, got 64; lower it"):
        make_trainer(method="cosine", train={"per_device_train_batch_size": 64})


def test_more_stages_than_steps_are_refused():
    with pytest.raises(UserError, match="at least a step for each of 3 stages, got 2"):
        make_trainer(method={"name": "stella", "form": "paper", "dimensions": [8]}, train={"max_steps": 2})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "talas", "num_anchor_layers": 4}, "num_anchor_layers: expected at most the student's 3 layers"),
        ({"name": "talas", "structure_first_layer": 3}, "expected less than the student's 3 layers, got 3"),
        ({"name": "stella", "dimensions": [8, 32]}, "expected widths up to the teacher's 24, got 32"),
    ],
)
def test_what_the_models_do_not_have_is_refused(method, message):
    with pytest.raises(UserError, match=message):
        make_trainer(method=method)


@pytest.mark.parametrize("name", [*SENTENCE_METHODS])
@pytest.mark.parametrize("size", [1, 2])
def test_batches_of_one_and_two_sentences_give_finite_losses(name, size, tmp_path):
    trainer = make_trainer(
        method=small(name), train={"per_device_train_batch_size": size, "max_steps": 3, "log_every": 1}
    )
    logs = run(trainer, tmp_path)
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in logs)
    assert trainer.skipped_steps == 0


@pytest.mark.parametrize("name", SENTENCE_METHODS)
def test_projections_are_there_before_the_first_step(name):
    trainer = make_trainer(method=small(name))
    has_none = name in ("rkd", "similarity_kl", "simcse")
    assert bool(list(trainer.method.state_dict())) != has_none


@pytest.mark.parametrize(
    ("count", "accumulation", "epochs", "steps"), [(40, 1, 2, 10), (40, 3, 2, 4), (40, 32, 2, 1), (40, 5, 1, 1)]
)
def test_an_epoch_is_a_pass_over_the_sentences_however_a_step_is_cut(count, accumulation, epochs, steps):
    train = {"max_steps": None, "num_train_epochs": epochs, "gradient_accumulation_steps": accumulation}
    trainer = make_trainer(train=train)
    assert trainer.order.batches_per_epoch == count // 8
    assert trainer.total_steps == steps


def test_every_stage_has_a_step(tmp_path):
    stages = [{"name": name, "share": share} for name, share in (("a", 0.5), ("b", 0.01), ("c", 0.49))]
    trainer = make_trainer(train={"stages": stages, "max_steps": 10})
    assert [stage.steps for stage in trainer.stages] == [5, 1, 4]


def test_a_stage_may_say_that_nothing_is_frozen_in_it():
    frozen = [{"pattern": "^student", "lr_multiplier": 0}]
    stages = [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.5, "parameter_lr_multipliers": []}]
    trainer = make_trainer(method={"name": "leaf"}, train={"stages": stages, "parameter_lr_multipliers": frozen})
    assert [[rule.pattern for rule in stage.rules] for stage in trainer.stages] == [
        ["^student", "^method\\."],
        ["^method\\."],
    ]


@pytest.mark.parametrize(
    ("word_embeddings", "path", "is_frozen"),
    [("auto", "reduce", True), ("auto", "build", False), ("freeze", "build", True), ("train", "reduce", False)],
)
def test_word_embeddings_stay_where_they_are_the_teachers(word_embeddings, path, is_frozen, tmp_path):
    train = {"word_embeddings": word_embeddings, "max_steps": 2}
    trainer = make_trainer(method={"name": "cosine"}, train=train, student={"path": path})
    table = trainer.student.backbone.get_input_embeddings().weight
    before, layer = table.detach().clone(), weights(trainer)
    run(trainer, tmp_path)
    assert torch.equal(table, before) == is_frozen
    assert not torch.equal(weights(trainer), layer)


@pytest.mark.parametrize("name", ["cosine", "layer_reduction", "talas", "cosine random"])
def test_a_fitted_projection_of_a_narrower_student_stays_as_it_starts(name, tmp_path):
    name, _, projection = name.partition(" ")
    trainer = make_trainer(method={"name": name, "projection": projection or "auto"}, train={"max_steps": 2})
    before = [weight.detach().clone() for weight in trainer.method.parameters()]
    run(trainer, tmp_path)
    stays = all(torch.equal(a, b) for a, b in zip(before, trainer.method.parameters(), strict=True))
    assert before and stays == (name != "talas" and not projection)


def test_a_rule_that_names_the_word_embeddings_comes_first(tmp_path):
    rule = {"pattern": "word_embeddings", "lr_multiplier": 0.1}
    train = {"parameter_lr_multipliers": [rule], "max_steps": 2}
    trainer = make_trainer(method={"name": "cosine"}, train=train, student={"path": "reduce"})
    before = trainer.student.backbone.get_input_embeddings().weight.detach().clone()
    run(trainer, tmp_path)
    assert not torch.equal(trainer.student.backbone.get_input_embeddings().weight, before)


def test_the_papers_stages_have_its_learning_rates():
    trainer = make_trainer(method={"name": "stella", "form": "paper"}, train={"learning_rate": 1e-4})
    assert [stage.learning_rate for stage in trainer.stages] == pytest.approx([1e-4, 8e-5, 7e-5])


def test_an_overflow_in_the_first_pass_counts_for_the_scale_as_in_a_plain_step(monkeypatch):
    states = {}
    for sharpness in ("none", "asam"):
        trainer = make_trainer(method={"name": "talas", "sharpness": sharpness})
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=3)
        states[sharpness] = [step_of(trainer, overflows=step in (2, 5), monkeypatch=monkeypatch) for step in range(8)]
    assert states["asam"] == states["none"]
    assert len({scale for scale, _ in states["none"]}) > 2


def step_of(trainer, overflows, monkeypatch):
    """Make a step, perhaps with a gradient that is inf, and return the scale and how long it has held."""
    trainer._enter_stage()
    backward = trainer._backward

    def broken(remember):
        backward(remember)
        if overflows:
            next(p for p in trainer.model.parameters() if p.grad is not None).grad[0] = math.inf

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_backward", broken)
        trainer.train_step()
    return trainer.scaler.get_scale(), trainer.scaler.state_dict()["_growth_tracker"]


def test_the_gradient_norm_is_that_of_steps_that_were_made(monkeypatch):
    trainer = make_trainer(method={"name": "cosine"})
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    for step in range(3):
        step_of(trainer, overflows=step == 1, monkeypatch=monkeypatch)
    assert trainer.skipped_steps == 1 and math.isfinite(trainer._read_logs()["grad_norm"])
    step_of(trainer, overflows=True, monkeypatch=monkeypatch)
    assert "grad_norm" not in trainer._read_logs()


def test_the_temperatures_of_similarities_are_those_of_their_models():
    trainer = make_trainer(
        method={"name": "similarity_kl", "student_temperature": 0.2, "teacher_temperature": 0.02}, dropout=0.0
    )
    student, teacher = torch.randn(4, 16), torch.randn(4, TEACHER_WIDTH)
    views = SimpleNamespace(student=SimpleNamespace(pooled=student), teacher=SimpleNamespace(pooled=teacher))
    hidden = ~torch.eye(4, dtype=torch.bool)
    logits = [
        torch.cosine_similarity(vectors[:, None], vectors[None], dim=-1)[hidden].view(4, 3) / temperature
        for vectors, temperature in ((student, 0.2), (teacher, 0.02))
    ]
    own, target = (values.log_softmax(-1) for values in logits)
    expected = (target.exp() * (target - own)).sum(-1).mean()
    torch.testing.assert_close(trainer.method.compare(views)["kl"], expected)


def test_the_source_adds_up_what_smaller_widths_lose_and_the_default_averages_it():
    small = ("small_similarity", "small_ranking")
    for form, factor in (("seed", 3), ("paper", 1)):
        weights = make_trainer(method={"name": "stella", "form": form}).method.weights
        assert [weights[name] for name in small] == [factor * weights[name[6:]] for name in small]


def test_a_micro_batch_that_does_not_fit_is_refused_with_the_setting_to_change(tmp_path, monkeypatch):
    trainer = make_trainer(method={"name": "cosine"})

    def fail(remember):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(trainer, "_backward", fail)
    with pytest.raises(
        UserError, match=r"got 8 \(CUDA out of memory.*another training; set train.batch_size=4 train.gr"
    ):
        run(trainer, tmp_path)
