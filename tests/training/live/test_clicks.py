"""A button is heard while the cell that shows it runs; a real kernel, and a client that clicks."""

import json

import pytest
from jupyter_client.manager import start_new_kernel

from kdkit.training.live.clicks import DELIMITER, hear_clicks, is_click

WAIT = """
import time, ipywidgets
from kdkit.training.live.clicks import hear_clicks
button, calls = ipywidgets.Button(), []
button.on_click(calls.append)
was_clicked = hear_clicks(button.comm.comm_id)
print("button", button.comm.comm_id, flush=True)
end = time.monotonic() + SECONDS
while not was_clicked() and time.monotonic() < end:
    time.sleep(0.01)
print("heard", was_clicked(), "calls", len(calls))
"""


def frames(kind="comm_msg", comm_id="button", event="click"):
    """Return a message as it comes from the network."""
    content = {"comm_id": comm_id, "data": {"method": "custom", "content": {"event": event}}}
    parts = [{"msg_type": kind}, {}, {}, content]
    return [b"address", DELIMITER, b"signature", *(json.dumps(part).encode() for part in parts)]


def test_only_a_click_on_this_button_counts():
    assert is_click(frames(), "button")
    assert not is_click(frames(comm_id="another"), "button")
    assert not is_click(frames(event="hover"), "button")
    assert not is_click(frames(kind="execute_request"), "button")
    assert not is_click(frames()[:6], "button") and not is_click([b"noise"], "button")
    update = [*frames()[:6], json.dumps({"comm_id": "button", "data": {"method": "update", "state": {}}}).encode()]
    assert not is_click(update, "button")


def test_outside_of_a_kernel_nothing_can_be_heard():
    assert hear_clicks("button") is None


@pytest.mark.parametrize(("clicks_on_it", "seconds"), [(True, 30), (False, 1)])
def test_a_click_is_heard_while_the_cell_runs_and_still_handled_behind_it(clicks_on_it, seconds):
    manager, client = start_new_kernel(kernel_name="python3")
    printed = []

    def click(message):
        if message["msg_type"] != "stream":
            return
        printed.append(message["content"]["text"])
        if printed[-1].startswith("button"):
            target = printed[-1].split()[1] if clicks_on_it else "another"
            content = {"comm_id": target, "data": {"method": "custom", "content": {"event": "click"}}}
            client.shell_channel.send(client.session.msg("comm_msg", content))

    try:
        client.execute_interactive(WAIT.replace("SECONDS", str(seconds)), output_hook=click, timeout=60)
        client.execute_interactive("print('later', len(calls))", output_hook=click, timeout=60)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    text = "".join(printed)
    assert f"heard {clicks_on_it} calls 0" in text and f"later {int(clicks_on_it)}" in text
