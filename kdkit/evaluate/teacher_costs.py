"""What a teacher costs that gives predictions only: a GGUF file, or one of the user's own."""

from typing import Any

import torch

from kdkit.data.windows import Windows
from kdkit.errors import UserError
from kdkit.evaluate.compression import SIZE_DTYPE, measure_peak_memory, time_writing
from kdkit.models.generation import Sampling
from kdkit.teachers.interface import TextTeacher
from kdkit.training.scoring import iterate_batches


def measure_costs(teacher: TextTeacher, windows: Windows, batch_size: int) -> dict[str, Any]:
    """Return what `evaluation.json` holds of a model's cost, but its speed of reading; None for what is not known."""
    return {
        "architecture": teacher.name,
        "parameters": teacher.parameters,
        "size_bytes": teacher.parameters and teacher.parameters * SIZE_DTYPE.itemsize,
        "size_dtype": str(SIZE_DTYPE).removeprefix("torch."),
        "loaded_bytes": teacher.num_bytes,
        "loaded_dtype": teacher.weight_type,
        "peak_memory_bytes": measure_peak_memory(
            teacher.reader(), windows, "teacher", batch_size, weight_bytes=teacher.num_bytes
        ),
        "generation": _measure_writing(teacher, windows),
    }


def _measure_writing(teacher: TextTeacher, windows: Windows) -> dict[str, float | None]:
    """Time how a teacher goes on with a window; see `measure_generation`."""
    ids = next(iter(iterate_batches(windows, "teacher", 1)))["input_ids"]

    def write(prompt: torch.Tensor, count: int) -> None:
        teacher.generate(prompt.tolist(), Sampling(temperature=0.0, max_new_tokens=count), [])

    try:
        return time_writing(write, ids, windows, "teacher", teacher.device, teacher.num_bytes)
    except UserError:  # it writes no text
        return dict.fromkeys(("tokens_per_second", "bytes_per_second", "peak_memory_bytes"))
