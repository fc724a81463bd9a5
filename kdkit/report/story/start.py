"""What of the teacher a student was made from, and how good it was before any training."""

from typing import Any

from kdkit.report.tables import Table
from kdkit.report.writing import LOWER
from kdkit.runs.folder import Run


def start_table(run: Run) -> Table:
    """Put the student before its first step beside random weights of its sizes; no rows where it has those itself."""
    training = run.read_json("training.json") if (run.path / "training.json").is_file() else {}
    if (start := training.get("start")) is None:
        return [], []
    rows = [
        [
            f"from the teacher ({start['kind']})",
            f"{start['bits_per_byte']:.3f}",
            f"{start['seconds']:.1f}",
            _kept(start),
        ],
        ["random weights", f"{start['random_bits_per_byte']:.3f}", "", ""],
    ]
    return [
        "student before its first step",
        f"bits per byte {LOWER}",
        "seconds to make it",
        "kept of the teacher",
    ], rows


def _kept(start: dict[str, Any]) -> str:
    """Name the layers that were kept, and how many channels."""
    parts = [f"layers {', '.join(map(str, start['layers']))}"] if "layers" in start else []
    parts += [f"{len(start['channels'])} channels"] if "channels" in start else []
    return "; ".join(parts)
