"""The other processes of `accelerate launch -m kdkit run`: they help the first one to train, and do nothing else.

The first process runs the notebook, writes, scores and shows. For embedding models the others read the same
configuration, wait until it trains, and take part; nobody sees what they print.
"""

import os
import socket
from contextlib import redirect_stdout
from pathlib import Path

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.errors import UserError
from kdkit.runs.open_run import is_for_embeddings, plan_run, split_overrides

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What gloo says where another process has gone."""


def is_helper(config: str) -> bool:
    """Return whether this process is not the first of those that were launched for an embedding model."""
    return _are_several() and os.environ.get("RANK", "0") != "0" and is_for_embeddings(config)


def _are_several() -> bool:
    """Return whether several processes were launched together; asked before anything else is imported."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_several(config: str) -> None:
    """Refuse to run the notebooks of a language model in several processes: each would run them all.

    Raises:
        UserError: in the first process.
        SystemExit: in the others, without a word.
    """
    if not _are_several() or is_for_embeddings(config):
        return
    if os.environ.get("RANK", "0") != "0":
        raise SystemExit(0)
    size = os.environ["WORLD_SIZE"]
    raise UserError(
        f"run: expected one process for a language model, got {size}; train in {size} by accelerate launch ... -m "
        f"kdkit distill {config}, and call run without a launcher behind it"
    )


def help_training(config: str, overrides: list[str], run_name: str, runs_dir: str) -> None:
    """Take part in the training that the first process begins; return when it is done, or when there is none.

    Raises:
        UserError: see `plan_run`.
    """
    from kdkit.embeddings.data.prepare import prepare_sentences
    from kdkit.embeddings.training.train import distill_all
    from kdkit.machine.hardware import find_hardware
    from kdkit.machine.session import Session
    from kdkit.training.together import join_processes

    settings, run = plan_run(config, overrides, run_name, runs_dir)
    assert isinstance(settings, EmbeddingConfig)
    hardware = find_hardware(settings.train.device, settings.train.precision)
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, redirect_stdout(nothing):
        try:
            processes, _ = join_processes(hardware)  # by then the first one has made the data
            session = Session(settings, run, hardware)
            distill_all(session, prepare_sentences(session, None))
            processes.leave()
        except RuntimeError as error:
            # the first one has ended and says why; a launcher whose helper fails before would end it unheard
            if not any(words in str(error) for words in LOST):
                raise


def launch_training(
    num_processes: int, config: str, overrides: str = "", run_name: str = "", runs_dir: str = "runs"
) -> None:
    """Train an embedding model in processes of their own, one on each GPU, from a cell of notebook 06.

    It must come before the cell that opens the session: the processes are forks, and a fork cannot use a GPU that its
    parent has touched. The cells below, with RESUME = True, find the student trained.
    `train.per_device_train_batch_size` is each process's part.

    Raises:
        UserError: see `plan_run`.
        RuntimeError: one of the processes failed.
    """
    from accelerate import notebook_launcher

    plan_run(config, overrides, run_name, runs_dir)  # a mistake is one line here, and a page of its forks' there
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    notebook_launcher(
        _train_as_one, (config, overrides, run_name, runs_dir), num_processes=num_processes, use_port=port
    )


def _train_as_one(config: str, overrides: str, run_name: str, runs_dir: str) -> None:
    """Be one of the processes of `launch_training`."""
    if is_helper(config):
        help_training(config, split_overrides(overrides), run_name, runs_dir)
        return
    from kdkit.machine.open_session import open_embedding_session
    from kdkit.workflow.embedding_training import train_embeddings

    train_embeddings(open_embedding_session(config, overrides, run_name, runs_dir), resume=True)


def dismiss_helpers(settings: EmbeddingConfig) -> None:
    """Tell the other processes, if there are some, that nothing is left to train."""
    if not _are_several():
        return
    from kdkit.machine.hardware import find_hardware
    from kdkit.training.together import join_processes

    processes, _ = join_processes(find_hardware(settings.train.device, settings.train.precision))
    processes.agree(None)
    processes.leave()
