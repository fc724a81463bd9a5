"""How hard a sequence is for the teacher, and the order that a curriculum makes of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdkit.config.language import Config
from kdkit.config.training import StageSettings
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.distill import curriculum, train
from kdkit.distill import open_teacher as source
from kdkit.distill.curriculum import curriculum_order
from kdkit.distill.student import make_student
from kdkit.runs.folder import Run
from kdkit.teachers.prepare import Teacher
from kdkit.teachers.probe import teacher_entropy, teacher_loss
from kdkit.training.options.batch_plan import sequences_per_step
from tests.tiny import (
    CPU,
    make_config,
    make_data,
    make_plan,
    make_run,
    make_teacher,
    plan_stages,
    save_teacher,
)

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["teacher_loss", "teacher_entropy"]


class Place:
    """A folder with a teacher that the configuration names."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.teacher = make_teacher(make_data(make_config(folder), folder))
        self.path = save_teacher(make_data(make_config(folder), folder), folder / "teacher")

    def config(self, kind: str = "teacher_loss", **settings: object) -> Config:
        return make_config(self.folder, teacher={"path": str(self.path)}, train={"curriculum": kind, **settings})

    def data(self) -> PreparedData:
        return make_data(self.config(), self.folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory, one_thread) -> Place:
    return Place(tmp_path_factory.mktemp("difficulty"))


@pytest.fixture
def prepared(monkeypatch) -> list[str]:
    """Count how often a teacher is loaded."""
    calls: list[str] = []
    load = curriculum.prepare_teacher
    monkeypatch.setattr(curriculum, "prepare_teacher", lambda *arguments: calls.append("loaded") or load(*arguments))
    return calls


@torch.no_grad()
def expected_means(teacher: Teacher, windows: Windows, vocab_size: int) -> tuple[list[float], list[float]]:
    """Compute mean loss and mean entropy of each window in float64, one window after the other."""
    losses, entropies = [], []
    for ids in np.asarray(windows.teacher_ids):
        ids = torch.from_numpy(ids[ids != PAD].astype(np.int64))
        logits = teacher.model(ids[None]).logits[0, :-1, :vocab_size].double()
        logprobs = torch.log_softmax(logits, dim=-1)
        losses.append(-logprobs.gather(1, ids[1:, None]).mean().item() if len(ids) > 1 else 0.0)
        entropies.append(-(logprobs.exp() * logprobs).sum(dim=-1).mean().item() if len(ids) > 1 else 0.0)
    return losses, entropies


@pytest.mark.parametrize("batch_size", [1, 7])
def test_loss_and_entropy_are_the_means_of_each_sequence(place, batch_size):
    windows = place.data().train.first(20)
    losses, entropies = expected_means(place.teacher, windows, 320)
    lengths = (windows.teacher_ids != PAD).sum(axis=1)
    assert len(set(lengths.tolist())) > 3  # padding is in the batches
    got_loss = teacher_loss(place.teacher, windows, batch_size, CPU)
    got_entropy = teacher_entropy(place.teacher, windows, 320, batch_size, CPU)
    assert got_loss.dtype == got_entropy.dtype == np.float64 and got_loss.shape == got_entropy.shape == (20,)
    assert np.allclose(got_loss, losses, rtol=1e-5)
    assert np.allclose(got_entropy, entropies, rtol=1e-5)


def test_entropy_leaves_out_rows_of_a_padded_head(place):
    windows = place.data().train.first(5)
    expected = teacher_entropy(place.teacher, windows, 320, 4, CPU)
    padded = make_teacher(place.data())
    padded.model.resize_token_embeddings(330)
    with torch.no_grad():
        padded.model.get_output_embeddings().weight[320:] = 30.0
    assert np.allclose(teacher_entropy(padded, windows, 320, 4, CPU), expected, rtol=1e-6)


def test_entropy_of_a_certain_teacher_is_zero_and_of_an_undecided_one_the_logarithm_of_the_vocabulary(place):
    windows, teacher = place.data().train.first(3), make_teacher(place.data())
    head = teacher.model.get_output_embeddings().weight
    with torch.no_grad():
        head.zero_()
        assert np.allclose(teacher_entropy(teacher, windows, 320, 2, CPU), np.log(320), rtol=1e-6)
        assert np.allclose(teacher_loss(teacher, windows, 2, CPU), np.log(320), rtol=1e-6)
        head.normal_(generator=torch.Generator().manual_seed(0)).mul_(1e5)
    # probabilities of the others are 0 in fp32, and 0 * -inf must not be NaN
    assert np.allclose(teacher_entropy(teacher, windows, 320, 2, CPU), 0.0, atol=1e-6)


def test_the_rows_of_a_chunk_do_not_matter(place, monkeypatch):
    windows = place.data().train.first(9)
    expected = teacher_entropy(place.teacher, windows, 320, 4, CPU)
    monkeypatch.setattr("kdkit.teachers.probe.rows_per_chunk", lambda *_: 3)
    assert np.allclose(teacher_entropy(place.teacher, windows, 320, 4, CPU), expected, rtol=1e-6)


def test_a_sequence_without_a_prediction_has_difficulty_zero(place):
    windows = place.data().train.first(3)
    ids = np.array(windows.teacher_ids)
    ids[1, 1:] = PAD
    windows = replace(windows, teacher_ids=ids)
    for got in (teacher_loss(place.teacher, windows, 3, CPU), teacher_entropy(place.teacher, windows, 320, 3, CPU)):
        assert np.isfinite(got).all() and got[1] == 0.0 and got[0] > 0.0


# the order


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.integers(1, 150), st.integers(0, 3))
def test_every_pass_is_easy_to_hard_and_reads_each_sequence_once(difficulty, num_draws, seed):
    values = np.array(difficulty)
    order = curriculum_order(values, num_draws, seed)
    assert len(order) == num_draws
    for start in range(0, num_draws, len(values)):
        one_pass = order[start : start + len(values)]
        assert (np.diff(values[one_pass]) >= 0).all()
        assert len(set(one_pass)) == len(one_pass)
        if len(one_pass) == len(values):
            assert sorted(one_pass) == list(range(len(values)))


def test_a_pass_that_is_cut_short_spans_easy_to_hard():
    difficulty = np.random.default_rng(0).permutation(1000).astype(float)
    chosen = difficulty[curriculum_order(difficulty, 100, seed=1)]
    assert chosen[0] < 60 and chosen[-1] > 940
    assert chosen.mean() == pytest.approx(500, abs=90)
    # also where whole passes come before it
    last = difficulty[curriculum_order(difficulty, 2100, seed=1)[2000:]]
    assert len(last) == 100 and last[0] < 60 and last[-1] > 940
    assert set(last) != set(chosen)


def test_the_same_seed_gives_the_same_order_and_another_one_another():
    difficulty = np.random.default_rng(0).random(50)
    assert curriculum_order(difficulty, 20, 3) == curriculum_order(difficulty, 20, 3)
    assert curriculum_order(difficulty, 20, 3) != curriculum_order(difficulty, 20, 4)
    assert curriculum_order(difficulty, 50, 3) == curriculum_order(difficulty, 50, 4) == np.argsort(difficulty).tolist()


def test_equally_hard_sequences_are_shuffled():
    assert curriculum_order(np.zeros(50), 50, 0) != list(range(50))
    assert sorted(curriculum_order(np.zeros(50), 50, 0)) == list(range(50))


def test_the_order_is_of_plain_numbers_that_a_data_loader_takes():
    assert {type(row) for row in curriculum_order(np.random.default_rng(0).random(9), 20, 0)} == {int}


# in a training


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asks", [True, False])
def test_the_trainer_reads_easy_to_hard(place, tmp_path, kind, asks):
    config, data = place.config(kind), place.data()
    run = Run(make_run(tmp_path).path, place.folder / "cache")
    plan = make_plan(config, run, data)
    stage = replace(plan.stages[0], steps=15)
    teacher = place.teacher if asks else None
    trainer = train.make_trainer(plan, stage, make_student(config, data), teacher)
    losses, entropies = expected_means(place.teacher, data.train, 320)
    difficulty = np.array(losses if kind == "teacher_loss" else entropies)
    row_of = {tuple(ids[ids != PAD].tolist()): row for row, ids in enumerate(np.asarray(data.train.student_ids))}
    read = []
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            length = int((labels >= 0).sum()) + 1
            read.append(difficulty[row_of[tuple(ids[:length].tolist())]])
    size = len(data.train)
    assert len(read) == 15 * sequences_per_step(config.train) > size
    # windows of equal text have one difficulty, so places are compared by it
    assert np.allclose(read[:size], np.sort(difficulty), rtol=1e-5)
    assert (np.diff(read[size:]) >= -1e-5).all()


def test_without_a_curriculum_the_order_is_shuffled_and_no_teacher_is_loaded(place, tmp_path, prepared):
    config, data = place.config("none"), place.data()
    plan = make_plan(config, make_run(tmp_path), data)
    trainer = train.make_trainer(plan, plan.stages[0], make_student(config, data), None, "x")
    assert not trainer.is_ordered and not prepared
    assert len(trainer.train_dataset) == len(data.train)


def test_the_difficulty_is_computed_once_and_kept_for_other_runs(place, tmp_path, prepared):
    data, cache = place.data(), tmp_path / "cache"
    for number, changes in enumerate([{}, {"learning_rate": 0.1}, {"max_steps": 2}]):
        config = place.config(**changes)
        run = Run(make_run(tmp_path, str(number)).path, cache)
        train.train_baseline(make_plan(config, run, data))
    assert prepared == ["loaded"]
    (file,) = (cache / "difficulty").iterdir()
    assert np.allclose(np.load(file), teacher_loss(place.teacher, data.train, 8, CPU), rtol=1e-5)
    train.train_baseline(make_plan(place.config("teacher_entropy"), Run(make_run(tmp_path, "e").path, cache), data))
    assert prepared == ["loaded"] * 2 and len(list((cache / "difficulty").iterdir())) == 2


def test_another_teacher_or_another_text_has_another_difficulty(place, tmp_path, prepared):
    data, cache = place.data(), tmp_path / "cache"
    config = place.config(max_steps=1)
    (stage,) = plan_stages(config, data)
    other_teacher = save_teacher(data, tmp_path / "other", seed=5)
    other = config.model_copy(update={"teacher": config.teacher.model_copy(update={"path": str(other_teacher)})})
    other_data = replace(data, manifest=data.manifest | {"key": "another"})
    run = Run(make_run(tmp_path).path, cache)
    for chosen, prepared_data in ((config, data), (other, data), (config, other_data)):
        curriculum.sequence_order(make_plan(chosen, run, prepared_data), stage)
    assert len(prepared) == 3 and len(list((cache / "difficulty").iterdir())) == 3


def test_an_interrupted_computation_leaves_no_file(place, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(curriculum, "teacher_loss", stop)
    run = Run(make_run(tmp_path).path, tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        train.train_baseline(make_plan(place.config(), run, place.data()))
    assert not list(tmp_path.rglob("*.npy"))


def test_student_and_baseline_read_in_the_same_order_and_stages_draw_anew(place, tmp_path):
    stages = [StageSettings(name=name, max_steps=2) for name in ("a", "b")]
    config, data = place.config(), place.data()
    config = config.model_copy(update={"train": config.train.model_copy(update={"stages": stages})})
    run = Run(make_run(tmp_path).path, place.folder / "cache")
    plan = make_plan(config, run, data)
    orders = [
        [train.make_trainer(plan, stage, make_student(config, data), asked, "x").train_dataset for stage in plan.stages]
        for asked in (place.teacher, None)
    ]
    assert orders[0] == orders[1]
    assert [len(order) for order in orders[0]] == [16, 16]
    assert orders[0][0] != orders[0][1]


def test_a_cached_teacher_serves_a_curriculum(place, tmp_path):
    """The order is known by then, or the teacher is loaded once to find it; the answers are found in any order."""
    config = place.config()
    config = config.model_copy(update={"cache": config.cache.model_copy(update={"enabled": True, "top_k": 8})})
    data, run = place.data(), Run(make_run(tmp_path).path, place.folder / "cache")
    signals = source.open_teacher(make_plan(config, run, data))
    train.distill(make_plan(config, run, data), signals)
    losses = [line["kd_loss"] for line in run.read_metrics() if "kd_loss" in line]
    assert len(losses) == 6 and np.isfinite(losses).all()


def test_a_resumed_training_reads_on_in_the_same_order(place, tmp_path, monkeypatch):
    config, data = place.config(save_every=2), place.data()
    whole = Run(make_run(tmp_path, "whole").path, place.folder / "cache")
    train.train_baseline(make_plan(config, whole, data))
    broken = Run(make_run(tmp_path, "broken").path, place.folder / "cache")
    on_step_end = train.Progress.on_step_end

    def stop(self, args, state, control, **rest):
        on_step_end(self, args, state, control, **rest)
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.Progress, "on_step_end", stop)
        train.train_baseline(make_plan(config, broken, data))
    train.train_baseline(make_plan(config, broken, data), resume=True)
    expected, got = ([line["loss"] for line in run.read_metrics() if "loss" in line] for run in (whole, broken))
    assert got == expected and len(got) == 6
