"""Following an embedding distillation: metrics.jsonl, progress lines, scores after every epoch, the collapse alarm."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.embeddings.models.doctor import mean_off_diagonal_cosine
from kdkit.embeddings.models.embedder import EmbeddingModel, encode
from kdkit.embeddings.training.trainer import EmbeddingTrainer
from kdkit.machine.interrupt import StopRequest
from kdkit.machine.memory import read_peak, start_peak
from kdkit.machine.tracking.copies import TrainingCopy
from kdkit.runs.folder import Run
from kdkit.runs.messages import step_line
from kdkit.training.live.dashboard import Dashboard, watched
from kdkit.training.not_finite import report_step

AfterEpoch = Callable[[EmbeddingModel], dict[str, float]]
"""Scores a student on every task: the main score by the task's name."""

LOOK_EVERY, LOOK_SENTENCES = 50, 64
"""Steps between two looks at whether the student is collapsing, and sentences of such a look: a hundredth of the time.
TALAS as its seed has it collapses within 60 steps."""
COLLAPSE = 0.9
"""Mean cosine of different sentences above which a student counts as collapsed."""
ALARM_SENTENCES = 256
"""Held-out sentences that the collapse alarm looks at."""


class Follower:
    """Records and shows one training; the trainer calls it after every step."""

    def __init__(
        self,
        config: EmbeddingConfig,
        run: Run,
        phase: str,
        trainer: EmbeddingTrainer,
        sentences: list[str],
        after_epoch: AfterEpoch | None,
    ):
        """Prepare to follow.

        Args:
            phase: name of the training in metrics and on the screen.
            sentences: held-out ones, for the collapse alarm.
            after_epoch: scores the student; None: nothing is scored on the way.
        """
        self.config, self.run, self.phase, self.trainer = config, run, phase, trainer
        self.sentences, self.after_epoch = sentences[:ALARM_SENTENCES], after_epoch
        self.dashboard: Dashboard | None = None
        self._logged_step = 0
        self.mean_cosine = 0.0
        self.copy = TrainingCopy(run, phase, config.train, config.model_dump())

    @contextmanager
    def shown(self, request: StopRequest) -> Iterator[None]:
        """Show a dashboard while the training runs, if a person watches, and leave what became of it.

        Args:
            request: what its button asks for.
        """
        with watched(self.run, self.phase, request, "mean score of the tasks", "sentences") as self.dashboard:
            yield
        self.dashboard = None

    def start(self, resumed_step: int) -> None:
        """Drop what an interrupted training logged after its checkpoint, or score a student before its first step."""
        start_peak(self.trainer.student.device)
        self.run.drop_metrics(self.phase, resumed_step if resumed_step else -1)
        self.copy.begin(resumed_step)
        if self.dashboard is not None:
            self.dashboard.start(resumed_step, self.trainer.total_steps, self.trainer.seconds)
        if not resumed_step:
            self._score(0)
        for line in self.run.read_metrics():
            if line.get("phase") == self.phase:
                self.mean_cosine = line.get("mean_off_diagonal_cosine", self.mean_cosine)
                self._logged_step = line["step"] if "sentences" in line else self._logged_step
        self._note(resumed_step)

    def __call__(self, step: int, logs: dict[str, float]) -> None:
        """Write the trainer's logs; score the student where an epoch ends."""
        report_step(self.run, self.phase, self.trainer.left_out, step, self.config.train.max_skipped_in_a_row)
        if self.dashboard is not None:
            self.dashboard.advance(step, self.trainer.seconds)
        if "loss" in logs:
            self._log(step, logs)
        per_epoch = self.trainer.steps_per_epoch
        ends_epoch = int(step / per_epoch + 1e-9) > int((step - 1) / per_epoch + 1e-9)
        if (ends_epoch and self.config.evaluate.every_epoch) or step == self.trainer.total_steps:
            self._score(step)
        elif step % LOOK_EVERY == 0:
            self._look(step)

    def finish(self) -> dict[str, Any]:
        """Return the training's entry of training.json."""
        trainer = self.trainer
        sentences = trainer.batches_until(trainer.step) * trainer.order.batch_size
        return {
            "steps": trainer.step,
            "seconds": round(trainer.seconds, 3),
            "skipped_steps": trainer.skipped_steps,
            "peak_memory_bytes": read_peak(trainer.student.device),
            "parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
            "sentences_per_second": sentences / max(trainer.seconds, 1e-9),
            "milliseconds_per_step": 1000 * trainer.seconds / max(trainer.step, 1),
            "start": self.config.student.path,
            "stages": [{"name": stage.name, "steps": stage.steps} for stage in trainer.stages],
            "collapsed": self.mean_cosine > COLLAPSE,
            "mean_off_diagonal_cosine": self.mean_cosine,
        }

    def _log(self, step: int, logs: dict[str, float]) -> None:
        """Write a line of metrics and show it."""
        batches = self.trainer.batches_until(step) - self.trainer.batches_until(self._logged_step)
        logs |= {"sentences": batches * self.trainer.order.batch_size}
        self._logged_step = step
        self._record(step, logs)
        self.copy.update()
        self._note(step)
        left = self.trainer.seconds / step * (self.trainer.total_steps - step)
        terms = "  ".join(
            f"{name.removesuffix('_loss')} {value:.4f}" for name, value in logs.items() if name.endswith("loss")
        )
        if self.dashboard is None:
            print(step_line(self.phase, step, self.trainer.total_steps, terms, left), flush=True)
        else:
            self.dashboard.add(step, self.trainer.seconds, logs)

    def _score(self, step: int) -> None:
        """Score the student as it would be saved, and check whether it has collapsed."""
        student = self.trainer.student.eval()
        self.trainer.method.dress(student)
        try:
            batch_size = self.config.evaluate.batch_size
            vectors = encode(student, self.sentences, batch_size, autocast_dtype=self.trainer.hardware.autocast_dtype)
            self.mean_cosine = mean_off_diagonal_cosine(vectors)
            # without every_epoch the evaluation alone scores the tasks, once for every model
            asked = self.after_epoch if self.config.evaluate.every_epoch else None
            scores = asked(student) if asked is not None else {}
        finally:
            student.head = None
        epoch = self.trainer.batches_until(step) / self.trainer.order.batches_per_epoch
        cosine = {"mean_off_diagonal_cosine": self.mean_cosine}
        self._record(step, cosine | {"epoch": round(epoch, 3), "tasks": scores})
        words = "  ".join(f"{name} {score:.2f}" for name, score in scores.items())
        print(f"{self.phase:<20} epoch {epoch:.3g}  {words}  mean cosine {self.mean_cosine:.3f}", flush=True)
        self._warn()
        if self.dashboard is not None and scores:
            self.dashboard.measure(step, fmean(scores.values()))

    def _look(self, step: int) -> None:
        """Check between two scores whether the student is collapsing, on fewer sentences."""
        student = self.trainer.student
        vectors = encode(
            student,
            self.sentences[:LOOK_SENTENCES],
            self.config.evaluate.batch_size,
            autocast_dtype=self.trainer.hardware.autocast_dtype,
        )
        self.mean_cosine = mean_off_diagonal_cosine(vectors)
        self._record(step, {"mean_off_diagonal_cosine": self.mean_cosine})
        self._warn()

    def _warn(self) -> None:
        """Say that different sentences have almost the same vector."""
        if self.mean_cosine > COLLAPSE:
            print(
                f"{self.phase}: warning: different sentences have a mean cosine of {self.mean_cosine:.2f}, the student "
                "is collapsing; raise method.task_weight, lower train.learning_rate, or check the pooling",
                flush=True,
            )

    def _note(self, step: int) -> None:
        """Keep in the run's status how far this training is."""
        seconds, total = round(self.trainer.seconds, 1), self.trainer.total_steps
        self.run.set_progress("running", phase=self.phase, step=step, total_steps=total, seconds=seconds)

    def _record(self, step: int, values: dict[str, Any]) -> None:
        self.run.append_metrics({"phase": self.phase, "step": step, "seconds": round(self.trainer.seconds, 3)} | values)
