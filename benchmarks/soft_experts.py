"""Seconds of a teacher's forward pass: its own top 2 of 8 experts, and all 8 weighed by the gates.

    OMP_NUM_THREADS=2 python -m benchmarks.soft_experts [--rounds 15]

Random Qwen3-MoE teachers, saved and loaded as a run loads its teacher; no gradients; logits included. The kinds of
pass take turns, so that what else the machine does hits all of them; medians count. Per token, all experts cost four
times the products of the top 2; how much of a pass that is decides what can be reached (column `products`).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM, set_seed

from benchmarks.measure import versions, write_results
from kdkit.models.experts import Experts, all_experts
from kdkit.models.loading import load_causal_lm, no_bar

RESULTS = Path(__file__).parent / "results" / "soft_experts.json"
VOCABULARY, LENGTH = 2048, 128
SHAPES = {
    "demo": {"hidden_size": 128, "moe_intermediate_size": 192, "num_hidden_layers": 2, "batch": 16},
    "larger": {"hidden_size": 512, "moe_intermediate_size": 512, "num_hidden_layers": 8, "batch": 4},
}


def make_teacher(hidden_size: int, moe_intermediate_size: int, num_hidden_layers: int) -> PreTrainedModel:
    """Make a teacher of 8 experts with random weights and load it from a folder, as a run does."""
    set_seed(0)
    architecture = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        moe_intermediate_size=moe_intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        num_experts=8,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=LENGTH,
    )
    with tempfile.TemporaryDirectory() as folder, no_bar():
        Qwen3MoeForCausalLM(architecture).save_pretrained(folder)
        return load_causal_lm(folder, "teacher.path")


def products_ratio(model: PreTrainedModel) -> float:
    """Return the multiplications of a pass with all experts over those of the stock pass; attention maps left out."""
    one_expert = 3 * model.config.hidden_size * model.config.moe_intermediate_size * model.config.num_hidden_layers
    embedding = model.get_input_embeddings().weight.numel()
    rest = model.num_parameters() - 8 * one_expert - embedding
    return (8 * one_expert + rest) / (2 * one_expert + rest)


@torch.no_grad()
def time_passes(model: PreTrainedModel, batch: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds and processor seconds of every pass, the kinds in turn; the first of each is dropped."""
    experts = Experts(model)
    input_ids = torch.randint(VOCABULARY, (batch, LENGTH), generator=torch.Generator().manual_seed(0))
    kinds: dict[str, Callable[[], Any]] = {
        "stock": nullcontext,
        "routed as stock": lambda: experts.routed(lambda layer, _, logits: experts.stock(layer, logits)),
        "all experts": lambda: experts.routed(lambda _, __, logits: all_experts(logits)),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds + 1):
        for name, context in kinds.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            with context():
                model(input_ids=input_ids, use_cache=False)
            times[name].append((time.perf_counter() - start, time.process_time() - start_cpu))
    return {name: values[1:] for name, values in times.items()}


def main() -> None:
    """Time both shapes and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    for shape, values in SHAPES.items():
        batch, model = values["batch"], make_teacher(**{key: value for key, value in values.items() if key != "batch"})
        times = time_passes(model, batch, arguments.rounds)
        passes = {name: list(zip(*pairs, strict=True)) for name, pairs in times.items()}
        base, base_cpu = (statistics.median(values) for values in passes["stock"])
        products = {"stock": 1.0, "routed as stock": 1.0, "all experts": products_ratio(model)}
        rows += [
            {
                "name": f"{shape}, {kind}",
                "seconds": statistics.median(seconds),
                "quartiles": [round(value, 4) for value in statistics.quantiles(seconds, n=4)[::2]],
                "/ stock": statistics.median(seconds) / base,
                "cpu / stock": statistics.median(cpu_seconds) / base_cpu,
                "products": products[kind],
                "tokens": batch * LENGTH,
                "experts_implementation": model.config._experts_implementation,
                "versions": versions(),
            }
            for kind, (seconds, cpu_seconds) in passes.items()
        ]
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
