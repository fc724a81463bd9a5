"""Where Weights & Biases keeps a run, and with which key: decided once a training, without a word of the key.

A key is read from the environment, from `~/.netrc`, where `wandb login` writes it, or from the secrets of a Kaggle
notebook. It is never a setting: settings are written into notebooks and run folders.
"""

import contextlib
import importlib.util
import netrc
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from kdkit.config.training import WandbMode
from kdkit.errors import UserError
from kdkit.machine.network import can_connect

KEY = "WANDB_API_KEY"
"""Name of the key in the environment, and of the Kaggle secret."""
MODE = "WANDB_MODE"
SERVER = "https://api.wandb.ai"


@dataclass(frozen=True)
class Place:
    """Where a run is kept."""

    mode: Literal["online", "offline"]
    key: str | None = field(default=None, repr=False)
    """That of a Kaggle secret; None: wandb finds it by itself, or needs none."""


def find_place(asked: WandbMode) -> Place | None:
    """Decide where a run is kept; None: nowhere. Of several processes the first alone keeps one.

    Args:
        asked: the setting `train.wandb`. `auto` does what `WANDB_MODE` says, else it is online where a key is found and
            the server can be reached, else offline; where wandb is not installed it does nothing.

    Raises:
        UserError: it was asked for and is not installed, or has no key to be online with.
    """
    if os.environ.get("RANK", "0") != "0":
        return None
    spec = importlib.util.find_spec("wandb")
    is_here = spec is not None and spec.origin is not None  # a folder `wandb` of runs is found as a package, too
    mode = (os.environ.get(MODE) or "auto") if asked == "auto" else asked
    if mode == "disabled" or (asked == "auto" and not is_here):
        return None
    if not is_here:
        raise UserError(
            f"train.wandb: expected the package wandb for {asked!r}, got none; pip install wandb, "
            "or set train.wandb=disabled"
        )
    if mode == "online":
        return _online_place(asked)
    if mode != "auto":
        return Place("offline")
    if not (has_key := has_local_key()) and not has_kaggle_secrets():
        return Place("offline")
    if not server_is_reachable():
        return Place("offline")
    key = None if has_key else read_kaggle_secret(KEY)
    return Place("online", key) if has_key or key else Place("offline")


def _online_place(asked: WandbMode) -> Place:
    """Return the place of a run that has to be online; without a network wandb would wait for minutes."""
    name = "train.wandb" if asked == "online" else MODE
    if not server_is_reachable():
        raise UserError(f"{name}: expected {_server()} to answer for 'online', got no network; set train.wandb=offline")
    if has_local_key():
        return Place("online")
    if (key := read_kaggle_secret(KEY)) is None:
        raise UserError(
            f"{name}: expected a key for 'online', got none in {KEY}, ~/.netrc and Kaggle's secrets; "
            "wandb login, or set train.wandb=offline"
        )
    return Place("online", key)


def has_local_key() -> bool:
    """Return whether wandb will find a key by itself."""
    if os.environ.get(KEY):
        return True
    host = str(urlsplit(_server()).hostname)
    for path in [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if path and (netrc.netrc(path).authenticators(host) or ("", "", ""))[2]:
                return True
    return False


def has_kaggle_secrets() -> bool:
    """Return whether this is a Kaggle notebook."""
    return importlib.util.find_spec("kaggle_secrets") is not None


def read_kaggle_secret(label: str) -> str | None:
    """Return a secret of this Kaggle notebook; None: it is no such notebook, is not online, or has no such secret."""
    if not has_kaggle_secrets():
        return None
    from kaggle_secrets import UserSecretsClient

    try:
        return UserSecretsClient().get_secret(label) or None
    except Exception:  # its own errors are named differently from release to release; what it says may hold a token
        return None


def server_is_reachable() -> bool:
    """Return whether the server of Weights & Biases can be reached, within a few seconds; asked once."""
    return _is_reachable(_server())


@cache
def _is_reachable(address: str) -> bool:
    return can_connect(address)


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or SERVER
