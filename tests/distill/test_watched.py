"""Trainings that a person watches: the dashboard's button stops them where they are saved."""

from itertools import count

import pytest

from kdkit.distill import train
from kdkit.machine.interrupt import Stopped
from kdkit.training.live import dashboard
from tests.tiny import make_config, make_data, make_plan, make_run, make_teacher


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A configuration of seven steps and its data."""
    folder = tmp_path_factory.mktemp("watched")
    config = make_config(folder, train={"max_steps": 7, "log_every": 1, "save_every": 100})
    return config, make_data(config, folder)


@pytest.fixture
def watch(monkeypatch):
    """Let somebody watch, who clicks at some look at the button; returns the dashboards."""

    def begin(clicked_at):
        looks, shown = count(), []

        class Seen(dashboard.Dashboard):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                shown.append(self)

        monkeypatch.setattr(dashboard, "is_watched", lambda: True)
        monkeypatch.setattr(dashboard, "Dashboard", Seen)
        monkeypatch.setattr(dashboard, "LISTEN_EVERY", 0.0)
        monkeypatch.setattr(dashboard, "hear_clicks", lambda comm_id: lambda: next(looks) >= clicked_at)
        return shown

    return begin


@pytest.mark.parametrize(("look", "said"), [(2, "step 3 of 7 is saved"), (7, "its 7 steps are done and saved")])
def test_a_click_stops_behind_the_step_or_where_it_came_too_late_behind_the_phase(
    place, tmp_path, watch, capsys, look, said
):
    config, data = place
    run, shown = make_run(tmp_path), watch(clicked_at=look)
    teacher = make_teacher(data)
    with pytest.raises(Stopped, match=said):
        train.distill(make_plan(config, run, data), teacher)
    assert run.progress()["state"] == "stopped" and run.progress()["resume_needed"]
    assert [board.step for board in shown] == [min(look + 1, 7)]
    assert " loss " not in capsys.readouterr().out, "lines are for where nobody watches"
    watch(clicked_at=1000)
    assert train.distill(make_plan(config, run, data), teacher, resume=True).steps == 7


def test_the_dashboard_shows_what_the_metrics_hold(place, tmp_path, watch):
    config, data = place
    run, shown = make_run(tmp_path), watch(clicked_at=1000)
    routed = config.model_copy(update={"router": config.router.model_copy(update={"kind": "student_aware"})})
    train.distill(make_plan(routed, run, data), make_teacher(data))
    readings = shown[0].readings
    lines = [line for line in run.read_metrics() if line["phase"] == "student"]
    for name in ("ce_loss", "kd_loss", "learning_rate", "overlap_share"):
        assert readings.series[name] == [(line["step"], line[name]) for line in lines if name in line]
    points = [(line["step"], line["evaluation_bits_per_byte"]) for line in lines if "evaluation_bits_per_byte" in line]
    assert readings.curves["student"] == points
    assert len(readings.series["rate"]) == len(readings.series["loss"])
    router = [line for line in run.read_metrics() if line["phase"] == "router"]
    assert readings.shares == router[-1]["shares"]
    trained = run.read_json("training.json")["student"]
    assert sum(line["tokens"] for line in lines if "tokens" in line) == trained["tokens"]
