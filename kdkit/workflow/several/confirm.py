"""How many runs a grid comes to, how long they take, and whether that is wanted."""

import sys

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.errors import UserError
from kdkit.planning.cost import plan_time
from kdkit.planning.devices import find_device
from kdkit.runs.messages import say_time
from kdkit.workflow.terminal import Terminal

MOST_RUNS = 50
"""Runs of a grid that nobody has to confirm."""
BESIDE = 5.0
"""Seconds of a run beside its steps: text and models are opened, the student is saved and scored."""


def confirm_runs(
    words: str, count: int, seeds: int, config: Config | EmbeddingConfig, is_wanted: bool, terminal: Terminal
) -> None:
    """Say how many runs a grid comes to; if they are many, ask, or want `--yes` where nobody can be asked.

    Args:
        words: what will be trained: `4 x 4 variants x 3 seeds`.
        count: of its runs.
        seeds: how many of them differ in their seed, for each of which a teacher and a baseline are made.
        config: of any of them.
        is_wanted: `--yes` was given.

    Raises:
        UserError: it is not wanted, or nobody said so.
    """
    size = f"{words} = {count:,} runs{estimate(config, count, seeds)}"
    if count <= MOST_RUNS or is_wanted:
        terminal.say(size)
        return
    remedy = "add --yes, or take values or seeds out"
    if not (sys.stdin.isatty() and terminal.rewrites):
        raise UserError(f"--grid: expected at most {MOST_RUNS} runs, got {size}; {remedy}")
    answer = input(f"{size}. Train them all? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise UserError(f"--grid: expected y or yes to train {count:,} runs, got {answer!r}; {remedy}")


def estimate(config: Config | EmbeddingConfig, count: int, seeds: int) -> str:
    """Say about how long so many runs take on this machine, one after the other; nothing where that is unknown.

    Args:
        seeds: each has a teacher, if that is built, a cache of its answers, if that is wanted, and a baseline.
    """
    try:
        time = plan_time(config, find_device("auto", config))
    except UserError:  # the shapes of a model on the hub
        return ""
    seconds = count * (time.steps * time.step + BESIDE) + seeds * (time.once + time.steps * time.baseline_step)
    return f", about {say_time(seconds)} one after the other on this machine"
