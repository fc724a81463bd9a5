"""The dashboard of a training: what it shows, what it costs, and its button."""

from types import SimpleNamespace

import pytest

from kdkit.machine.budget import TimeBudget, elapsed
from kdkit.machine.interrupt import StopRequest
from kdkit.training.live import dashboard as module
from kdkit.training.live.dashboard import STOP, Dashboard
from tests.tiny import make_run

LINE = {"loss": 2.0, "ce_loss": 3.0, "kd_loss": 1.5, "learning_rate": 1e-3, "overlap_share": 0.25, "tokens": 5000.0}


@pytest.fixture
def request_to_stop():
    return StopRequest()


@pytest.fixture
def dashboard(tmp_path, request_to_stop, monkeypatch):
    """One that hears its button, before the first of 100 steps."""
    monkeypatch.setattr(module, "hear_clicks", lambda comm_id: lambda: False)
    dashboard = Dashboard(make_run(tmp_path), "student", request_to_stop, "bits per byte, held-out text", "tokens")
    dashboard.start(0, 100, 0.0)
    return dashboard


def shown(dashboard):
    """Return the HTML that is on the screen once an update is due."""
    dashboard._next = 0.0
    dashboard.advance(dashboard.step, dashboard.seconds)
    return dashboard.head.value + dashboard.charts.value


def test_the_button_asks_to_stop_and_says_so(dashboard, request_to_stop):
    assert not request_to_stop.wanted and dashboard.button.description == STOP
    dashboard.button.click()
    assert request_to_stop.wanted and dashboard.button.disabled and "saved first" in dashboard.button.description
    assert "stopping" in shown(dashboard)


def test_a_click_that_waits_in_the_kernel_stops_behind_the_next_step(tmp_path, request_to_stop, monkeypatch):
    clicked = []
    monkeypatch.setattr(module, "hear_clicks", lambda comm_id: lambda: bool(clicked))
    dashboard = Dashboard(make_run(tmp_path), "student", request_to_stop, "bits per byte", "tokens")
    dashboard.start(0, 100, 0.0)
    dashboard.advance(1, 0.1)
    assert not request_to_stop.wanted
    clicked.append(1)
    dashboard._next_look = 0.0
    dashboard.advance(2, 0.2)
    assert request_to_stop.wanted


def test_where_a_click_cannot_be_heard_there_is_no_button_but_a_word(tmp_path, request_to_stop):
    dashboard = Dashboard(make_run(tmp_path), "student", request_to_stop, "bits per byte", "tokens")
    dashboard.start(0, 100, 0.0)
    assert dashboard.button not in dashboard.box.children
    assert "Interrupt (■)" in dashboard.head.value


def test_a_line_of_metrics_is_shown_with_speed_and_the_time_left(dashboard):
    dashboard.add(20, 2.0, LINE, [[0.75, 0.25]])
    dashboard.advance(20, 2.0)
    text = shown(dashboard)
    for words in (
        "step 20 of 100",
        "time left <b>8 s",
        "tokens per second <b>2,500",
        "learning rate <b>1.00e-03",
        "running for <b>2 s",
        "per step <b>0.10 s",
        ">100 steps<",
    ):
        assert words in text
    for words in ("cross-entropy 3<", "divergence from the teacher 1.5<", "tokens in common 0.25<", "width:75.00%"):
        assert words in text
    assert "NaN" not in text and "Interrupt" not in text


def test_a_value_that_is_no_number_is_left_out(dashboard):
    dashboard.add(20, 2.0, LINE | {"ce_loss": float("nan"), "kd_loss": float("inf")})
    dashboard.measure(20, float("nan"))
    text = shown(dashboard).lower()
    assert "cross-entropy" not in text and "nan" not in text and "inf" not in text


def test_the_speed_is_that_since_the_line_before(dashboard):
    dashboard.add(20, 2.0, LINE)
    dashboard.add(40, 6.0, LINE)
    dashboard.advance(40, 6.0)
    assert "tokens per second <b>1,250" in shown(dashboard)


def test_a_session_that_ends_before_the_training_says_at_which_step(dashboard, request_to_stop):
    request_to_stop.budget = TimeBudget(elapsed() + 4.5)
    dashboard.advance(20, 2.0)
    text = shown(dashboard)
    assert "session <b>4 s left of" in text and "The session ends first: about step 6" in text
    request_to_stop.budget = TimeBudget(elapsed() + 3600)
    assert "ends first" not in shown(dashboard)


def test_a_training_that_goes_on_shows_what_came_before(tmp_path, request_to_stop):
    run = make_run(tmp_path)
    run.append_metrics({"phase": "student", "step": 20, "seconds": 2.0} | LINE)
    run.append_metrics({"phase": "student", "step": 20, "seconds": 2.0, "evaluation_bits_per_byte": 3.25})
    run.append_metrics({"phase": "baseline", "step": 20, "seconds": 1.0, "evaluation_bits_per_byte": 3.5})
    run.append_metrics({"phase": "teacher", "step": 20, "seconds": 1.0, "evaluation_bits_per_byte": 2.75})
    run.write_json("training.json", {"teacher_on_curve": 2.5})
    dashboard = Dashboard(run, "student", request_to_stop, "bits per byte, held-out text", "tokens")
    dashboard.start(20, 100, 2.0)
    text = dashboard.charts.value
    for words in ("cross-entropy 3<", "student (distilled) 3.25<", "baseline, equal steps 3.5<", "teacher 2.5<"):
        assert words in text
    assert "2.75" not in text and "gap closed 0.25" in text


@pytest.mark.parametrize("update_seconds", [0.002, 0.5])
def test_updates_take_a_hundredth_of_the_time_however_slow_they_are(dashboard, monkeypatch, update_seconds):
    now = [100.0]

    def draw(*parts):
        now[0] += update_seconds
        return ""

    monkeypatch.setattr(module, "page", draw)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    dashboard._next, dashboard.cost = 0.0, 0.0
    for step in range(20_000):
        now[0] += 0.01
        dashboard.advance(step, now[0])
    updates = dashboard.cost / update_seconds
    assert updates > (now[0] - 100) / max(1.1, 110 * update_seconds) and updates <= now[0] - 100
    assert dashboard.cost < 0.013 * (now[0] - 100)


@pytest.mark.parametrize(
    ("step", "wanted", "word"), [(100, False, "done"), (40, True, "stopped"), (40, False, "early")]
)
def test_what_became_of_it_takes_the_place_of_the_widgets(dashboard, request_to_stop, monkeypatch, step, wanted, word):
    updates = []
    dashboard._handle = type("Handle", (), {"update": lambda self, data, raw: updates.append(data)})()
    dashboard.add(20, 2.0, LINE)
    dashboard.advance(step, 4.0)
    request_to_stop.wanted = wanted
    dashboard.finish()
    assert word in updates[0]["text/plain"] and f"step {step} of 100" in updates[0]["text/plain"]
    assert f"width:{step}.0%" in updates[0]["text/html"] and "cross-entropy 3<" in updates[0]["text/html"]
    assert "widget" not in updates[0]["text/html"] and dashboard.box.comm is None
