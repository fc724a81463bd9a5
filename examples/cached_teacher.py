"""A cache of a teacher's predictions: built once, then students train without the teacher in memory."""

import tempfile
from pathlib import Path

from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.train import distill
from kdkit.machine.hardware import find_hardware
from kdkit.runs.session import open_session

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
    config, run = open_session("configs/smoke.yaml", settings, run_name="cached", runs_dir=f"{folder}/runs")
    hardware = find_hardware(config.train.device, config.train.precision)
    data = prepare_data(config, run)
    teacher = open_teacher(config, run, data, hardware)  # the file is made here, the teacher let go of
    print(f"{Path(config.cache.file).stat().st_size / 1e3:.0f} kB for {len(data.train)} sequences")
    result = distill(config, run, data, teacher, hardware)
    print(f"{result.steps} steps in {result.seconds:.1f} s; the student is in {Path(run.path.name) / 'student'}")
