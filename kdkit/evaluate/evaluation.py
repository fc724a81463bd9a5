"""The evaluation stage: teacher, student and baselines on the same held-out text (notebook 04)."""

from typing import Any

from transformers import PreTrainedModel

from kdkit.config.language import Config
from kdkit.data.batches import Side
from kdkit.data.comparable import why_not_comparable
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import Windows
from kdkit.distill.layer_terms import plan_layers
from kdkit.distill.train import BASELINE, EQUAL_TIME, STUDENT
from kdkit.errors import UserError
from kdkit.evaluate.attention import ATTENTION_WINDOWS, measure_attention
from kdkit.evaluate.compression import count_bytes, count_parameters, measure_peak_memory, measure_speed
from kdkit.evaluate.language import gap_closed, paired_interval
from kdkit.evaluate.retention import measure_retention
from kdkit.machine.session import Session
from kdkit.models.continuations import choose_prompts, continue_prompts
from kdkit.models.loading import load_causal_lm
from kdkit.teachers.prepare import Teacher
from kdkit.training.ends import measure_ends
from kdkit.training.scoring import Score, score_windows


def evaluate_run(session: Session[Config], data: PreparedData, teacher: Teacher) -> dict[str, Any]:
    """Measure every model of a run and write `evaluation.json`.

    Returns:
        `models` (per model: language, cost, `not_comparable`: why its bits per byte are of another text, or None,
        and `document_ends`: see `measure_ends`), `retention` (per student: predictions and attention, see
        `measure_retention` and `measure_attention`), `compression` (teacher to student), `gap_closed` (None
        without a gap, or if a tokenizer changes the text), `differences` (baseline - student with its interval) and
        `continuations`.

    Raises:
        UserError: the run has no trained student or baseline.
    """
    config, hardware = session.config, session.hardware
    windows = data.evaluation.first(config.evaluate.max_sequences)
    students = load_students(session)
    models: dict[str, tuple[PreTrainedModel, Side]] = {"teacher": (teacher.model, "teacher")}
    models |= {name: (model, "student") for name, model in students.items()}
    scores = {
        name: score_windows(model, windows, side, config.evaluate.batch_size, hardware.autocast_dtype)
        for name, (model, side) in models.items()
    }
    costs = {name: _cost(session, model, windows, side) for name, (model, side) in models.items()}
    reasons = {name: why_not_comparable(data.manifest["evaluation"], side) for name, (_, side) in models.items()}
    # models of one tokenizer read the same easier text
    is_comparable = data.same_tokenizer or not any(reasons.values())
    tokenizers = {"teacher": data.teacher_tokenizer, "student": data.student_tokenizer}
    options = config.evaluate.batch_size, hardware.autocast_dtype
    ends = {
        name: measure_ends(model, windows, side, tokenizers[side], *options) for name, (model, side) in models.items()
    }
    training = session.run.read_json("training.json")
    entries = {
        name: {"perplexity": scores[name].perplexity, "bits_per_byte": scores[name].bits_per_byte}
        | costs[name]
        | {"not_comparable": reasons[name], "document_ends": ends[name]}
        | ({"training": training[name]} if name in training else {})
        for name in models
    }
    evaluation = {
        "models": entries,
        "retention": _retention(session, data, teacher, students, windows),
        "compression": _compression(entries),
        "gap_closed": gap_closed(*(scores[name].bits_per_byte for name in ("teacher", STUDENT, BASELINE)))
        if is_comparable
        else None,
        "differences": _differences(scores, config.seed),
        "evaluated": {"windows": len(windows), "bytes": int(windows.num_bytes.sum()), "hardware": hardware.reason},
        "continuations": _continuations(config, data, models),
    }
    session.run.write_json("evaluation.json", evaluation)
    return evaluation


def load_students(session: Session[Config]) -> dict[str, PreTrainedModel]:
    """Load the student and the baselines that the run has.

    Raises:
        UserError: notebook 03 has not finished.
    """
    run = session.run
    names = [STUDENT, BASELINE] + [EQUAL_TIME] * session.config.distill.equal_time_baseline
    for name in names:
        if not (run.path / name).is_dir():
            raise UserError(
                f"run {run.name!r}: expected a trained {name} in {run.path}, got none; run notebook 03 first: "
                f"python -m kdkit run CONFIG --name {run.name} --only 03"
            )
    return {
        name: load_causal_lm(str(run.path / name), "student.path", device=session.hardware.device).requires_grad_(False)
        for name in names
    }


def _retention(
    session: Session[Config],
    data: PreparedData,
    teacher: Teacher,
    students: dict[str, PreTrainedModel],
    windows: Windows,
) -> dict[str, dict[str, Any]]:
    """Compare the students' predictions and attention with the teacher's."""
    kept = measure_retention(
        teacher.model,
        students,
        data,
        windows,
        batch_size=session.config.evaluate.batch_size,
        top_k=session.config.evaluate.top_k,
        autocast_dtype=session.hardware.autocast_dtype,
    )
    pairs, few = plan_layers(session.config, students[STUDENT], teacher), windows.first(ATTENTION_WINDOWS)
    try:
        attention = measure_attention(teacher.model, students, pairs, few, session.hardware.autocast_dtype)
    except UserError as error:
        # not every architecture has attention; all else can be measured
        print(f"attention is not compared: {error}")
        attention = dict.fromkeys(students)
    return {
        name: values
        | {"attention_similarity": attention[name], "attention_windows": len(few), "attention_layers": len(pairs)}
        for name, values in kept.items()
    }


def _cost(session: Session[Config], model: PreTrainedModel, windows: Windows, side: Side) -> dict[str, Any]:
    """Measure what a model costs to keep and to run."""
    few = windows.first(4 * session.config.evaluate.batch_size)
    options = (few, side, session.config.evaluate.batch_size, session.hardware.autocast_dtype)
    return {
        "parameters": count_parameters(model),
        "size_bytes": count_bytes(model),
        **measure_speed(model, *options),
        "peak_memory_bytes": measure_peak_memory(model, *options),
    }


def _compression(entries: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Compare the student's cost with the teacher's: how many times smaller, faster."""
    teacher, student = entries["teacher"], entries[STUDENT]
    return {
        "parameters": teacher["parameters"] / student["parameters"],
        "size": teacher["size_bytes"] / student["size_bytes"],
        "speed": student["bytes_per_second"] / teacher["bytes_per_second"],
    }


def _differences(scores: dict[str, Score], seed: int) -> dict[str, dict[str, Any]]:
    """Compare every baseline with the student: baseline - student in bits per byte, above 0 = student better."""
    return {
        name: {
            "bits_per_byte": score.bits_per_byte - scores[STUDENT].bits_per_byte,
            "interval_95": paired_interval(score, scores[STUDENT], seed),
        }
        for name, score in scores.items()
        if name not in ("teacher", STUDENT)
    }


def _continuations(
    config: Config, data: PreparedData, models: dict[str, tuple[PreTrainedModel, Side]]
) -> list[dict[str, str]]:
    """Generate every model's continuations of the same openings."""
    settings = config.evaluate
    prompts = choose_prompts(data.manifest["openings"], settings.num_prompts, settings.prompt_length)
    tokenizers = {"teacher": data.teacher_tokenizer, "student": data.student_tokenizer}
    texts = {
        name: continue_prompts(
            model,
            tokenizers[side],
            prompts,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.generation_temperature,
            seed=config.seed,
        )
        for name, (model, side) in models.items()
    }
    return [{"prompt": prompt} | {name: texts[name][i] for name in models} for i, prompt in enumerate(prompts)]
