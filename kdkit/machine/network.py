"""Whether a server can be reached: asked once and briefly, where its own client would try for a minute and more."""

import contextlib
import os
import socket
import threading
from urllib.parse import urlsplit

CONNECT_SECONDS = 5.0


def can_connect(address: str) -> bool:
    """Return within a few seconds whether a server answers; behind a proxy, trust the proxy.

    Args:
        address: `https://huggingface.co`.
    """
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True
    url = urlsplit(address)
    port = url.port or (80 if url.scheme == "http" else 443)
    reached = threading.Event()
    # the time limit of a connection is for each of a host's addresses, and there is none for asking for its name
    trial = threading.Thread(target=_connect, args=(str(url.hostname), port, reached), daemon=True)
    trial.start()
    trial.join(CONNECT_SECONDS)
    return reached.is_set()


def _connect(host: str, port: int, reached: threading.Event) -> None:
    """Set an event if a host can be connected to."""
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
        reached.set()
