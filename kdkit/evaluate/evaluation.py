"""The evaluation stage: teacher, student and baselines on the same held-out text (notebook 04)."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.config.language import Config
from kdkit.data.batches import Side
from kdkit.data.comparable import why_not_comparable
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.distill.checkpoints import ANSWERS_REUSED, BASELINE, EQUAL_TIME, STUDENT
from kdkit.distill.layer_terms import plan_layers
from kdkit.distill.plan import view_of
from kdkit.errors import UserError
from kdkit.evaluate.answers import check_rouge, score_answers
from kdkit.evaluate.attention import ATTENTION_WINDOWS, measure_attention
from kdkit.evaluate.compression import (
    SIZE_DTYPE,
    compare_speeds,
    count_bytes,
    count_parameters,
    measure_generation,
    measure_peak_memory,
    measure_speeds,
)
from kdkit.evaluate.kinds import evaluate_kinds
from kdkit.evaluate.language import BOOTSTRAP_SAMPLES, Resampled, Units, choose_units, gap_closed, resample_text
from kdkit.evaluate.maths.judge import evaluate_maths
from kdkit.evaluate.maths.sets import find_sets
from kdkit.evaluate.measures.run import compare_writing, measure_levels, measure_run, retention_intervals
from kdkit.evaluate.measures.tokens import Predictions, predict_tokens
from kdkit.evaluate.pairs.files import read_pairs
from kdkit.evaluate.pairs.score import evaluate_pairs
from kdkit.evaluate.retention import Positions, compare_predictions, sum_up
from kdkit.evaluate.teacher_costs import measure_costs
from kdkit.evaluate.text_scores import write_scores
from kdkit.machine.session import Session
from kdkit.models.continuations import choose_prompts, continue_prompts
from kdkit.models.loading import load_causal_lm
from kdkit.models.reading import Reader
from kdkit.models.writer import model_writer
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.probe import write_continuations
from kdkit.training.ends import measure_ends
from kdkit.training.score import Score
from kdkit.training.scoring import sum_tokens

Models = dict[str, tuple[PreTrainedModel | Reader, Side]]
"""By name, with whose tokens each one reads; a teacher that gives predictions only is a reader."""


def evaluate_run(session: Session[Config], data: PreparedData, teacher: TextTeacher) -> dict[str, Any]:
    """Measure every model of a run and write `evaluation.json`, and what its figures add up from: `scores.json`.

    Returns:
        `models` (per model: language, cost, `not_comparable`: why its bits per byte are of another text, or None,
        and `document_ends`: see `measure_ends`), `retention` (see `sum_up` and `measure_attention`), `compression`
        (teacher to student), `gap_closed` (None without a gap, or if a tokenizer changes the text), `gap` (baseline -
        teacher) and `differences` (baseline - student), all with their intervals (`evaluated` says over what),
        `late_gain`, `costs` (see `list_costs`), `continuations`, of conversations `answers` (see `score_answers`),
        where asked for `minimal_pairs` (see `evaluate_pairs`), of problems `maths` (see `evaluate_maths`), what
        `measure_run` returns, `diversity` (see `measure_diversity`) and `by_kind` (see `evaluate_kinds`), which has
        all of several teachers: `teacher` is the first one.

    Raises:
        UserError: the run has no trained student or baseline; see also `read_pairs` and `find_sets`.
    """
    whole = session, data
    session, data = view_of(session, data)
    config, hardware = session.config, session.hardware
    windows = data.evaluation.first(config.evaluate.max_sequences)
    students = load_students(session)
    check_rouge(data.is_chat and config.evaluate.num_answers > 0)
    pairs = read_pairs(config.evaluate.minimal_pairs)
    problems = find_sets(session.run.path / "data", config.maths.judging)
    models: Models = {"teacher": (teacher.model if teacher.has_layers else teacher.reader(), "teacher")}
    models |= {name: (model, "student") for name, model in students.items()}
    predictions, scores = _read(session, models, windows)
    levels = {name: score.bits_per_byte for name, score in scores.items()}
    resampled, units = resample_text(scores, config.seed), choose_units(scores, config.seed)
    costs = _costs(session, teacher, models, windows)
    reasons = {name: why_not_comparable(data.manifest["evaluation"], side) for name, (_, side) in models.items()}
    # models of one tokenizer read the same easier text
    is_comparable = data.same_tokenizer or not any(reasons.values())
    ends = _document_ends(session, data, models, windows)
    training = session.run.read_json("training.json")
    sure = measure_levels(predictions, windows, models, resampled, units)
    entries = {n: _entry(scores[n], costs[n], reasons[n], ends[n], training.get(n)) | sure[n] for n in models}
    retention, positions = _retention(session, data, teacher, students, windows, units)
    written = _texts(session, data, teacher, students)
    evaluation = {
        "models": entries,
        "retention": retention,
        "compression": _compression(entries),
        **_gap(levels, resampled, is_comparable),
        "differences": _differences(levels, resampled),
        "late_gain": late_gain(session.run.read_metrics(), training[STUDENT]["steps"]),
        "costs": training.get("costs", []),
        "evaluated": _describe(windows, resampled, hardware.reason, config.data.loss_on if data.is_chat else ""),
        **written | {"continuations": written["continuations"][: config.evaluate.num_prompts]},
        **evaluate_pairs(pairs, models, _tokenizers(data), config.evaluate, hardware.autocast_dtype),
        **evaluate_maths(session, data, teacher, students, problems),
        **measure_run(session.config, data, models, windows, predictions, positions, units, hardware.autocast_dtype),
        "diversity": compare_writing(data, written, config.evaluate),
        "by_kind": evaluate_kinds(*whole, scores),
    }
    session.run.write_json("evaluation.json", evaluation)
    write_scores(session.run, scores)
    return evaluation


def _read(
    session: Session[Config], models: Models, windows: Windows
) -> tuple[dict[str, Predictions], dict[str, Score]]:
    """Read the held-out text with every model, once."""
    options = session.config.evaluate.batch_size, session.hardware.autocast_dtype
    found = {name: predict_tokens(model, windows, side, *options) for name, (model, side) in models.items()}
    return found, {name: sum_tokens(found[name].nats, windows, side) for name, (_, side) in models.items()}


def _entry(
    score: Score,
    costs: dict[str, Any],
    not_comparable: str | None,
    ends: dict[str, float],
    training: dict[str, Any] | None,
) -> dict[str, Any]:
    """Put together what is known of one model."""
    return (
        {"perplexity": score.perplexity, "bits_per_byte": score.bits_per_byte}
        | costs
        | {"not_comparable": not_comparable, "document_ends": ends}
        | ({"training": training} if training is not None else {})
    )


def _describe(windows: Windows, resampled: Resampled, hardware: str, loss_on: str) -> dict[str, Any]:
    """Say on what the models were measured."""
    return {
        "windows": len(windows),
        "bytes": int(windows.num_bytes.sum()),
        "hardware": hardware,
        "intervals_over": resampled.over,
        "interval_units": resampled.num_units,
        "bootstrap_samples": BOOTSTRAP_SAMPLES,
    } | ({"loss_on": loss_on} if loss_on else {})


def _gap(levels: dict[str, float], resampled: Resampled, is_comparable: bool) -> dict[str, Any]:
    """Return the gap between baseline and teacher, and the share that the student closed, with their intervals."""
    names = "teacher", STUDENT, BASELINE
    gap = {
        "bits_per_byte": levels[BASELINE] - levels["teacher"],
        "interval_95": resampled.difference(BASELINE, "teacher"),
    }
    if not is_comparable:
        return {"gap_closed": None, "gap_closed_interval_95": None, "gap": gap}
    closed = gap_closed(*(levels[name] for name in names))
    return {"gap_closed": closed, "gap_closed_interval_95": resampled.gap_closed(*names), "gap": gap}


def late_gain(metrics: list[dict[str, Any]], steps: int) -> float | None:
    """Return by how much the student's bits per byte still fell in the last fifth of its steps; None where unknown.

    Args:
        metrics: of a run, on whose lines the learning curve stands.
        steps: of the student's training; a curve that ends elsewhere is another one's.
    """
    key = "evaluation_bits_per_byte"
    curve = [(line["step"], line[key]) for line in metrics if line["phase"] == STUDENT and key in line]
    before = [level for step, level in curve if step <= 0.8 * steps]
    return before[-1] - curve[-1][1] if before and curve[-1][0] == steps else None


def _document_ends(
    session: Session[Config], data: PreparedData, models: Models, windows: Windows
) -> dict[str, dict[str, float]]:
    """Measure what every model pays at the ends of documents; see `measure_ends`."""
    tokenizers = _tokenizers(data)
    options = session.config.evaluate.batch_size, session.hardware.autocast_dtype
    return {
        name: measure_ends(model, windows, side, tokenizers[side], *options) for name, (model, side) in models.items()
    }


def _tokenizers(data: PreparedData) -> dict[Side, PreTrainedTokenizerFast]:
    """Return the tokenizers by whose tokens they are."""
    return {"teacher": data.teacher_tokenizer, "student": data.student_tokenizer}


def load_students(session: Session[Config]) -> dict[str, PreTrainedModel]:
    """Load the student and the baselines that the run has.

    Raises:
        UserError: notebook 03 has not finished.
    """
    run = session.run
    wants_equal_time = session.config.distill.equal_time_baseline
    names = [STUDENT, BASELINE] + [EQUAL_TIME] * wants_equal_time
    # not every teacher's answers can be used again
    names += [ANSWERS_REUSED] * (wants_equal_time and (run.path / ANSWERS_REUSED).is_dir())
    for name in names:
        if not (run.path / name).is_dir():
            raise UserError(
                f"run {run.name!r}: expected a trained {name} in {run.path}, got none; run notebook 03 first: "
                f"{run.command} --only 03"
            )
    return {
        name: load_causal_lm(str(run.path / name), "student.path", device=session.hardware.device).requires_grad_(False)
        for name in names
    }


def _retention(
    session: Session[Config],
    data: PreparedData,
    teacher: TextTeacher,
    students: dict[str, PreTrainedModel],
    windows: Windows,
    units: Units,
) -> tuple[dict[str, dict[str, Any]], Positions]:
    """Compare the students' predictions and attention with the teacher's."""
    positions = compare_predictions(
        teacher.model if teacher.has_layers else teacher.reader(),
        students,
        data,
        windows,
        batch_size=session.config.evaluate.batch_size,
        top_k=session.config.evaluate.top_k,
        autocast_dtype=session.hardware.autocast_dtype,
    )
    few = windows.first(ATTENTION_WINDOWS)
    pairs = plan_layers(session.config, students[STUDENT], teacher) if teacher.has_layers else []
    try:
        attention = measure_attention(teacher.model, students, pairs, few, session.hardware.autocast_dtype)
    except UserError as error:
        # not every architecture shows attention, and a GGUF file shows none; all else can be measured
        print(f"attention is not compared: {error}")
        attention = {name: {"attention_similarity": None} for name in students}
    kept, intervals = sum_up(positions), retention_intervals(positions, windows, units)
    layers = {"attention_windows": len(few), "attention_layers": len(pairs)}
    return {name: kept[name] | intervals[name] | attention[name] | layers for name in kept}, positions


def _costs(
    session: Session[Config], teacher: TextTeacher, models: Models, windows: Windows
) -> dict[str, dict[str, Any]]:
    """Measure what every model costs to keep and to run."""
    batch_size, dtype = session.config.evaluate.batch_size, session.hardware.autocast_dtype
    few = windows.first(4 * batch_size)
    speeds = measure_speeds(models, few, batch_size, dtype)
    costs = {
        name: {
            "architecture": type(model).__name__,
            "parameters": count_parameters(model),
            "size_bytes": count_bytes(model, SIZE_DTYPE),
            "size_dtype": str(SIZE_DTYPE).removeprefix("torch."),
            "loaded_bytes": count_bytes(model),
            "loaded_dtype": str(model.dtype).removeprefix("torch."),
            **speeds[name],
            "peak_memory_bytes": measure_peak_memory(model, few, side, batch_size, dtype),
            "generation": measure_generation(model, few, side, dtype),
        }
        for name, (model, side) in models.items()
        if isinstance(model, PreTrainedModel)
    }
    if not teacher.has_layers:
        costs = {"teacher": measure_costs(teacher, few, batch_size) | speeds["teacher"]} | costs
    return costs


def _compression(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Compare the student's cost with the teacher's: how many times smaller, faster."""
    teacher, student = entries["teacher"], entries[STUDENT]
    by_round = (entry["bytes_per_second_by_round"] for entry in (student, teacher))
    return {
        "parameters": teacher["parameters"] and teacher["parameters"] / student["parameters"],
        "size": teacher["size_bytes"] and teacher["size_bytes"] / student["size_bytes"],
        "size_dtype": student["size_dtype"],
        "speed": student["bytes_per_second"] / teacher["bytes_per_second"],
        "speed_interval_95": compare_speeds(*by_round),
    }


def _differences(levels: dict[str, float], resampled: Resampled) -> dict[str, dict[str, Any]]:
    """Compare every baseline with the student: baseline - student in bits per byte, above 0 = student better.

    `saving` is the share of the baseline's bits that the student saves; `gap_closed` that of the gap to the teacher.
    """
    return {
        name: {
            "bits_per_byte": level - levels[STUDENT],
            "interval_95": resampled.difference(name, STUDENT),
            "saving": 1 - levels[STUDENT] / level,
            "saving_interval_95": resampled.saving(name, STUDENT),
            "gap_closed": gap_closed(levels["teacher"], levels[STUDENT], level),
            "gap_closed_interval_95": resampled.gap_closed("teacher", STUDENT, name),
        }
        for name, level in levels.items()
        if name not in ("teacher", STUDENT)
    }


def _continuations(
    session: Session[Config], data: PreparedData, teacher: TextTeacher, students: dict[str, PreTrainedModel]
) -> list[dict[str, str]]:
    """Generate every model's continuations of the same openings."""
    config, settings = session.config, session.config.evaluate
    count = max(settings.num_prompts, settings.diversity_prompts)
    prompts = choose_prompts(data.manifest["openings"], count, settings.prompt_length)
    texts = {"teacher": write_continuations(session, data, teacher, prompts)}
    texts |= {
        name: continue_prompts(
            model,
            data.student_tokenizer,
            prompts,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.generation_temperature,
            seed=config.seed,
            autocast_dtype=session.hardware.autocast_dtype,
        )
        for name, model in students.items()
    }
    return [{"prompt": prompt} | {name: texts[name][i] for name in texts} for i, prompt in enumerate(prompts)]


def _texts(
    session: Session[Config], data: PreparedData, teacher: TextTeacher, students: dict[str, PreTrainedModel]
) -> dict[str, Any]:
    """Let every model write: of conversations `answers` to held-out prompts, of other text `continuations`."""
    if not data.is_chat:
        return {"continuations": _continuations(session, data, teacher, students)}
    settings, dtype = session.config.evaluate, session.hardware.autocast_dtype
    conversations = data.prompts("evaluation", settings.num_answers)
    if not conversations:
        return {"continuations": []}
    writers = {"teacher": teacher.writer(autocast_dtype=dtype)}
    for name, model in students.items():
        writers[name] = model_writer(model, data.student_tokenizer, autocast_dtype=dtype)
    answers = score_answers(writers, conversations, data.prompts("train"), settings)
    return {"continuations": [], "answers": answers}
