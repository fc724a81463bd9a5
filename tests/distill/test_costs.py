"""What a run costs: tokens that were read, the teacher's part of the time, the sequences that a cache holds."""

from dataclasses import replace

import pytest
import torch

from kdkit.data.windows import PAD
from kdkit.distill import open_teacher as source
from kdkit.distill import train
from kdkit.distill.costs import equal_time, list_costs, steps_in
from kdkit.distill.curriculum import READ_AHEAD, cached_rows, rows_read
from kdkit.distill.student import make_student
from kdkit.losses.chunked.engine import Head
from kdkit.machine.stopwatch import Stopwatch
from kdkit.runs.costs import read_cost, write_cost
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher, save_teacher


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder, data of two tokenizers and a teacher."""
    folder = tmp_path_factory.mktemp("costs")
    data = make_data(make_config(folder), folder)
    return folder, data, make_teacher(data)


def watch_rows(monkeypatch, windows):
    """Note the row numbers of every batch of some windows."""
    seen = []
    collate = train.WindowCollator.__call__

    def watched(self, rows):
        seen.extend(rows if self.windows is windows else [])
        return collate(self, rows)

    monkeypatch.setattr(train.WindowCollator, "__call__", watched)
    return seen


@pytest.mark.parametrize("steps", [6, 30])
@pytest.mark.parametrize("curriculum", ["none", "teacher_loss"])
def test_the_rows_that_a_plan_reads_are_those_that_its_training_reads(parts, tmp_path, monkeypatch, steps, curriculum):
    folder, data, teacher = parts
    monkeypatch.setattr("kdkit.distill.curriculum.prepare_teacher", lambda *_: teacher)
    config = make_config(folder, train={"max_steps": steps, "curriculum": curriculum})
    plan = make_plan(config, make_run(tmp_path), data)
    (stage,) = plan.stages
    trainer = train.make_trainer(plan, stage, make_student(config, data), teacher)
    seen = watch_rows(monkeypatch, data.train)
    trainer.train()
    held = rows_read(plan, stage)
    assert set(seen) <= held and len(held) <= len(set(seen)) + READ_AHEAD * 4
    assert (len(set(seen)) == len(data.train)) == (steps == 30)


def test_the_tokens_of_a_training_are_those_that_it_read(parts, tmp_path, monkeypatch):
    folder, data, teacher = parts
    plan = make_plan(make_config(folder, train={"max_steps": 5}), make_run(tmp_path), data)
    seen = watch_rows(monkeypatch, data.train)
    result = train.distill(plan, teacher)
    # one batch more is fetched, to know whether there is one
    seen = seen[: 5 * 8]
    tokens = [int((ids[seen][:, 1:] != PAD).sum()) for ids in (data.train.student_ids, data.train.teacher_ids)]
    assert [result.tokens, result.teacher_tokens] == tokens
    assert 0 < result.teacher_seconds < result.seconds
    rows = {row["item"]: row for row in list_costs(plan)}
    assert rows["student"]["tokens"] == tokens[0] and rows["teacher's answers"]["part_of"] == "student"


def test_a_training_that_was_stopped_counts_its_tokens_once(parts, tmp_path, monkeypatch):
    folder, data, teacher = parts
    config = make_config(folder, train={"stages": [{"name": "a", "max_steps": 4}, {"name": "b", "max_steps": 3}]})
    whole = train.distill(make_plan(config, make_run(tmp_path, "whole"), data), teacher)
    run, step = make_run(tmp_path, "stopped"), train.DistillationTrainer.training_step
    calls = []

    def stop(self, *arguments):
        calls.append(1)
        if len(calls) == 13:  # the sixth step of two micro-batches each is done, and step 3 of stage b has begun
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.DistillationTrainer, "training_step", stop)
        train.distill(make_plan(config, run, data), teacher)
    resumed = train.distill(make_plan(config, run, data), teacher, resume=True)
    assert (resumed.tokens, resumed.teacher_tokens) == (whole.tokens, whole.teacher_tokens)
    assert whole.tokens > 0


def test_a_routers_steps_are_counted_apart_and_its_answers_serve_no_other_training(parts, tmp_path):
    folder, data, teacher = parts
    router = {"kind": "student_aware_routing", "update_every": 2}
    plan = make_plan(make_config(folder, router=router), make_run(tmp_path), data)
    result = train.distill(plan, teacher)
    train.train_baseline(plan)
    assert result.router_seconds > 0 and result.router_tokens > 0 and result.teacher_seconds > 0
    assert result.router_seconds + result.teacher_seconds <= result.seconds
    assert "router's steps" in [row["item"] for row in list_costs(plan)]
    assert equal_time(plan).reused is None and train.train_reused_baseline(plan) is None


@pytest.fixture
def cached(parts, tmp_path):
    """The plan of a cached training that reads half of the text, its cache not yet made."""
    folder, data, _ = parts
    path = save_teacher(data, tmp_path / "teacher")
    config = make_config(folder, teacher={"path": str(path)}, cache={"enabled": True, "top_k": 8})
    return make_plan(config, make_run(tmp_path), data)


def test_a_cache_holds_what_the_plan_reads_and_all_if_it_is_asked(cached):
    signals = source.open_teacher(cached)
    keys = signals.keys
    assert set(signals.store.keys) == {keys[row] for row in cached_rows(cached)}
    assert len(set(signals.store.keys)) < len(set(keys))
    session = cached.session
    asked = session.config.cache.model_copy(update={"sequences": "all"})
    everything = replace(cached, session=replace(session, config=session.config.model_copy(update={"cache": asked})))
    assert set(source.open_teacher(everything).store.keys) == set(keys)


def test_the_building_of_a_cache_counts_in_one_row_of_equal_time(cached):
    signals = source.open_teacher(cached)
    result = train.distill(cached, signals)
    train.train_baseline(cached)
    cost, rows = read_cost(source.cache_path(cached)), cached_rows(cached)
    distinct = {signals.keys[row]: row for row in rows}.values()
    # one batch more is answered, twice in part, to say how long the others will take
    assert cost["tokens"] >= (cached.data.train.teacher_ids[list(distinct)][:, 1:] != PAD).sum()
    assert cost["sequences"] == len(distinct) and result.teacher_tokens == 0
    time = equal_time(cached)
    assert time.reused == result.seconds and time.counted == pytest.approx(result.seconds + cost["seconds"])
    assert train.train_reused_baseline(cached).steps == steps_in(cached, time.reused)
    assert next(row["item"] for row in list_costs(cached)) == "teacher's answers, kept"


def test_a_note_of_the_cost_that_a_crash_has_cut_is_none(tmp_path):
    write_cost(tmp_path / "answers.h5", 1.5, 10)
    assert read_cost(tmp_path / "answers.h5") == {"seconds": 1.5, "tokens": 10}
    for content in ("", '{"seconds": 1', "\0\0\0"):
        (tmp_path / "answers.h5.cost.json").write_text(content)
        assert read_cost(tmp_path / "answers.h5") is None


def test_a_cache_of_which_nobody_noted_the_cost_is_counted_as_nothing_and_that_is_said(cached, capsys):
    train.distill(cached, source.open_teacher(cached))
    source.cache_path(cached).with_name(source.cache_path(cached).name + ".cost.json").unlink()
    assert equal_time(cached).reused is None
    assert "nobody noted how long it took" in capsys.readouterr().out


def test_a_stopwatch_adds_up_what_it_times():
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.running():
            torch.randn(300, 300) @ torch.randn(300, 300)
    assert 0 < watch.seconds() == watch.seconds() < 5


def test_the_seconds_of_a_heads_row_are_measured():
    assert 0 < train.measure_head(Head(torch.randn(500, 8), 500), 100) < 0.1
