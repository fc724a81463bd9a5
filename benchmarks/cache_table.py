"""What a cache of the teacher's answers costs in bytes and in truth: k x tail x mode, beside DistillKit's records.

    python -m benchmarks.cache_table [-p SECTION.KEY=VALUE ...] [--student FOLDER]

The demo pair: answers of its teacher on held-out text, compared with its whole rows at the same positions.
`reconstruction` is KL(p || what the record says), the rest spread evenly; `loss error` and `gradient error` compare
forward KL of a student (trained, if a folder is given) with its dense value: nats, and relative L2. `bytes` are those
of the file on disk per position, of DistillKit's records as they are laid out. Also: the builder's time against the
bare teacher's, for the demo's teacher and a random one of real size, and the speed of reading.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmarks.measure import versions, write_results
from benchmarks.peers.distillkit_records import roundtrip
from kdkit.config.language import Config
from kdkit.data.prepare import prepare_data
from kdkit.data.windows import Windows
from kdkit.distill.choose_loss import choose_loss, make_events
from kdkit.distill.student import make_student
from kdkit.losses.chunked.engine import even_chunks
from kdkit.losses.chunked.events import TokenEvents
from kdkit.losses.closed_forms import forward_kl_with_gradient
from kdkit.losses.sparse import renormalise, sparse_forward_kl_, sparse_with_rest_
from kdkit.machine.hardware import find_hardware
from kdkit.machine.open_session import open_session
from kdkit.models.heads import last_hidden_state
from kdkit.runs.store import open_store
from kdkit.runs.store_build import build_store
from kdkit.teachers.cache import CachedSignals, window_keys
from kdkit.teachers.cache_build import SignalMaker
from kdkit.teachers.online import CachedTeacher, OnlineTeacher
from kdkit.teachers.prepare import prepare_teacher
from kdkit.training.scoring import iterate_batches

RESULTS = Path(__file__).parent / "results" / "cache_table.json"
TOP_K = (8, 16, 32, 64, 128)
TAILS = ("ghost", "keep_mass", "renormalise")


def errors(
    teacher: torch.Tensor, student: torch.Tensor, ids: torch.Tensor, kept: torch.Tensor, rest: torch.Tensor, tail: str
) -> dict[str, float]:
    """Compare forward KL from a record with forward KL from whole rows.

    Args:
        teacher: fp32, n v: log-probabilities.
        student: fp32, n v: logits.
        ids: int64, n k.
        kept: fp32, n k: log-probabilities of a record.
        rest: fp32, n 1: log of what is left.
        tail: see `CacheConfig.tail`.
    """
    if tail == "renormalise":
        kept, rest = renormalise(kept)
    got = student.clone()
    values = (
        sparse_with_rest_(got, ids, kept, rest, forward_kl_with_gradient)
        if tail == "ghost"
        else sparse_forward_kl_(got, ids, kept)
    )
    student_logprobs = student.log_softmax(-1)
    expected_values, _ = forward_kl_with_gradient(student_logprobs, teacher)
    expected = student_logprobs.exp() - teacher.exp()
    others = teacher.shape[1] - ids.shape[1]
    rebuilt = (rest - np.log(max(others, 1))).clamp(min=-30.0).expand_as(teacher).clone().scatter_(1, ids, kept)
    return {
        "reconstruction": forward_kl_with_gradient(rebuilt, teacher)[0].mean().item(),
        "loss error": (values - expected_values).abs().mean().item(),
        "gradient error": ((got - expected).norm() / expected.norm()).item(),
    }


def build(
    config: Config, windows: Windows, teacher: OnlineTeacher, events: Any, folder: Path
) -> tuple[CachedSignals, float, float]:
    """Build a cache; return it, its bytes per row and the seconds that the building took."""
    maker = SignalMaker(config, windows, teacher, events.teacher, events.size)
    chunks = maker.chunks()
    path = folder / f"{config.cache.mode}-{config.cache.top_k}-{config.cache.num_samples}.h5"
    start = time.perf_counter()
    build_store(path, {}, maker.fields, chunks, lambda number: maker.make(chunks[number]))
    seconds = time.perf_counter() - start
    store = open_store(path)
    return CachedSignals(store, window_keys(windows)), path.stat().st_size / store.num_rows, seconds


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-p", dest="overrides", action="append", default=[])
    parser.add_argument("--student", default="")
    parser.add_argument("--windows", type=int, default=128)
    arguments = parser.parse_args()
    opened = open_session("configs/demo.yaml", arguments.overrides, "benchmark-cache")
    session, config = replace(opened, hardware=find_hardware("cpu")), opened.config
    data = prepare_data(session)
    model = prepare_teacher(session, data).model
    online = OnlineTeacher(model, data.overlap.teacher_size)
    events = make_events(choose_loss(config, data)[0], data, model.device)
    student = (
        AutoModelForCausalLM.from_pretrained(arguments.student) if arguments.student else make_student(config, data)
    )
    windows = data.evaluation.first(arguments.windows)
    teacher_rows, student_rows = dense_rows(online, student.eval(), windows, events)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for mode, count in [("top_k", k) for k in TOP_K] + [("sampled", n) for n in TOP_K]:
            cache = config.cache.model_copy(update={"mode": mode, "top_k": count, "num_samples": count})
            signals, num_bytes, _ = build(
                config.model_copy(update={"cache": cache}), windows, online, events, Path(folder)
            )
            kept = CachedTeacher(1.0).answer(signals.read(list(range(len(windows)))), model.device)
            for tail in TAILS if mode == "top_k" else ("keep_mass",):
                found = errors(
                    teacher_rows,
                    student_rows,
                    kept.ids.long(),
                    kept.logprobs.clamp(min=-30.0) if mode == "top_k" else kept.logprobs,
                    kept.rest,
                    tail,
                )
                rows.append({"name": f"{mode} {count} {tail if mode == 'top_k' else ''}", "bytes": num_bytes} | found)
    for setting in ("budget", "recommended"):
        values, ids, num_bytes = roundtrip(teacher_rows, setting)
        values, ids = torch.as_tensor(values).float(), torch.as_tensor(ids).long()
        mass = values.exp().sum(-1, keepdim=True)
        values = torch.where(mass > 1, values - mass.log(), values)
        rest = (1 - values.exp().sum(-1, keepdim=True)).clamp(min=1e-12).log()
        rows.append(
            {"name": f"DistillKit {setting}", "bytes": float(num_bytes)}
            | errors(teacher_rows, student_rows, ids, values, rest, "ghost")
        )
    speeds = measure_speeds(config, windows, online, events) | measure_large_builder(config)
    for name, value in speeds.items():
        print(f"{name}: {value:,.3f}")
    write_results(RESULTS, [row | {"versions": versions()} for row in rows] + [{"name": "speeds"} | speeds])


@torch.no_grad()
def dense_rows(online: OnlineTeacher, student: Any, windows: Windows, events: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the teacher's log-probabilities and the student's logits over events at the first row of every span."""
    teacher_parts, student_parts = [], []
    for batch in iterate_batches(windows, "student", 16, with_teacher=True):
        spans = batch["spans"]
        signals = online.answer(batch, online.model.device)
        teacher_parts.append(signals.logprobs(spans.teacher_starts[:-1], events.teacher, 1.0))
        hidden = last_hidden_state(student, batch["input_ids"]).flatten(0, 1)[
            spans.student_rows[spans.student_starts[:-1]]
        ]
        student_parts.append(events.student.push(student.get_output_embeddings()(hidden)))
    return torch.cat(teacher_parts), torch.cat(student_parts)


def measure_speeds(config: Config, windows: Windows, online: OnlineTeacher, events: Any) -> dict[str, float]:
    """Time the builder against the bare teacher, and reading in random order: window by window, and in batches."""
    with tempfile.TemporaryDirectory() as folder:
        ratio, signals = compare_builder(config, windows, online, events, Path(folder), 3)
        order = np.random.default_rng(0).permutation(len(windows)).tolist()
        speeds = {"builder / bare teacher": ratio}
        for name, size in (("", 1), (" in batches", config.train.per_device_train_batch_size)):
            signals.store.close()
            for kind in ("cold", "warm"):
                start = time.perf_counter()
                for rows in even_chunks(len(order), size):
                    signals.read(order[rows])
                seconds = time.perf_counter() - start
                speeds[f"{kind} read{name}, positions per second"] = signals.store.num_rows / seconds
    return speeds


def measure_large_builder(config: Config, num_windows: int = 64) -> dict[str, float]:
    """Time the builder against a bare teacher as large as real ones, with random weights and one tokenizer."""
    size = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 8, "num_attention_heads": 16}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=49_152, **size)).eval()
    ids = np.random.default_rng(0).integers(0, 49_152, (num_windows, 256)).astype(np.int32)
    positions = np.broadcast_to(np.arange(256, dtype=np.int32), ids.shape)
    windows = Windows(ids, ids, positions, np.ones(ids.shape, dtype=bool), np.full(num_windows, 1024))
    events = SimpleNamespace(teacher=TokenEvents(), size=49_152)
    with tempfile.TemporaryDirectory() as folder:
        ratio, _ = compare_builder(config, windows, OnlineTeacher(model, 49_152), events, Path(folder), 2)
    return {"builder / bare teacher, 1024 x 8": ratio}


@torch.no_grad()
def compare_builder(
    config: Config, windows: Windows, online: OnlineTeacher, events: Any, folder: Path, rounds: int
) -> tuple[float, CachedSignals]:
    """Build a cache and run the bare teacher, its logits included, in turn; return the ratio of the best times."""
    bare, built = [], []
    for attempt in range(rounds):
        start = time.perf_counter()
        for batch in iterate_batches(windows, "teacher", config.evaluate.batch_size):
            online.model(input_ids=batch["input_ids"], use_cache=False)
        bare.append(time.perf_counter() - start)
        (folder / str(attempt)).mkdir()
        signals, _, seconds = build(config, windows, online, events, folder / str(attempt))
        built.append(seconds)
    return min(built) / min(bare), signals


if __name__ == "__main__":
    main()
