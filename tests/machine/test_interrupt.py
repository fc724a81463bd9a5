"""Ctrl-C in a training: the first one waits for the step, the second one does not."""

import os
import signal
import threading

import pytest

from kdkit.machine.interrupt import FIRST, Stopped, stop_when_saved


def press():
    """Do what Ctrl-C does to this process."""
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_one_is_noted_and_answered_and_raised_when_all_is_saved(capfd):
    with pytest.raises(Stopped, match=r"^step 3 is saved$"), stop_when_saved() as request:
        request.check("nothing")
        press()
        assert request.wanted
        request.check("step 3 is saved")
    assert capfd.readouterr().err == f"{FIRST}\n"


def test_the_second_one_stops_at_once():
    with pytest.raises(KeyboardInterrupt) as stop, stop_when_saved():
        press()
        press()
    assert stop.type is KeyboardInterrupt


def test_afterwards_everything_is_as_before():
    before = signal.getsignal(signal.SIGINT)
    with stop_when_saved():
        press()
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        press()


def test_another_thread_trains_as_ever():
    seen = []

    def work():
        with stop_when_saved() as request:
            seen.append(request.wanted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_it_passes_through_what_catches_errors_and_is_one_line_in_a_notebook():
    assert not issubclass(Stopped, Exception)
    (line,) = Stopped("student: step 3 of 9 is saved")._render_traceback_()
    assert "student: step 3 of 9 is saved" in line and "RESUME = True" in line


def test_jupyters_interrupt_saves_and_shows_one_line():
    from jupyter_client.manager import start_new_kernel

    code = (
        "import time\nfrom kdkit.machine.interrupt import stop_when_saved\n"
        "with stop_when_saved() as request:\n    print('training', flush=True)\n"
        "    while not request.wanted:\n        time.sleep(0.02)\n    request.check('step 3 is saved')"
    )
    manager, client = start_new_kernel(kernel_name="python3")
    seen = []

    def collect(message):
        seen.append(message["content"])
        if message["content"].get("text", "").startswith("training"):
            manager.interrupt_kernel()

    try:
        client.execute_interactive(code, output_hook=collect, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    (error,) = [content for content in seen if "ename" in content]
    assert (error["ename"], error["evalue"]) == ("Stopped", "step 3 is saved")
    assert len(error["traceback"]) == 1 and "RESUME = True" in error["traceback"][0]
