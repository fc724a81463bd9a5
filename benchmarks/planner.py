"""The planner's peak memory against the measured one, on a CPU: two sizes x dense, chunked, layers, cached, embedding.

    python -m benchmarks.planner [--only small-dense ...] [--folder FOLDER]

dense: a mixture of experts is trained, whose loss makes all logits; chunked: a student learns from a teacher in memory;
layers: from its layers too, with gradient checkpointing; cached: from its cached answers; embedding: an encoder learns
cached sentence vectors. Each is trained for two steps in a process of its own, forked from one that has loaded all
libraries. Measured is the resident memory at its largest (VmHWM) above what it was before the models existed, so Python
and its libraries are in neither number. Every tensor is a mapping of its own (MALLOC_MMAP_THRESHOLD_), which leaves out
what malloc holds of freed ones. Allowed: 15 % apart, at most 5 % below.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import print_table, versions
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.config.language import DataConfig
from kdkit.data.prepare import prepare_data
from kdkit.data.text.corpora import load_corpus
from kdkit.distill.open_teacher import build_cache, open_teacher
from kdkit.distill.plan import plan_training
from kdkit.distill.train import distill, train_baseline
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.methods.base import PairFacts
from kdkit.embeddings.teacher.cache import open_embedding_teacher
from kdkit.embeddings.training.batches import make_order
from kdkit.embeddings.training.student import make_embedding_student
from kdkit.embeddings.training.train import build_method
from kdkit.embeddings.training.trainer import EmbeddingTrainer, plan_embedding_stages
from kdkit.machine.memory import memory_in_use, read_peak, start_peak
from kdkit.machine.open_session import open_embedding_session, open_session
from kdkit.planning.plan import plan_run
from kdkit.teachers.build import build_teacher

RESULTS = Path(__file__).parent / "results" / "planner.json"
CPU = torch.device("cpu")
MB = 1e6
SIZES = {"small": (256, 4, 1024, 1), "large": (512, 6, 2048, 2)}
"""Width, layers and inner width of the trained model, and micro-batches in a step."""
KINDS = ("dense", "chunked", "layers", "cached", "embedding")
LAYERS = [
    "distill.weights.feature=0.1",
    "distill.weights.attention=0.1",
    "distill.weights.layerwise=0.05",
    "distill.weights.contrastive=0.05",
    "train.gradient_checkpointing=true",
]
THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
BASE = "Python and libraries"


def settings_of(size: str, kind: str, folder: Path) -> list[str]:
    """Return the settings of one of the eight configurations."""
    width, layers, inner, accumulation = SIZES[size]
    shared = ["train.device=cpu", "train.precision=fp32", "train.max_steps=2", f"cache_dir={folder / 'cache'}"]
    shared.append(f"train.gradient_accumulation_steps={accumulation}")
    build = [f"hidden_size={width}", f"num_layers={layers}", "num_heads=8"]
    if kind == "embedding":
        more = ["data.max_length=8", "data.subset_size=2000", "method=cosine", "compare=[]", "student.layers=null"]
        more += ["student.path=build", "train.per_device_train_batch_size=256", "evaluate.tasks=[]"]
        return shared + more + [f"student.build.{item}" for item in (*build, f"intermediate_size={inner}")]
    shared += ["data.subset_size=100", "data.max_length=128", "teacher.max_length=128", "evaluate.curve_sequences=4"]
    shared.append("train.per_device_train_batch_size=16")
    if kind == "dense":
        more = [
            "vocab_size=4096",
            "num_experts=4",
            f"moe_intermediate_size={inner // 2}",
            "max_steps=2",
            "batch_size=16",
        ]
        return shared + [f"teacher.build.{item}" for item in (*build, *more)]
    more = [f"teacher.path={folder / 'teacher'}", "student.build.vocab_size=2048", f"cache.enabled={kind == 'cached'}"]
    more += LAYERS if kind == "layers" else []
    return shared + more + [f"student.build.{item}" for item in (*build, f"intermediate_size={inner}")]


def warm_up(folder: Path) -> None:
    """Make one small step, so that all libraries are loaded before anything is measured."""
    settings = ["train.device=cpu", "train.max_steps=1", "train.warmup_steps=0", "evaluate.curve_sequences=1"]
    session = open_session("smoke", [*settings, f"cache_dir={folder / 'cache'}"], "warm-up", folder / "runs")
    train_baseline(plan_training(session, prepare_data(session)))


def make_teacher(folder: Path) -> None:
    """Save an untrained teacher with a tokenizer of its own: memory does not ask what it knows."""
    texts = list(load_corpus(DataConfig(subset_size=100), folder / "corpus").documents)
    tokenizer = train_tokenizer(texts, 4096)
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")


def run_language(size: str, kind: str, folder: Path, prepare: bool) -> dict[str, Any]:
    """Train a language model; with `prepare` only make what it reads."""
    name = f"{size}-{kind}"
    session = open_session("smoke", settings_of(size, kind, folder), name, folder / f"runs-{prepare}")
    data = prepare_data(session)
    if kind == "dense":
        if prepare:
            return {}
        shutil.rmtree(folder / "cache" / "teachers", ignore_errors=True)
        base = _begin()
        build_teacher(session, data)
        return _compare(session.config, base, "teacher is trained here")
    plan = plan_training(session, data)
    if prepare:
        return {"cache": str(build_cache(plan))} if kind == "cached" else {}
    base = _begin()
    distill(plan, open_teacher(plan))
    return _compare(session.config, base, "the student is trained")


def run_embedding(size: str, folder: Path, prepare: bool) -> dict[str, Any]:
    """Train an encoder on cached vectors; with `prepare` only make what it reads."""
    settings = settings_of(size, "embedding", folder)
    session = open_embedding_session("embedding_demo", settings, f"{size}-embedding", folder / f"runs-{prepare}")
    config = session.config
    data = prepare_sentences(session, None)
    teacher, _ = open_embedding_teacher(session, data, tokens=False, attention_layers=[])
    if prepare:
        return {}
    width, layers, *_ = SIZES[size]
    method = build_method(config.method, PairFacts(width, 384, layers, 6))
    base = _begin()
    student = make_embedding_student(config, data)
    order = make_order(data, config.train, config.seed)
    stages = plan_embedding_stages(config, student, method, order)
    trainer = EmbeddingTrainer(config, student, method, data, teacher, session.hardware, order, stages)
    for _ in range(2):
        trainer._enter_stage()
        trainer.train_step()
    return _compare(config, base, "the student is trained by cosine")


def _begin() -> int:
    base = memory_in_use(CPU)
    start_peak(CPU)
    return base


def _compare(config: Any, base: int, phase_name: str) -> dict[str, Any]:
    """Set the planner's sum for a phase, without Python and its libraries, beside what was measured."""
    measured = read_peak(CPU) - base
    phase = next(phase for phase in plan_run(config, "cpu").phases if phase.name == phase_name)
    items = {item.name: round(item.bytes / MB, 1) for item in phase.items if item.counted and item.name != BASE}
    predicted = sum(items.values())
    ratio = predicted / (measured / MB)
    row = {"predicted_mb": round(predicted, 1), "measured_mb": round(measured / MB, 1), "ratio": round(ratio, 3)}
    return row | {"libraries_mb": round(base / MB, 1), "items": items}


def run_one(name: str, folder: Path, prepare: bool) -> dict[str, Any]:
    """Run one configuration in this process."""
    size, kind = name.split("-")
    return run_embedding(size, folder, prepare) if kind == "embedding" else run_language(size, kind, folder, prepare)


def in_a_fork(queue: Any, name: str, folder: Path, prepare: bool) -> None:
    """Run one configuration and put what was found."""
    try:
        queue.put(run_one(name, folder, prepare))
    except Exception:
        queue.put({"failed": traceback.format_exc()})


def call(name: str, folder: Path) -> dict[str, Any]:
    """Run one configuration in a fork of this process, which has loaded the libraries; a cache is filled in another."""
    found: dict[str, Any] = {}
    for prepare in [True] * name.endswith("cached") + [False]:
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=in_a_fork, args=(queue, name, folder, prepare))
        process.start()
        found = queue.get()
        process.join()
        if "failed" in found:
            sys.exit(f"{name} failed:\n{found['failed']}")
    print(name, json.dumps(found), flush=True)
    return found


def main() -> None:
    """Run all configurations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [f"{size}-{kind}" for size in SIZES for kind in KINDS]
    parser.add_argument("--only", nargs="+", default=names, choices=names)
    parser.add_argument("--folder", default="", help="of the teacher and caches; empty: a temporary one")
    arguments = parser.parse_args()
    if THRESHOLD not in os.environ:  # malloc reads it when a process starts
        os.execvpe(
            sys.executable,
            [sys.executable, "-m", "benchmarks.planner", *sys.argv[1:]],
            os.environ | {THRESHOLD: "131072"},
        )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(arguments.folder or place).resolve()
        if not (folder / "teacher").is_dir():
            make_teacher(folder)
        warm_up(folder)
        rows = [{"configuration": name} | call(name, folder) for name in arguments.only]
    print_table([{key: value for key, value in row.items() if key != "items"} for row in rows])
    missed = [row["configuration"] for row in rows if not 0.95 <= row["ratio"] <= 1.15]
    print(f"outside 0.95 to 1.15: {', '.join(missed) or 'none'}")
    if arguments.only == names:
        RESULTS.write_text(json.dumps({"versions": versions(), "rows": rows, "missed": missed}, indent=1) + "\n")


if __name__ == "__main__":
    main()
