"""Hear a button while the cell that shows it still runs.

A click is a message that waits until the kernel's main thread is free, which is when the training is over. JupyterLab
4.4 sends it to a subshell of ipykernel 7, but from 7.4 on the kernel hands it back to the main thread. So the messages
are looked at while they wait: none is taken, and the kernel handles all of them afterwards as ever.
"""

import json
import threading
from collections.abc import Callable
from typing import Any

DELIMITER = b"<IDS|MSG>"
"""Between the addresses of a message and its parts: signature, header, parent, metadata, content."""


def hear_clicks(comm_id: str) -> Callable[[], bool] | None:
    """Begin to listen to a button; called in the kernel's main thread.

    Args:
        comm_id: the button's, `button.comm.comm_id`.

    Returns:
        Says whether the button was clicked; called in the main thread, between two steps. None: this kernel's messages
        cannot be looked at, so that its interrupt is all there is.
    """
    import ipykernel
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    try:
        return _hear_in_7(kernel, comm_id) if ipykernel.version_info >= (7,) else _hear_in_6(kernel, comm_id)
    except AttributeError:  # no kernel, or one that is built otherwise
        return None


def is_click(frames: list[Any], comm_id: str) -> bool:
    """Return whether a message of the shell channel is a click on a button.

    Args:
        frames: the parts of the message as zmq delivers them, bytes or `zmq.Frame`.
    """
    parts = [bytes(frame) for frame in frames]
    if DELIMITER not in parts or len(parts) < (start := parts.index(DELIMITER)) + 6:
        return False
    header, content = json.loads(parts[start + 2]), json.loads(parts[start + 5])
    if header["msg_type"] != "comm_msg" or content["comm_id"] != comm_id:
        return False
    return content["data"].get("content", {}).get("event") == "click"


def _hear_in_7(kernel: Any, comm_id: str) -> Callable[[], bool]:
    """Look at every message where ipykernel 7 receives it, in a thread of its own."""
    was_clicked = threading.Event()
    stream, hand_on = kernel.shell_stream, kernel.shell_channel_thread_main

    async def look(frames: list[Any]) -> None:
        if is_click(frames, comm_id):
            was_clicked.set()
        await hand_on(frames)

    kernel.shell_channel_thread.io_loop.add_callback(stream.on_recv, look, copy=False)
    return was_clicked.is_set


def _hear_in_6(kernel: Any, comm_id: str) -> Callable[[], bool]:
    """Look into the queue of ipykernel 6, which its main thread fills when it is asked to."""
    import zmq

    stream, waiting = kernel.shell_stream, kernel.msg_queue._queue

    def look() -> bool:
        stream.flush(zmq.POLLIN)
        return any(is_click(message[2][0], comm_id) for message in list(waiting) if message[2])

    return look
