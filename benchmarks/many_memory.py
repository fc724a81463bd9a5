"""Peak memory of a training with several teachers, beside one with each of them alone: every run in its own process.

The teachers' answers are asked beforehand (`cache.enabled`), one teacher in memory at a time, so a committee needs no
more memory than its largest member. Teachers are untrained models of a given size: memory does not ask what they know.

    python -m benchmarks.many_memory
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import measure, versions
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.config.language import DataConfig, load_config
from kdkit.data.corpora import load_corpus
from kdkit.data.prepare import prepare_data
from kdkit.distill.open_teacher import open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.train import distill
from kdkit.machine.hardware import find_hardware
from kdkit.machine.session import Session
from kdkit.runs.folder import Run

SIZES = {"large": (768, 10), "middle": (704, 9), "small": (640, 8)}
"""Width and layers of the teachers."""


def make_teacher(folder: Path, width: int, layers: int, vocab_size: int, cache: Path) -> None:
    """Save an untrained teacher with a tokenizer of its own."""
    if folder.is_dir():
        return
    texts = list(load_corpus(DataConfig(subset_size=100), cache).documents)
    tokenizer = train_tokenizer(texts, vocab_size)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=8,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_once(folder: Path, only: str, cached: bool) -> dict[str, Any]:
    """Open the teachers and train a student for a few steps, measured."""
    members = [{"name": name, "path": str(folder / name)} for name in SIZES]
    settings = [
        f"teachers.members={json.dumps(members)}",
        f"cache.enabled={str(cached).lower()}",
        "teachers.combine=sum",
    ]
    settings += [f"teachers.only={only}"] if only else []
    settings += ["data.sources={}", "data.subset_size=100", "train.max_steps=4", "evaluate.curve_sequences=8"]
    config = load_config("configs/many_teachers.yaml", settings)
    with tempfile.TemporaryDirectory() as place:
        run = Run(Path(place), folder / f"cache-{only or 'all'}")
        session = Session(config, run, find_hardware("cpu"))
        data = prepare_data(session)
        plan = plan_training(session, data)
        with measure() as found:
            distill(plan, open_teacher(plan))
    return {"only": only or "all", "cached": cached, "peak_mb": round(found.peak_mb, 1), "peak_by": found.peak_by}


def main() -> None:
    """Run each training in a process of its own and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="", help="of the teachers and caches; empty: a temporary one")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    parser.add_argument("--out", default="")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(train_once(Path(arguments.folder), arguments.one.removeprefix("all"), True)), flush=True)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(arguments.folder or place)
        for number, (name, (width, layers)) in enumerate(SIZES.items()):
            make_teacher(folder / name, width, layers, 1024 + 256 * number, folder / "corpus")
        rows = []
        for only in ("all", *SIZES):
            command = [sys.executable, "-m", "benchmarks.many_memory", "--folder", str(folder), "--one", only]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
            rows.append(json.loads(lines[-1]))
            print(rows[-1], flush=True)
    largest = max(row["peak_mb"] for row in rows if row["only"] != "all")
    ratio = next(row["peak_mb"] for row in rows if row["only"] == "all") / largest
    print(f"all teachers: {ratio:.3f} x the largest single-teacher run")
    if arguments.out:
        command = [Path(word).name for word in sys.argv]
        results = {"command": command, "versions": versions(), "rows": rows, "ratio": ratio}
        Path(arguments.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
