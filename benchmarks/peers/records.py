"""Records of a teacher's answers: kdkit's cache and DistillKit's own `LogprobCompressor`; prints one line of JSON.

    python -m benchmarks.peers.records KIND [--distillkit FOLDER]

1,024 positions over 49,152 tokens, made up: a prior that falls with the id, as ids of byte-pair tokens do, plus noise
of 2.5 nats; the student is the teacher with noise of 1 nat. From log-probabilities in memory to a file, and back, 128
positions a record. Bytes are those of the file a position; DistillKit's is numpy's, without a container. Errors are
those of benchmarks/cache_table.py. DistillKit fits its curve in the precision of what it is given: fp32, as its capture
script gives, or `float64`. `roundtrip` compares its records with benchmarks/peers/distillkit_records.py, our own words.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cache_table import errors
from benchmarks.measure import measure, print_row, row
from benchmarks.peers.distillkit_records import SETTINGS, roundtrip
from kdkit.runs.records import Field
from kdkit.runs.store import open_store
from kdkit.runs.store_build import build_store
from kdkit.teachers.cache import CachedSignals, encode_kept
from kdkit.teachers.cache_build import largest

POSITIONS, VOCABULARY, LENGTH = 1024, 49_152, 128
KINDS = {
    "kdkit, k = 64": 64,
    "kdkit, k = 128": 128,
    "DistillKit budget, k = 50": ("budget", torch.float32),
    "DistillKit recommended, k = 128": ("recommended", torch.float32),
    "DistillKit recommended, k = 128, float64": ("recommended", torch.float64),
}
Kept = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Ids, log-probabilities and the log of what is left."""
Codec = tuple[Callable[[Path], None], Callable[[Path], Kept]]


def make_answers() -> tuple[torch.Tensor, torch.Tensor]:
    """Make log-probabilities of the teacher and logits of the student, fp32, POSITIONS x VOCABULARY."""
    torch.manual_seed(0)
    prior = -1.2 * torch.log(torch.arange(VOCABULARY) + 10.0)
    teacher = (prior + 2.5 * torch.randn(POSITIONS, VOCABULARY)).log_softmax(-1)
    return teacher, teacher + torch.randn_like(teacher)


def kdkit_codec(teacher: torch.Tensor, k: int) -> Codec:
    """Return how kdkit writes and reads, by the functions of `cache build`."""
    fields = [Field("gaps", "uint16", k), Field("levels", "uint8", k), Field("rest", "float16")]
    keys = [str(number) for number in range(POSITIONS // LENGTH)]

    def make(number: int) -> list[dict[str, np.ndarray]]:
        """Make the record of one sequence."""
        values, ids = largest(teacher[number * LENGTH : (number + 1) * LENGTH], k)
        rest = (1.0 - values.exp().sum(dim=-1)).clamp(min=0.0).log()
        record = encode_kept(ids.numpy(), values.numpy()) | {"rest": rest.clamp(min=-6e4).half().numpy()}
        return [record | {"gaps": record["gaps"].astype("uint16")}]

    def read(file: Path) -> Kept:
        """Read all of them."""
        found = CachedSignals(open_store(file), keys).read(list(range(len(keys))))
        return found["kept_ids"].long(), found["kept_logprobs"], found["kept_rest"]

    return lambda file: build_store(file, {}, fields, [[key] for key in keys], make), read


def distillkit_codec(teacher: torch.Tensor, setting: str, precision: torch.dtype) -> Codec:
    """Return how DistillKit writes and reads, with a setting of its README."""
    from distillkit.compression import DistributionQuantizationConfig, LogprobCompressor

    chosen = SETTINGS[setting]
    terms = ["sqrt" if term == 0.5 else int(term) for term in chosen.terms]
    options = {"polynomial_terms": terms, "residual_bins": [], "delta_encoding": False, "exact_dtype": "bfloat16"}
    compressor = LogprobCompressor(
        DistributionQuantizationConfig(d=VOCABULARY, k=chosen.k, exact_k=chosen.exact, **options)
    )

    def write(file: Path) -> None:
        """Compress sequence by sequence, as its capture script does."""
        parts = [compressor.compress(part[None].to(precision)) for part in teacher.split(LENGTH)]
        joined = [np.concatenate([part[name][0].numpy() for part in parts]) for name in parts[0]]
        np.save(file, np.concatenate(joined, axis=-1))

    def read(file: Path) -> Kept:
        """Read them, and give what is left to the other tokens."""
        packed = torch.from_numpy(np.load(file))
        sizes = [compressor.config.logprob_bits() // 8, packed.shape[-1] - compressor.config.logprob_bits() // 8]
        logprobs, indices = packed.split(sizes, dim=-1)
        parts = {"compressed_logprobs": logprobs, "bytepacked_indices": indices}
        ids, values = compressor.decompress_to_sparse(parts)
        values = values.float()
        mass = values.exp().sum(-1, keepdim=True)
        values = torch.where(mass > 1, values - mass.log(), values)
        return ids, values, (1 - values.exp().sum(-1, keepdim=True)).clamp(min=1e-12).log()

    return write, read


def main() -> None:
    """Measure one kind of record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--distillkit", type=Path)
    arguments = parser.parse_args()
    if arguments.distillkit:
        sys.path.append(str(arguments.distillkit))
    torch.set_num_threads(1)
    (teacher, student), chosen = make_answers(), KINDS[arguments.kind]
    write, read = kdkit_codec(teacher, chosen) if isinstance(chosen, int) else distillkit_codec(teacher, *chosen)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "warm.npy")
        file = Path(folder) / "records.npy"
        with measure() as found:
            write(file)
        size = file.stat().st_size / POSITIONS
        start = time.process_time()
        ids, values, rest = read(file)
        decoding = time.process_time() - start
    figures: dict[str, Any] = {"bytes": round(size, 1), "read_cpu_seconds": round(decoding, 4)}
    figures |= errors(teacher, student, ids, values, rest, "ghost")
    if not isinstance(chosen, int):
        own_values, own_ids, _ = roundtrip(teacher, chosen[0], str(chosen[1]).removeprefix("torch."))
        mass = own_values.exp().sum(-1, keepdim=True)
        own_values = torch.where(mass > 1, own_values - mass.log(), own_values)
        figures["own_words_differ_by"] = (own_values - values).abs().max().item()
        figures["same_ids"] = (own_ids == ids).float().mean().item()
    print_row(row(arguments.kind, found, **figures))


if __name__ == "__main__":
    main()
