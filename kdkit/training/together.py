"""Several processes that train one student (`accelerate launch`): who they are, and what they exchange.

The first one writes, all others wait. Methods for embeddings compare the sentences of a batch with each other, so the
loss of a batch is no mean over its parts: every process runs the student on its part of a batch, receives what the
others made of theirs, and computes the loss of the whole. Its gradient flows back through its own part alone, so the
sum over the processes is the gradient of the whole batch. For language models `transformers.Trainer` exchanges it all.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from transformers import AutoModelForCausalLM, PreTrainedModel

from kdkit.machine.hardware import Hardware
from kdkit.training.order import PROCESSES, num_processes

LAUNCHED = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP"),
    *("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
)
"""Environment variables by which accelerate finds out that a process is one of several."""
PATIENCE_DAYS = 7
"""How long a process waits for another one, which may be asking the teacher or scoring the student meanwhile."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen by one of them; by default it is alone."""

    size: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes, logs and scores."""
        return self.rank == 0

    def part_of(self, count: int) -> slice:
        """Return this process's part of a batch of so many rows, a multiple of `size`."""
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """Put the parts of all processes behind each other; the gradient flows into the own one alone.

        Args:
            own: `[rows, ...]`, of one shape in all processes.

        Returns:
            `[size * rows, ...]`.
        """
        if self.size == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(parts, own.detach().contiguous())
        parts[self.rank] = own
        return torch.cat(parts)

    @torch.no_grad()
    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by their sums over the processes, bit by bit the same in each."""
        if self.size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in tensors])
            torch._foreach_copy_(list(tensors), [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])

    @torch.no_grad()
    def take_from_first(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace tensors by those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def agree(self, value: Any) -> Any:
        """Return the value that the first process gives."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Close the connections, at the end of the process: it would be aborted with them open."""
        if self.size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first process make what the others then find made."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    @contextmanager
    def own_dropout(self, seed: int, device: torch.device) -> Iterator[None]:
        """Draw other random numbers in every process, and go on with the common ones afterwards."""
        if self.size == 1:
            yield
            return
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed * self.size + self.rank)
            yield


def join_processes(hardware: Hardware) -> tuple[Processes, Hardware]:
    """Meet the processes that were launched together, and wait until all are there; without a launcher there is one.

    Returns:
        The processes, and where this one computes: each on a GPU of its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(), hardware
    from accelerate import PartialState

    is_cpu = hardware.device == "cpu"
    state = PartialState(cpu=is_cpu, timeout=timedelta(days=PATIENCE_DAYS))
    if not is_cpu:
        own = f"cuda:{state.local_process_index}"
        hardware = replace(hardware, device=own, teacher_device=own)
    return Processes(state.num_processes, state.process_index), hardware


def joined_processes() -> Processes:
    """Return the processes that have met in `join_processes`; before that, and without a launcher, there is one."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return Processes()
    return Processes(distributed.get_world_size(), distributed.get_rank())


@contextmanager
def alone() -> Iterator[None]:
    """Compute as if no others had been launched: what is made once, before the processes meet, trains a teacher too.

    Raises:
        RuntimeError: they have met.
    """
    if joined_processes().size > 1:
        raise RuntimeError("alone: expected a process that has not met the others yet, got one that has")
    size = num_processes()
    hidden = {name: os.environ.pop(name) for name in LAUNCHED if name in os.environ}
    if not hidden:
        yield
        return
    os.environ[PROCESSES] = str(size)  # a cache holds what all of them will read
    try:
        yield
    finally:
        os.environ.pop(PROCESSES)
        os.environ.update(hidden)
        _forget_state()


def _forget_state() -> None:
    """Let accelerate look again how many processes there are."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def is_shared_out(model: torch.nn.Module) -> bool:
    """Return whether this process holds a part of a model's parameters only (FSDP2)."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def whole_state(model: torch.nn.Module) -> dict[str, Any] | None:
    """Put the weights of a model together, on the CPU; all processes call it.

    Returns:
        The weights by name, in the first process; nothing in the others. None: the model is whole everywhere.
    """
    if not is_shared_out(model):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def whole_model(model: PreTrainedModel) -> PreTrainedModel | None:
    """Return a model as it is, or a whole copy of one that is shared out; None in all processes but the first."""
    state = whole_state(model)
    if state is None:
        return model
    if not state:
        return None
    with torch.random.fork_rng(devices=[]):  # its weights are drawn, and dropout goes on as without it
        copy = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    copy.load_state_dict(state)
    return copy.to(model.device)
