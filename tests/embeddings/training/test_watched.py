"""An embedding training that a person watches: its dashboard, and the button that stops it."""

from itertools import count

import pytest

from kdkit.machine.interrupt import Stopped
from kdkit.training.live import dashboard
from tests.embeddings.training.test_train import distil, folder, open_run  # noqa: F401 - a fixture


def test_a_click_stops_behind_a_step_that_is_saved_and_the_dashboard_shows_the_lines(folder, monkeypatch):  # noqa: F811
    looks, shown = count(), []

    class Seen(dashboard.Dashboard):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            shown.append(self)

    monkeypatch.setattr(dashboard, "is_watched", lambda: True)
    monkeypatch.setattr(dashboard, "Dashboard", Seen)
    monkeypatch.setattr(dashboard, "LISTEN_EVERY", 0.0)
    monkeypatch.setattr(dashboard, "hear_clicks", lambda comm_id: lambda: next(looks) == 1)
    config, run = open_run(folder, "watched", "train.max_steps=5")
    with pytest.raises(Stopped, match="cosine: step 3 of 5 is saved"):
        distil(config, run)
    assert run.progress()["state"] == "stopped" and run.progress()["resume_needed"]
    readings = shown[0].readings
    assert readings.series["loss"] == [(line["step"], line["loss"]) for line in run.read_metrics() if "loss" in line]
    assert [step for step, _ in readings.series["rate"]] == [1, 2, 3]
    distil(config, run, resume=True)
    assert shown[1].step == 5 and [step for step, _ in shown[1].readings.series["loss"]] == [1, 2, 3, 4, 5]
