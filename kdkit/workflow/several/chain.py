"""Chain: students that teach students, generation by generation; what `python -m kdkit chain` does.

Generation 1 learns from the teacher of the configuration, generation k from the student of generation k - 1. Each is a
run of its own, with the same text held out and another seed of its weights and order of reading.
Source: Furlanello et al. 2018, Born-Again Neural Networks, arXiv:1805.04770.
"""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdkit.config.language import BUILD, Config
from kdkit.errors import UserError
from kdkit.evaluate.language import paired_interval
from kdkit.evaluate.text_scores import read_scores
from kdkit.machine.interrupt import Stopped, TimeIsUp
from kdkit.report.tables import MISSING, Table, write_interval
from kdkit.runs.folder import Run, check_run_name, default_run_name
from kdkit.runs.open_run import plan_run, run_words
from kdkit.workflow.pipeline import RunRequest, run_notebooks
from kdkit.workflow.several.variants import as_override
from kdkit.workflow.terminal import Terminal

SEEDS_APART = 1000
"""Between the seeds of neighbouring generations."""


@dataclass(frozen=True)
class ChainRequest:
    """Options of `python -m kdkit chain`."""

    config: str
    generations: int
    overrides: list[str] = field(default_factory=list)
    """For every generation."""
    name: str = ""
    """Of the chain; its runs are called `NAME-generation-1` and so on."""
    runs_dir: str = "runs"
    resume: bool = False
    """Continue an interrupted training from its checkpoint."""
    verbose: bool = False

    @property
    def command(self) -> str:
        """The command line that goes on with the chain."""
        words = run_words(self.config, self.overrides, self.name, self.runs_dir)
        words[1:1] = ["--generations", str(self.generations)]
        words += ["--verbose"] if self.verbose else []
        return shlex.join(["python", "-m", "kdkit", "chain", *words, "--resume"])

    def run_name(self, generation: int) -> str:
        """Return the name of a generation's run."""
        name = self.name or default_run_name(self.config, self.overrides)
        return check_run_name(f"{name[:80]}-generation-{generation}")


def run_chain(request: ChainRequest) -> list[Run]:
    """Run every generation that is not done, one after the other, and return their runs.

    Raises:
        UserError: a configuration whose students cannot teach, fewer than two generations; see also `run_notebooks`.
        RuntimeError: a notebook failed.
        Stopped: by the user, or by the time budget; the message holds what is saved and the command that goes on.
    """
    config, _ = plan_run(request.config, request.overrides, request.run_name(1), request.runs_dir)
    if not isinstance(config, Config):
        raise UserError(
            f"chain: expected a configuration for language models, got {request.config!r}, which has `method:`; name "
            "another, such as configs/demo.yaml"
        )
    check_chain(config, request.config, request.generations)
    terminal, runs = Terminal(request.verbose), []
    for generation in range(1, request.generations + 1):
        teacher = f"the student of {runs[-1].name}" if runs else "the teacher of the configuration"
        terminal.say(f"generation {generation} of {request.generations} learns from {teacher}")
        own = settings_of(config, generation, runs[-1].path / "student") if runs else {}
        overrides = [*request.overrides, *(as_override(key, value) for key, value in own.items())]
        name, options = request.run_name(generation), {"resume": request.resume, "verbose": request.verbose}
        try:
            runs.append(run_notebooks(RunRequest(request.config, overrides, name, request.runs_dir, **options)))
        except KeyboardInterrupt as error:
            saved = str(error).partition("; to go on:")[0] or f"generation {generation} was not finished"
            kind = TimeIsUp if isinstance(error, TimeIsUp) else Stopped
            raise kind(f"{saved}; to go on: {request.command}") from None
    return runs


def check_chain(config: Config, name: str, generations: int) -> None:
    """Refuse a chain that is none.

    Args:
        name: of the configuration, for messages.

    Raises:
        UserError: naming the option or the setting.
    """
    if generations < 2:
        raise UserError(f"--generations: expected at least 2, got {generations}; for one: python -m kdkit run {name}")
    if config.teacher.average_decay is not None:
        raise UserError(
            "teacher.average_decay: expected none in a chain, whose teachers are finished students, got "
            f"{config.teacher.average_decay:g}; leave it out"
        )
    if config.student.from_teacher is not None:
        raise UserError(
            "student.from_teacher: expected none in a chain, whose students have one size, got "
            f"{config.student.from_teacher.kind!r}; leave it out, and set student.build"
        )


def settings_of(config: Config, generation: int, teacher: Path) -> dict[str, Any]:
    """Return the settings in which a later generation differs from the first one.

    Args:
        config: of the first generation.
        generation: 2 or more.
        teacher: folder of the student before it.
    """
    first = config.model_dump()
    own: dict[str, Any] = {
        "teacher.path": str(teacher),
        "teacher.max_length": config.data.max_length,  # one tokenizer: as long as the student's
        "train.seed": config.training_seed + SEEDS_APART * (generation - 1),
        # the first generation has them
        "distill.equal_time_baseline": False,
        # what was said of another teacher
        "teacher.tokenizer": "",
        "teacher.revision": None,
        "teacher.chat_template": None,
        "teacher.document_end": "auto",
        "teacher.others": [],
        "teachers.members": [],
        "teachers.only": "",
        "router.kind": "none",
        "router.sources": "auto",
        "distill.layer_map": "auto",
        "cache.file": "",
    }
    if config.student.path == BUILD:
        own["student.build.tokenizer"] = "teacher"
    return {key: value for key, value in own.items() if value != _value(first, key)}


def _value(values: dict[str, Any], key: str) -> Any:
    """Return a setting by its name."""
    for name in key.split("."):
        values = values[name]
    return values


def chain_table(runs: list[Run]) -> Table:
    """Put the generations side by side: each beside its teacher, and beside the same student without one.

    Differences are teacher - student and baseline - student in bits per byte, so above 0 the student is better; the
    intervals are over the held-out text.
    """
    rows = []
    for number, run in enumerate(runs, 1):
        evaluation = run.read_json("evaluation.json")
        models = {name: entry["bits_per_byte"] for name, entry in evaluation["models"].items()}
        row = [str(number), *(f"{models[name]:.3f}" for name in ("teacher", "student", "baseline"))]
        rows.append(row + [_better_than(run, models, name) for name in ("teacher", "baseline")])
    headings = ["teacher", "student", "without a teacher", "better than its teacher by", "than without by"]
    return ["generation", *headings], rows


def _better_than(run: Run, models: dict[str, float], other: str) -> str:
    """Write by how much a student is better than another model of its run."""
    scores = read_scores(run)
    difference = f"{models[other] - models['student']:+.3f}"
    if scores is None or scores["teacher"].window_bytes.sum() != scores["student"].window_bytes.sum():
        return f"{difference} ({MISSING})"
    interval = paired_interval(scores[other], scores["student"], seed=0)
    return f"{difference} ({write_interval(list(interval), 3)})"
