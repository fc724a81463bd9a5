"""Whether the hub can be reached is known soon, whatever the network does."""

import socket
import threading
import time

import pytest
from huggingface_hub import constants

from kdkit.machine import hub, network


@pytest.fixture
def connect(monkeypatch):
    """Return a call that asks for the hub where connecting is what is given."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.3)

    def ask(connection):
        monkeypatch.setattr(socket, "create_connection", connection)
        hub.hub_is_reachable.cache_clear()
        started = time.monotonic()
        return hub.hub_is_reachable(), time.monotonic() - started

    yield ask
    hub.hub_is_reachable.cache_clear()


def test_a_hub_that_answers_is_reachable(connect):
    assert connect(lambda *_, **__: socket.socket())[0]


def test_a_refused_connection_is_known_at_once(connect, monkeypatch):
    monkeypatch.setattr(network, "CONNECT_SECONDS", 60.0)

    def refuse(*_, **__):
        raise ConnectionRefusedError

    reached, seconds = connect(refuse)
    assert not reached and seconds < 30


def test_a_name_server_that_never_answers_is_not_waited_for(connect):
    end = threading.Event()
    try:
        reached, seconds = connect(lambda *_, **__: end.wait(60) and socket.socket())
    finally:
        end.set()
    assert not reached and seconds < 30
