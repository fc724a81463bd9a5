"""A search: processes share its study, trials that are worse are given up, one that was left goes on."""

import json
import multiprocessing
import os
import signal

import pytest

from kdkit import cli
from kdkit.config.language import dump_config
from kdkit.errors import UserError
from kdkit.evaluate.sweeps.comparison import Trial
from kdkit.report.search.page import best_command, best_trial, conclusion, space_table, trial_table
from kdkit.runs.folder import Run
from kdkit.workflow.search import search as module
from kdkit.workflow.search.search import conclude, make_trials, open_search
from kdkit.workflow.search.space import Dimension
from kdkit.workflow.search.study import STARTS, counted, first_number, leave, next_trial, open_study
from kdkit.workflow.several.sweep import SweepRequest
from kdkit.workflow.terminal import Terminal
from tests.tiny import make_config

SPACE = [Dimension("distill.kd_ratio", 0.0, 1.0), Dimension("distill.temperature", 1.0, 8.0, is_log=True)]
SMALL = {"teacher": {"build": {"vocab_size": 320, "hidden_size": 16, "num_layers": 1, "max_steps": 3}}}

pytestmark = pytest.mark.usefixtures("one_thread")


def start(folder, own=None, made_from="a"):
    return open_study(Run(folder, folder), SPACE, False, made_from, own or {})


def take(study, folder, limit=99):
    """Take the next trial and let go of it without an end, as a process that is killed does; None: there are enough."""
    with next_trial(study, Run(folder, folder), SPACE, limit) as trial:
        return trial


def finish(study, folder, level=1.0, limit=99):
    """Take the next trial and give it a level."""
    with next_trial(study, Run(folder, folder), SPACE, limit) as trial:
        if trial is not None:
            study.tell(trial, level)
        return trial


def test_the_first_trial_is_the_configuration_s_own(tmp_path):
    own = {"distill.kd_ratio": 0.5, "distill.temperature": 2.0}
    study = start(tmp_path, own)
    assert take(study, tmp_path).params == own


def test_two_processes_on_one_journal_make_as_many_trials_as_wanted_and_no_two_alike(tmp_path):
    studies = [start(tmp_path), start(tmp_path)]
    made = [finish(studies[i % 2], tmp_path, limit=5) for i in range(7)]
    assert made[5:] == [None, None] and len(studies[0].get_trials()) == 5
    assert len({tuple(trial.params.values()) for trial in made[:5]}) == 5
    assert sorted(trial.number for trial in made[:5]) == list(range(5))


def test_a_trial_that_is_held_is_not_taken_and_one_that_was_left_goes_on_once(tmp_path):
    study = start(tmp_path)
    with next_trial(study, Run(tmp_path, tmp_path), SPACE, 99) as held:
        assert take(start(tmp_path), tmp_path).number == 1  # a new one, which is left now
        again = take(study, tmp_path)
        assert again.params == study.get_trials()[1].params and first_number(again) == 1
        study.tell(held, 2.0)
    assert again.user_attrs[STARTS] == 1
    other = take(study, tmp_path)  # `again` was left too: twice is enough
    assert other.params != again.params and first_number(other) == other.number
    assert [trial.number for trial in counted(study)] == [0, again.number, other.number]


def test_a_trial_that_was_stopped_by_its_user_is_not_counted_as_killed(tmp_path):
    study = start(tmp_path)
    for _ in range(3):
        with next_trial(study, Run(tmp_path, tmp_path), SPACE, 1) as trial:
            leave(study, trial, trial.user_attrs.get(STARTS, 0))
    last = finish(study, tmp_path, limit=1)
    assert first_number(last) == 0 and len(counted(study)) == 1
    assert finish(study, tmp_path, limit=1) is None


def test_a_study_of_another_space_or_of_other_settings_is_refused(tmp_path):
    start(tmp_path)
    with pytest.raises(UserError, match=r"expected the settings and seeds that .* was begun with"):
        start(tmp_path, made_from="b")
    with pytest.raises(UserError, match=r"the space .* was begun with \(distill.kd_ratio: 0 to 1"):
        open_study(Run(tmp_path, tmp_path), SPACE[:1], False, "a", {})


@pytest.fixture
def request_of(tmp_path):
    """Return the options of a search of a small configuration."""
    config = make_config(tmp_path, **SMALL, cache_dir=f"{tmp_path}/cache")
    (tmp_path / "base.yaml").write_text(dump_config(config))
    space = ["distill.kd_ratio=0:1", "distill.temperature=1:8:log"]
    options = {"runs_dir": f"{tmp_path}/runs", "name": "found", "search": space}
    return lambda **more: SweepRequest(str(tmp_path / "base.yaml"), **options | more)


def level_of(plan):
    return 2.0 + (plan.config.distill.kd_ratio - 0.7) ** 2


def train_quickly(plan, folder, watch, with_baseline):
    """Stand in for a training: a curve of four points that falls to a level."""
    assert not with_baseline
    plan.run.path.mkdir(parents=True, exist_ok=True)
    plan.run.set_progress("running", total_steps=8)
    for step in (0, 2, 4, 6, 8):
        bits = level_of(plan) + (8 - step) / 4
        watch({"phase": "student", "step": step, "evaluation_bits_per_byte": bits})
        watch({"phase": "teacher", "step": step, "evaluation_bits_per_byte": 9.0})
    return Trial(1.0, None, level_of(plan), 3.0, 8, [1.0], [1])


def test_trials_worse_than_the_median_are_given_up_and_the_report_says_what_was_best(request_of, monkeypatch, capsys):
    monkeypatch.setattr(module, "train_one", train_quickly)
    request = request_of(trials=11, seeds="0,1")
    search = open_search(request, Terminal())
    assert make_trials(search) == []
    conclude(search)
    figures = json.loads((search.folder.path / "search.json").read_text())
    states = [trial["state"] for trial in figures["trials"]]
    assert len(states) == 11 and "pruned" in states[6:] and set(states[:5]) == {"complete"}
    assert figures["trials"][0]["params"] == {"distill.kd_ratio": 0.5, "distill.temperature": 1.0}
    best = best_trial(figures)
    assert best["level"] == min(t["level"] for t in figures["trials"] if t["state"] == "complete")
    assert [point for point, _ in best["curve"]] == [25, 50, 75, 100, 125, 150, 175, 200]
    assert len(best["levels"]) == 2 and best["seconds"] == 6.0
    assert figures["importances"]["distill.kd_ratio"] > figures["importances"]["distill.temperature"]
    assert f"trial {best['number']}: " in conclusion(figures) and "with other seeds" in conclusion(figures)
    assert "The configuration's own values, " in conclusion(figures)
    own = figures | {"trials": [trial for trial in figures["trials"] if trial["number"] == 0]}
    assert "own values: no other trial was better" in conclusion(own)
    assert f"distill.kd_ratio={best['settings']['distill.kd_ratio']}" in best_command(figures)
    assert trial_table(figures)[1][0][0] == str(best["number"])
    page = (search.folder.path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3 and "given up at" in page
    said = " ".join(capsys.readouterr().out.split())
    assert "[11/11]" in said and "given up at 25 % of seed 0" in said
    again = open_search(request, Terminal())
    assert make_trials(again) == [] and len(again.study.get_trials()) == 11  # nothing is left to do


def test_a_trial_that_fails_stops_no_other(request_of, monkeypatch, capsys):
    def fail_above(plan, folder, watch, with_baseline):
        if plan.config.distill.kd_ratio > 0.6:
            raise UserError("too much")
        return train_quickly(plan, folder, watch, with_baseline)

    monkeypatch.setattr(module, "train_one", fail_above)
    search = open_search(request_of(trials=6), Terminal())
    failures = make_trials(search)
    states = [trial.state.name for trial in search.study.get_trials()]
    assert 0 < len(failures) == states.count("FAIL") < 6 and states.count("COMPLETE") > 0
    assert "failed: too much" in capsys.readouterr().out
    conclude(search)  # of so few trials nobody knows which setting matters
    figures = json.loads((search.folder.path / "search.json").read_text())
    assert space_table(figures)[0] == ["setting", "chosen from", "best"]


def test_a_search_that_is_stopped_goes_on_with_the_trial_it_was_at(request_of, monkeypatch, capsys):
    request, runs = request_of(trials=2), []

    def stop_second(plan, folder, watch, with_baseline):
        runs.append(plan.run.name)
        if len(runs) == 2:
            raise KeyboardInterrupt
        return train_quickly(plan, folder, watch, with_baseline)

    monkeypatch.setattr(module, "train_one", stop_second)
    words = request.command.split()[3:]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 130 and "--search distill.kd_ratio=0:1" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    assert runs == ["trial-000-seed-0", "trial-001-seed-0", "trial-001-seed-0"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": ["distill.kd_ratio=0,1"]}, "--grid: expected none beside --search"),
        ({"processes": 2}, "start the same command again beside it"),
        ({"only": "a"}, "--only: expected none beside --search"),
        ({"seeds": "0,0"}, "seeds: expected every seed once"),
        ({"overrides": ["seed=3"]}, "use --seeds"),
    ],
)
def test_options_that_do_not_go_with_a_search_are_refused(request_of, options, words):
    with pytest.raises(UserError, match=words):
        open_search(request_of(**options), Terminal())


def test_a_real_trial_reports_its_curve_and_trains_no_baseline(request_of, tmp_path):
    request = request_of(trials=1, overrides=["train.evaluate_every=2", "train.wandb=disabled"])
    search = open_search(request, Terminal())
    assert make_trials(search) == []
    (trial,) = search.study.get_trials()
    assert list(trial.intermediate_values) == [33, 67, 100] and trial.value == trial.user_attrs["levels"][0]
    run = search.folder.path / "trial-000-seed-0"
    assert (run / "student" / "model.safetensors").is_file() and not (run / "baseline").exists()


def search_once(request, dies):
    """Make trials in a process of its own; die in the middle of the first if that is wanted."""

    def train(plan, folder, watch, with_baseline):
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return train_quickly(plan, folder, watch, with_baseline)

    module.train_one = train
    make_trials(open_search(request, Terminal()))


@pytest.mark.slow
def test_processes_share_a_search_and_one_that_is_killed_loses_no_trial(request_of):
    request = request_of(trials=8)
    context = multiprocessing.get_context("spawn")
    killed = context.Process(target=search_once, args=(request, True))
    killed.start()
    killed.join(200)
    assert killed.exitcode == -signal.SIGKILL
    both = [context.Process(target=search_once, args=(request, False)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
        assert process.exitcode == 0
    study = open_search(request, Terminal()).study
    assert len(counted(study)) == 8 and {trial.state.name for trial in counted(study)} <= {"COMPLETE", "PRUNED"}
    assert 0 in [first_number(trial) for trial in counted(study)]
