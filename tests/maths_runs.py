"""A run whose student has learnt two dozen linear equations by heart, for tests of what judges and uses it."""

from pathlib import Path

from kdkit.config.language import dump_config
from kdkit.data.prepare import PreparedData, prepare_data
from kdkit.distill import train as stage
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.student import make_student
from kdkit.machine.session import Session
from kdkit.maths.files import write_problems
from kdkit.maths.problem import Problem
from kdkit.maths.problems.make import recognise
from tests.tiny import make_config, make_plan, make_run, make_session

NUMBERS = [(a, b, x) for x in range(2, 8) for a, b in ((2, 3), (3, 1), (4, 5), (5, 2))]


def learnt_problems() -> list[Problem]:
    """Return the equations of the run's data; a fifth of them is held out."""
    return [recognise(f"Solve ${a}x + {b} = {a * x + b}$.") for a, b, x in NUMBERS]


def make_maths_run(folder: Path, steps: int = 90) -> tuple[Session, PreparedData]:
    """Train a student on the equations, and leave the baseline untrained."""
    file = write_problems(folder / "learnt.jsonl", learnt_problems())
    student = {"tokenizer": "teacher", "hidden_size": 48, "num_layers": 2, "intermediate_size": 96, "max_length": 128}
    config = make_config(
        folder,
        data={"path": str(file), "max_length": 96, "evaluation_fraction": 0.2},
        teacher={"build": {"vocab_size": 300, "hidden_size": 48, "num_layers": 3, "max_steps": 2, "digits": "apart"}},
        student={"build": student},
        distill={"kd_ratio": 0.0, "equal_time_baseline": False, "overlap_top_k": 0},
        train={"max_steps": steps, "learning_rate": 1e-2, "batch_size": 20, "gradient_accumulation_steps": 1},
        maths={"judging": {"path": str(file), "num_samples": 3, "max_answer_tokens": 60, "verifier": True}},
        evaluate={"num_answers": 0},
        cache_dir=str(folder / "cache"),
    )
    run = make_run(folder, "equations")
    (run.path / "config.yaml").write_text(dump_config(config))
    session = make_session(config, run)
    data = prepare_data(session)
    plan = make_plan(config, run, data)
    stage.distill(plan, open_teacher(plan))
    make_student(config, data).save_pretrained(run.path / "baseline")
    data.student_tokenizer.save_pretrained(run.path / "baseline")
    return session, data
