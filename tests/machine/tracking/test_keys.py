"""Where W&B keeps a run: a key and a network decide, and neither is waited for."""

import importlib.util
import sys
import time
from types import SimpleNamespace

import pytest

from kdkit.errors import UserError
from kdkit.machine.tracking import keys
from kdkit.machine.tracking.keys import Place, find_place

HERE = "WANDB_API_KEY"
SECRET = "5ecret0kaggle" + "0123456789abcdef" * 2


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Return a function that sets a machine up: its network, what is in its environment, its Kaggle secrets."""
    for name in (HERE, "WANDB_MODE", "WANDB_BASE_URL", "NETRC", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def set_up(network=True, secrets=None, **environment):
        monkeypatch.setattr(keys, "server_is_reachable", lambda: network)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if secrets is not None:
            client = SimpleNamespace(get_secret=secrets.__getitem__)  # of a label that is not there it raises
            module = SimpleNamespace(UserSecretsClient=lambda: client, __spec__=SimpleNamespace(name="kaggle_secrets"))
            monkeypatch.setitem(sys.modules, "kaggle_secrets", module)

    return set_up


@pytest.mark.parametrize(
    ("facts", "place"),
    [
        ({}, Place("offline")),
        ({HERE: SECRET}, Place("online")),
        ({HERE: SECRET, "network": False}, Place("offline")),
        ({"secrets": {HERE: SECRET}}, Place("online", SECRET)),
        ({"secrets": {HERE: SECRET}, "network": False}, Place("offline")),
        ({"secrets": {}}, Place("offline")),
        ({HERE: SECRET, "WANDB_MODE": "offline"}, Place("offline")),
        ({"WANDB_MODE": ""}, Place("offline")),
        ({"WANDB_MODE": "disabled"}, None),
        ({HERE: SECRET, "RANK": "1"}, None),
    ],
)
def test_auto_is_online_only_with_a_key_and_a_network(machine, facts, place):
    machine(**facts)
    assert find_place("auto") == place


def test_a_key_that_wandb_login_has_written_is_found(machine, tmp_path):
    machine()
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    assert find_place("auto") == Place("online")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login\n")  # torn: no key, and no error
    assert find_place("auto") == Place("offline")


def test_a_secret_that_kaggle_does_not_give_is_none_whatever_it_raises(machine, monkeypatch):
    machine(secrets={})

    def refuse():
        raise RuntimeError("no internet")

    monkeypatch.setattr(sys.modules["kaggle_secrets"], "UserSecretsClient", refuse)
    assert find_place("auto") == Place("offline")


def test_a_place_does_not_show_its_key():
    assert SECRET not in repr(Place("online", SECRET))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {HERE: SECRET, "network": False},
            "train.wandb: expected https://api.wandb.ai to answer .*=offline",
        ),
        (
            {},
            "train.wandb: expected a key for 'online', got none in WANDB_API_KEY, .* wandb login",
        ),
    ],
)
def test_online_that_cannot_be_is_refused_at_once(machine, facts, message):
    machine(**facts)
    with pytest.raises(UserError, match=message):
        find_place("online")


def test_a_server_that_does_not_answer_is_known_within_seconds(machine, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port, where nobody listens
    monkeypatch.setenv(HERE, SECRET)
    started = time.monotonic()
    assert find_place("auto") == Place("offline") and time.monotonic() - started < 10


@pytest.mark.parametrize("leaves_folder", [False, True])
def test_without_the_package_nothing_is_copied_and_what_was_asked_for_is_refused(machine, monkeypatch, leaves_folder):
    machine()
    # a folder `wandb` of runs in the present folder looks like a package without a file
    spec = SimpleNamespace(origin=None) if leaves_folder else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert find_place("auto") is None and find_place("disabled") is None
    with pytest.raises(UserError, match="expected the package wandb for 'offline', got none; pip install wandb, or"):
        find_place("offline")
