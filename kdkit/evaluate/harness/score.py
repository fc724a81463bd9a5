"""A run's models on tasks of the harness: the same tasks for all, compared document by document."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import start_token_id
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.distill.checkpoints import STUDENT
from kdkit.distill.plan import view_of
from kdkit.errors import UserError
from kdkit.evaluate.evaluation import load_students
from kdkit.evaluate.harness.compare import TaskScores, compare_models
from kdkit.evaluate.harness.tasks import KEY, bars_if_watched, check_harness
from kdkit.machine.session import Session
from kdkit.teachers.prepare import prepare_teacher

RESULTS = "lm_eval.json"
"""Of a run: see `score_run`."""
TEACHER = "teacher"


@dataclass(frozen=True)
class Asking:
    """How tasks are asked."""

    limit: int | None = None
    """Documents of a task at most, the first ones; None: all."""
    num_fewshot: int | None = None
    """Solved examples before each question; None: what the task says."""
    as_chat: bool = False
    """Put questions as messages, by the model's chat template."""


def score_run(
    session: Session[Config], data: PreparedData, tasks: Mapping[str, Any], wanted: Sequence[str], asking: Asking
) -> dict[str, Any]:
    """Score a run's models and write `lm_eval.json`; other tasks that stand there stay.

    Args:
        tasks: from `open_tasks`.
        wanted: names of models; none: all that the run has.

    Returns:
        `package`; `left_out`: why a model was not asked; `tasks`: see `compare_models`, by task, with `limit` and
        `num_fewshot`.

    Raises:
        UserError: no trained student; a model that the run does not have, or that cannot be asked; a task that fails.
    """
    check_harness()
    students = load_students(session)
    _check_models(wanted, [TEACHER, *students])
    session, data = view_of(session, data)
    models: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerFast]] = {}
    left_out = {}
    if not wanted or TEACHER in wanted:
        teacher = prepare_teacher(session, data)
        if teacher.has_layers:
            models[TEACHER] = (teacher.model, data.teacher_tokenizer)
        else:
            left_out[TEACHER] = f"lm-eval asks models of transformers, and it is {type(teacher).__name__}"
            print(f"lm-eval: the teacher is not asked: {left_out[TEACHER]}", flush=True)
    models |= {
        name: (model, data.student_tokenizer) for name, model in students.items() if not wanted or name in wanted
    }
    if not models:
        raise UserError(f"--model: expected one that lm-eval can ask, got teacher: {left_out[TEACHER]}; name student")
    scores = {}
    for name, (model, tokenizer) in models.items():
        print(f"lm-eval: {name}", flush=True)
        scores[name] = score_model(model, tokenizer, tasks, asking, session.config.evaluate.batch_size)
    reference = STUDENT if STUDENT in scores else next(iter(scores))
    found = compare_models(scores, reference, session.config.seed)
    how = {"limit": asking.limit, "as_chat": asking.as_chat}
    kept = session.run.read_json(RESULTS)["tasks"] if (session.run.path / RESULTS).is_file() else {}
    results = {
        "package": f"lm_eval {version('lm_eval')}",
        "left_out": left_out,
        "tasks": kept | {task: entry | how for task, entry in found.items()},
    }
    session.run.write_json(RESULTS, results)
    return results | {"tasks": {task: results["tasks"][task] for task in found}}


def _check_models(wanted: Iterable[str], there: Sequence[str]) -> None:
    """Refuse a model that the run does not have."""
    if wrong := [name for name in wanted if name not in there]:
        raise UserError(f"--model: expected some of {', '.join(there)}, got {wrong[0]!r}; name one of them")


def score_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Mapping[str, Any],
    asking: Asking = Asking(),
    batch_size: int = 8,
) -> list[TaskScores]:
    """Score a causal LM on tasks by the harness, with the tokenizer that it was trained with.

    Args:
        model: in evaluation mode.
        tasks: from `open_tasks`; they can be asked again.

    Raises:
        UserError: whatever stops a task.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    _set_examples(tasks["tasks"].values(), asking.num_fewshot)
    if asking.as_chat and not tokenizer.chat_template:
        raise UserError("--chat: expected models with a chat template, got one without; leave --chat out")
    try:
        reader = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, prefix_token_id=start_token_id(tokenizer)
        )
        with redirect_stdout(StringIO()), bars_if_watched():
            found = evaluate(
                reader,
                dict(tasks),
                limit=asking.limit,
                bootstrap_iters=0,  # its intervals are of one model; ours are of differences too
                apply_chat_template=asking.as_chat,
            )
    except Exception as error:  # of any kind: a task is code and data of others
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:240]}"
        raise UserError(f"{KEY}: expected tasks that lm_eval can ask, got {reason}; correct the task's file") from error
    return [_scores_of(name, found, tasks["tasks"].get(name)) for name in found["results"]]


def _set_examples(tasks: Iterable[Any], num_fewshot: int | None) -> None:
    """Say how many solved examples stand before a question, by the harness's rules: a task that says 0 means it."""
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    for task in tasks:
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _scores_of(name: str, found: Any, task: Any) -> TaskScores:
    """Take what the harness says of one task, or of a group, which has no documents of its own."""
    values = {key: value for key, value in found["results"][name].items() if "," in key and "_stderr" not in key}
    samples = found["samples"].get(name, [])
    items = {}
    for key in values:
        metric, chosen = key.split(",", 1)
        rows = [sample for sample in samples if sample["filter"] == chosen]
        if rows and all(metric in row for row in rows):
            items[key] = [row[metric] for row in rows]
    better = found["higher_is_better"].get(name, {})
    return TaskScores(
        name=name,
        values={key: value for key, value in values.items() if isinstance(value, int | float)},
        items=items,
        aggregations={key: task.aggregation()[key.split(",")[0]] for key in items} if task is not None else {},
        higher_is_better={key: better.get(key.split(",")[0]) for key in values},
        num_fewshot=found["n-shot"].get(name),
        version=found["versions"].get(name),
    )
