"""A run and a cache of an older build open today. Every number here was read off with that build."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from kdkit.config.language import Config, config_from_values, load_config
from kdkit.report.page import write_report
from kdkit.report.tables import comparison_table, continuations_table, language_verdict, routing_table
from kdkit.runs.open_run import plan_run
from kdkit.runs.store import describe_store, find_damage, open_store
from kdkit.teachers.cache import MEANING, CachedSignals

OLD = Path(__file__).resolve().parents[1] / "old"
CACHE = OLD / "answers.h5"


@pytest.fixture
def old_run(tmp_path):
    """The old run, in a folder of runs that may be written to."""
    shutil.copytree(OLD / "smoke", tmp_path / "runs" / "smoke")
    _, run = plan_run(OLD / "smoke.yaml", run_name="smoke", runs_dir=tmp_path / "runs")
    return run


def flat(values, name=""):
    """Give each value of nested dicts its dotted key."""
    if not isinstance(values, dict) or not values:
        return {name: values}
    return {k: v for key, value in values.items() for k, v in flat(value, f"{name}.{key}".lstrip(".")).items()}


def as_rows(table):
    """Return a table's rows by their first cell."""
    return {row[0]: row[1:] for row in table[1]}


def test_an_old_configuration_resolves_to_the_same_settings():
    then = flat(yaml.safe_load((OLD / "smoke" / "config.yaml").read_text(encoding="utf-8")))
    del then["router.progressive"]  # is a part now; see `test_the_schedule_of_an_old_router_is_read`
    then["router.final_top_k"] = None  # was 4: a router grows to what its teacher uses
    then["train.wandb"] = "auto"  # was disabled: a training is copied, offline without a key
    now = flat(load_config(OLD / "smoke.yaml").model_dump())
    assert {key: now.get(key) for key in then} == then


def test_a_resolved_configuration_opens_as_it_was_written():
    then = yaml.safe_load((OLD / "smoke" / "config.yaml").read_text(encoding="utf-8"))
    now = flat(config_from_values(then).model_dump())
    kept = flat(then) | {"router.final_top_k": None}  # nothing is routed
    del kept["router.progressive"]
    assert {key: now.get(key) for key in kept} == kept


@pytest.mark.parametrize("progressive", [True, False])
def test_the_schedule_of_an_old_router_is_read(progressive):
    router = config_from_values({"router": {"kind": "student_aware", "progressive": progressive}}).router
    assert router.uses("annealing") == progressive
    assert router.uses("capacity") and router.uses("gap") and router.uses("importance")


def test_an_old_run_is_gone_on_with(old_run, tmp_path):
    # plan_run refuses a run that was made with another configuration
    config, run = plan_run(OLD / "smoke.yaml", run_name="smoke", runs_dir=tmp_path / "runs")
    assert isinstance(config, Config)
    assert run.path == old_run.path
    assert {stage: facts["state"] for stage, facts in run.status().items()} == dict.fromkeys(
        ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report"], "done"
    )


def test_the_training_of_an_old_run_is_read(old_run):
    lines = old_run.read_metrics()
    assert [m["step"] for m in lines if m["phase"] == "student" and "loss" in m][-1] == 12
    assert old_run.read_json("training.json")["student"]["tokens"] == 6027


def test_the_tables_of_an_old_run_hold_its_figures(old_run):
    evaluation, probe = old_run.read_json("evaluation.json"), old_run.read_json("teacher/probe.json")
    compared = as_rows(comparison_table(evaluation))
    assert compared["bits per byte \u2193"] == ["4.661", "4.999", "5.002", "4.880"]
    assert compared["KL to the teacher, nats \u2193"] == ["-", "0.203", "0.209", "0.192"]
    assert compared["training steps"] == ["-", "12", "12", "27"]
    assert as_rows(routing_table(probe))["top 1"] == ["483.46", "4.513"]
    assert len(continuations_table(evaluation, 4)[1]) == 2
    verdict = language_verdict(evaluation)
    assert verdict.startswith("Too short to tell whether distillation helped: 12 steps are fewer than the 50")
    assert "4.999 against 5.002 bits per byte, a difference of +0.003" in verdict


def test_the_report_of_an_old_run_is_written(old_run):
    page = write_report(old_run).read_text(encoding="utf-8")
    assert "4.999 against 5.002 bits per byte" in page
    assert "| bits per byte \u2193 | 4.661 | 4.999 | 5.002 | **4.880** |" in (old_run.path / "report.md").read_text()
    assert {path.stem for path in (old_run.path / "figures").iterdir()} >= {
        "alignment",
        "expert_load",
        "experts",
        "learning_curves",
        "loss_terms",
        "quality_against_size",
    }


def test_an_old_cache_is_whole():
    assert find_damage(CACHE) == []
    facts = describe_store(CACHE)
    assert (facts["num_chunks"], facts["num_samples"], facts["num_rows"]) == (6, 360, 4271)
    assert facts["num_bytes"] == CACHE.stat().st_size == 91_424


def test_an_old_cache_means_what_caches_mean_today():
    expected = {"kind": "teacher answers", "meaning": MEANING, "mode": "top_k", "top_k": 4, "temperature": 1.0}
    assert open_store(CACHE, expected).header["events"] == "student tokens"


def test_the_records_of_an_old_cache_are_the_same_numbers():
    with open_store(CACHE) as store:
        record = store.read("bf2b47fbfe8774fd0ac8ed262ae80f10")
        sums = {
            name: sum(float(store.read(key)[name].astype(np.float64).sum()) for key in store.keys) for name in record
        }
    assert {name: (values.shape, str(values.dtype)) for name, values in record.items()} == {
        "gaps": ((9, 4), "uint16"),
        "levels": ((9, 4), "uint8"),
        "rest": ((9,), "float16"),
    }
    assert record["gaps"][[0, -1]].tolist() == [[70, 10, 141, 83], [9, 61, 151, 49]]
    assert record["levels"][[0, -1]].tolist() == [[67, 69, 58, 69], [74, 70, 60, 73]]
    assert record["rest"][[0, -1]].tolist() == [-0.07147216796875, -0.057952880859375]
    assert sums == {"gaps": 1_135_982.0, "levels": 1_137_484.0, "rest": pytest.approx(-298.6511535644531)}


def test_the_answers_of_an_old_cache_are_the_same_distributions():
    with open_store(CACHE) as store:
        signals = CachedSignals(store, store.keys).read([0, len(store.keys) - 1])
    assert signals["kept_ids"].shape == (11, 4)
    assert signals["kept_ids"][0].tolist() == [70, 80, 221, 304]
    assert signals["kept_logprobs"][0].tolist() == pytest.approx(
        [-4.182493209838867, -4.307493209838867, -3.619993209838867, -4.307493209838867]
    )
    assert signals["kept_rest"][[0, -1], 0].tolist() == pytest.approx([-0.07147216796875, -0.0648193359375])
    assert signals["kept_logprobs"].double().sum().item() == pytest.approx(-184.68571376800537)
