"""The plan of a run: does it fit, how long does it take, what does it write, and what to change."""

from dataclasses import dataclass

from kdkit.config.embeddings import EmbeddingConfig, load_embedding_config
from kdkit.config.language import Config, load_config
from kdkit.models.built.size import say_bytes
from kdkit.planning.advice import MOST, Change, find_changes, phases_of
from kdkit.planning.cost import Space, Time, plan_disk, plan_time
from kdkit.planning.devices import Device, find_device
from kdkit.planning.items import Phase
from kdkit.planning.pair import Pair
from kdkit.planning.shapes import embedding_shapes, language_shapes
from kdkit.report.tables import Table
from kdkit.report.terminal import to_text
from kdkit.runs.open_run import is_for_embeddings
from kdkit.runs.paths import find_config

KAGGLE_DISK = 20_000_000_000
"""Bytes that Kaggle keeps of /kaggle/working."""


@dataclass(frozen=True)
class Plan:
    """What a run will take on a device."""

    config: Config | EmbeddingConfig
    device: Device
    phases: list[Phase]
    time: Time
    disk: list[Space]
    changes: list[Change]
    """What to change; empty where it fits."""
    sources: list[str]
    """Where the shapes of the models come from."""
    maps_in_loss: bool

    @property
    def peak(self) -> Phase:
        """The phase with the fullest device."""
        return max(self.phases, key=lambda phase: phase.largest)

    @property
    def fits(self) -> bool:
        """Whether every phase fits into the device's memory."""
        return self.peak.largest <= self.device.memory_bytes

    @property
    def verdict(self) -> str:
        """Whether it fits, in one line."""
        room, peak = self.device.memory_bytes, self.peak.largest
        words = f"{say_bytes(peak)} of {say_bytes(room)} ({room / 2**30:.1f} GiB) on {self.device.name}"
        words += f", when {self.peak.name}"
        return f"fits: {words}" if self.fits else f"does NOT fit: {words}, {say_bytes(peak - room)} too much"


def plan_file(path: str, parameters: list[str], device: str = "auto") -> Plan:
    """Plan the run of a configuration file; see `plan_run`.

    Raises:
        UserError: a mistake in the file, the parameters or the name of the device; a model of unknown shapes.
    """
    file = find_config(path)
    loaded = load_embedding_config(file, parameters) if is_for_embeddings(file) else load_config(file, parameters)
    return plan_run(loaded, device)


def plan_run(config: Config | EmbeddingConfig, device: str = "auto") -> Plan:
    """Plan a run from its configuration alone.

    Args:
        device: `p100`, `t4`, `t4x2`, `cpu`, or `auto` for this machine.

    Raises:
        UserError: see `find_device` and `read_shapes`.
    """
    found = find_device(device, config)
    phases = phases_of(config, found)
    fits = max(phase.largest for phase in phases) <= found.memory_bytes
    if isinstance(config, EmbeddingConfig):
        shapes, maps = embedding_shapes(config), getattr(config.method, "attention_weight", 0.0) > 0.0
    else:
        shapes = language_shapes(config)
        maps = "attention" in Pair(config, found, *shapes).parts
    sources = [
        f"{name}: {each.measure().parameters:,} parameters by {each.source}"
        for name, each in zip(("student", "teacher"), shapes, strict=True)
        if each is not None
    ]
    changes = [] if fits else find_changes(config, found)
    return Plan(config, found, phases, plan_time(config, found), plan_disk(config, found), changes, sources, maps)


def memory_table(plan: Plan) -> Table:
    """Return the fullest phase item by item, with a column for each device."""
    phase = plan.peak
    rows = []
    for item in sorted(phase.items, key=lambda item: -item.bytes):
        size = say_bytes(item.bytes) if item.counted else f"({say_bytes(item.bytes)})"
        rows.append([item.name, *(size if item.place == place else "" for place in phase.places)])
    return [phase.name, *phase.places], [*rows, ["together", *(say_bytes(phase.total(p)) for p in phase.places)]]


def change_table(plan: Plan) -> Table:
    """Return what each change brings and costs."""
    rows = [
        [
            change.name,
            say_bytes(change.largest),
            "yes" if change.fits else "no",
            f"{_say_seconds(change.time.step)} (now {_say_seconds(plan.time.step)})",
        ]
        for change in plan.changes
    ]
    return ["change", "memory", "fits", "step"], rows


def describe_plan(plan: Plan, name: str = "") -> str:
    """Write a plan as one page."""
    phase = plan.peak
    lines = [f"plan of {name or 'this run'} for {plan.device.name}, from the configuration alone: {plan.verdict}", ""]
    lines += [plan.device.note] * bool(plan.device.note) + plan.device.hardware.reasons(plan.maps_in_loss)
    lines += [*plan.sources, "", to_text(memory_table(plan))]
    if any(not item.counted for item in phase.items):
        lines.append("In brackets: at another moment than the fullest one, so not in the sum.")
    for other in plan.phases:
        if other is not phase:
            lines.append(f"{other.name}: {', '.join(f'{say_bytes(other.total(p))} on {p}' for p in other.places)}")
    return "\n".join([*lines, "", *_time_lines(plan), "", *_disk_lines(plan), *_change_lines(plan)])


def _time_lines(plan: Plan) -> list[str]:
    time = plan.time
    lines = [
        f"time, rough: {_say_seconds(time.step)} a step ({time.teacher_share:.0%} the teacher's), {time.steps:,} steps"
        f"; all trainings {_say_seconds(time.total)}",
        f"  read: {time.sequences}",
        f"  speed: {time.speed.source}",
    ]
    if time.once:
        lines.append(f"  of it once, for the teacher's training or answers: {_say_seconds(time.once)}")
    if time.crossing:
        lines.append(f"between the GPUs: {say_bytes(time.crossing)} a step, through the host")
    return lines


def _disk_lines(plan: Plan) -> list[str]:
    kept = sum(space.bytes for space in plan.disk if space.where != "elsewhere")
    full = "" if kept <= KAGGLE_DISK else ": more than the 20 GB that Kaggle keeps"
    lines = [f"disk: {say_bytes(kept)} in the folders of runs and caches{full}"]
    return lines + [f"  {say_bytes(space.bytes):>8}  {space.name} ({space.where})" for space in plan.disk]


def _change_lines(plan: Plan) -> list[str]:
    if plan.fits:
        return []
    if not plan.changes:
        return ["", "nothing that the planner knows of makes it smaller: take a smaller model"]
    heading = f"the {min(MOST, len(plan.changes))} cheapest changes, planned again:"
    commands = [f"  {change.name.partition(',')[0]}: {change.command}" for change in plan.changes]
    return ["", heading, to_text(change_table(plan)), *commands]


def _say_seconds(seconds: float) -> str:
    if seconds < 1.0:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120.0:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
