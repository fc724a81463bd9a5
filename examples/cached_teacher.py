"""A cache of a teacher's predictions: built once, then students train without the teacher in memory."""

import tempfile
from pathlib import Path

from kdkit import open_session
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.train import distill

TINY = [
    "data.subset_size=60",
    "data.max_length=32",
    "teacher.max_length=32",
    "teacher.build.max_steps=2",
    "train.max_steps=4",
    "train.device=cpu",
    "cache.enabled=true",
    "cache.top_k=8",
]

with tempfile.TemporaryDirectory() as folder:
    settings = [*TINY, f"cache_dir={folder}/prepared", f"cache.file={folder}/predictions.h5"]
    session = open_session("configs/smoke.yaml", settings, run_name="cached", runs_dir=f"{folder}/runs")
    data = prepare_data(session)
    plan = plan_training(session, data)
    teacher = open_teacher(plan)  # the file is made here, the teacher let go of
    print(f"{Path(session.config.cache.file).stat().st_size / 1e3:.0f} kB for {len(data.train)} sequences")
    result = distill(plan, teacher)
    print(
        f"{result.steps} steps in {result.seconds:.1f} s; the student is in {Path(session.run.path.name) / 'student'}"
    )
