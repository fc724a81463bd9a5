"""Every model of a run solves the problems that are held out: accuracy, steps, samples, votes, contamination."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.problems import TRAIN, open_problems
from kdkit.distill.checkpoints import STUDENT
from kdkit.errors import UserError
from kdkit.evaluate.compression import count_parameters
from kdkit.evaluate.maths.contamination import measure_contamination
from kdkit.evaluate.maths.describe import describe_model, differences_to
from kdkit.evaluate.maths.selection import Samples, Single, compare_selection
from kdkit.evaluate.maths.sets import spread
from kdkit.evaluate.maths.solutions import Asking, Solution
from kdkit.evaluate.maths.solving import Examiner, Solved
from kdkit.evaluate.maths.verifier import Verifier, describe_scores, fit_verifier, read_states
from kdkit.evaluate.maths.voting import count_contradictions
from kdkit.machine.session import Session
from kdkit.maths.checking.pool import CheckerPool
from kdkit.maths.problem import Problem
from kdkit.models.writer import Writer, model_writer
from kdkit.runs.disk import write_text, writing
from kdkit.runs.folder import Run
from kdkit.teachers.interface import TextTeacher

FOLDER = "maths"
"""In the run: every solution with its verdicts, `SET.jsonl`."""
BATCH_SIZE = 32
"""Solutions that are written at the same time."""


def evaluate_maths(
    session: Session[Config],
    data: PreparedData,
    teacher: TextTeacher,
    students: Mapping[str, PreTrainedModel],
    sets: Mapping[str, list[Problem]],
) -> dict[str, Any]:
    """Let every model of a run solve problems, and keep what they write in the run's folder `maths`.

    Args:
        students: the student and the baselines.
        sets: see `find_sets`.

    Returns:
        `maths`: the settings (`num_samples`, `temperature`, `max_answer_tokens`), `verifier` (see `describe_scores`;
        None: there is none) and `sets`; for each set of problems `num_problems`, `models` (see `describe_model`),
        `differences` (student - model, see `differences_to`), `contamination` (see `measure_contamination`) and, where
        there are samples, `selection` (see `compare_selection`). Empty without problems.
    """
    config, settings = session.config, session.config.maths.judging
    if not sets:
        return {}
    dtype, checker = session.hardware.autocast_dtype, config.maths.checker
    writers = {"teacher": teacher.writer(BATCH_SIZE, dtype)}
    parameters = {"teacher": count_parameters(teacher.model) if teacher.has_layers else teacher.parameters}
    for name, model in students.items():
        writers[name] = model_writer(model, data.student_tokenizer, BATCH_SIZE, dtype)
        parameters[name] = count_parameters(model)
    with CheckerPool(checker) as pool:
        asking = Asking(data.is_chat, config.data.prompt_template)
        examiner = Examiner(pool, checker.policies, settings, asking, config.seed)
        judge = _Judge(examiner, students[STUDENT], data, dtype)
        verifier = judge.train(writers[STUDENT], open_problems(session.run.path / "data", TRAIN))
        training = [each.prompt[-1].content for each in data.prompts("train")]
        found = {
            name: judge.judge(problems, writers, parameters, verifier, session.run, name)
            | {"contamination": measure_contamination(list(map(asking.words, problems)), training)}
            for name, problems in sets.items()
        }
    return {"maths": settings.model_dump() | {"verifier": judge.quality, "sets": found}}


class _Judge:
    """Judges models on sets of problems; knows the student, from whose states a verifier reads."""

    def __init__(self, examiner: Examiner, student: PreTrainedModel, data: PreparedData, autocast_dtype: Any):
        self.examiner, self.student, self.tokenizer = examiner, student, data.student_tokenizer
        self.autocast_dtype = autocast_dtype
        self.quality: dict[str, Any] | None = None
        """Of the verifier: on the samples that it has learnt from, and on those of every set."""

    def train(self, writer: Writer, problems: Sequence[Problem]) -> Verifier | None:
        """Train a verifier on the student's samples of training problems, where the settings ask for one."""
        settings = self.examiner.settings
        if not settings.verifier or not settings.num_samples or not problems:
            return None
        chosen = spread(problems, settings.max_problems)
        samples = self.examiner.sample(writer, chosen)
        states = self._states(chosen, samples)
        is_right = [each.is_right for row in samples for each in row]
        verifier = fit_verifier(states, is_right)
        if verifier is None:
            print(f"verifier: none, since {'all' if all(is_right) else 'no'} samples of training problems are right")
            return None
        self.quality = {"training": describe_scores(verifier.scores(states), is_right)}
        return verifier

    def judge(
        self,
        problems: Sequence[Problem],
        writers: Mapping[str, Writer],
        parameters: Mapping[str, int | None],
        verifier: Verifier | None,
        run: Run,
        name: str,
    ) -> dict[str, Any]:
        """Judge all models on one set, and keep their solutions."""
        solved = {}
        for model, writer in writers.items():
            try:
                solved[model] = self.examiner.solve(writer, problems)
            except UserError as error:
                if model != "teacher":
                    raise
                print(f"maths: the teacher writes nothing: {error}")
        keep_solutions(run, name, problems, solved)
        return {
            "num_problems": len(problems),
            "models": {model: describe_model(problems, each) for model, each in solved.items()},
            "differences": differences_to(STUDENT, solved),
            **self._selection(problems, solved, parameters, verifier, name),
        }

    def _selection(
        self,
        problems: Sequence[Problem],
        solved: Mapping[str, Solved],
        parameters: Mapping[str, int | None],
        verifier: Verifier | None,
        name: str,
    ) -> dict[str, Any]:
        """Compare the student's samples, chosen from in several ways, with single answers."""
        own = solved[STUDENT]
        if not self.examiner.settings.num_samples:
            return {}
        scores: list[list[float]] = []
        if verifier is not None and self.quality is not None:
            values = verifier.scores(self._states(problems, own.samples))
            self.quality[name] = describe_scores(values, [each.is_right for row in own.samples for each in row])
            scores = np.split(values, np.cumsum([len(row) for row in own.samples])[:-1])
        samples = Samples(
            [[each.is_right for each in row] for row in own.samples],
            own.groups,
            count_contradictions(problems, own.samples, self.examiner.pool),
            [[each.num_tokens for each in row] for row in own.samples],
            own.prompt_tokens,
            scores,
        )
        singles = {
            model: Single(
                [solution.is_right for solution in each.greedy],
                [read + solution.num_tokens for read, solution in zip(each.prompt_tokens, each.greedy, strict=True)],
                parameters[model],
            )
            for model, each in solved.items()
        }
        student = singles.pop(STUDENT)
        return {"selection": compare_selection(samples, student, singles)}

    def _states(self, problems: Sequence[Problem], samples: Sequence[Sequence[Solution]]) -> np.ndarray:
        """Read the student's states of samples, problem after problem."""
        pairs = [(problem, each) for problem, row in zip(problems, samples, strict=True) for each in row]
        return read_states(
            self.student,
            self.tokenizer,
            [self.examiner.asking.prompt(problem) for problem, _ in pairs],
            [each.text for _, each in pairs],
            autocast_dtype=self.autocast_dtype,
        )


def keep_solutions(run: Run, name: str, problems: Sequence[Problem], solved: Mapping[str, Solved]) -> Path:
    """Write every solution of a set with its verdicts, a line each: problem by problem, model by model.

    Sample 0 is the greedy one, and the only one whose steps are checked.
    """
    lines = []
    for place, problem in enumerate(problems):
        about = {"id": problem.id, "problem": problem.problem, "gold": problem.answer}
        about |= {"domain": problem.domain, "level": problem.level, "template": problem.template}
        for model, each in solved.items():
            for number, solution in enumerate([each.greedy[place], *each.samples[place]]):
                row = about | {"model": model, "sample": number} | solution.as_row()
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    with writing(run.path, "--runs-dir"):
        return write_text(run.path / FOLDER / f"{name}.jsonl", "".join(lines))
