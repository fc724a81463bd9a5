"""How much faster SmolLM-135M runs than Huihui-MoE-1B-A0.6B, in their real shapes with random weights, on a CPU.

    python -m benchmarks.real_speed [--rounds 5]

The first source document says "~5-6x faster" and names no measurement. Here both read the same number of tokens (a
prompt at once), then write tokens one by one with their key-value cache, in turns, one thread, processor seconds, fp32.
A ratio is the median over the rounds of ratios within a round. Tokens of the two are not the same text: given
`KDKIT_TEST_DATA` (`tokenizers/smollm2`, `tokenizers/qwen1.5`) a row also has the ratio in bytes.
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.measure import write_results
from kdkit.planning import shapes

RESULTS = Path(__file__).parent / "results" / "real_speed.json"
PAIR = {
    "teacher": ("huihui-ai/Huihui-MoE-1B-A0.6B", "qwen1.5"),
    "student": ("HuggingFaceTB/SmolLM-135M", "smollm2"),
}
CLAIM = (5.0, 6.0)


def make(name: str) -> PreTrainedModel:
    """Build a model in its published shapes (`kdkit/planning/shapes.yaml`) with random weights."""
    published = yaml.safe_load(Path(shapes.__file__).with_name(shapes.KNOWN).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**published[name])).eval()


@torch.no_grad()
def take_turn(model: PreTrainedModel, prompt: int, new: int) -> dict[str, float]:
    """Return processor seconds of reading a prompt (its last token predicts), and of writing tokens after it."""
    ids = torch.randint(0, 40_000, (1, prompt), generator=torch.Generator().manual_seed(0))
    start = time.process_time()
    found = model(ids, use_cache=True, logits_to_keep=1)
    read = time.process_time()
    for _ in range(new):
        ids = found.logits[:, -1:].argmax(-1)
        found = model(ids, past_key_values=found.past_key_values, use_cache=True)
    return {"read": read - start, "write": time.process_time() - read}


def bytes_per_token() -> dict[str, float]:
    """Return how many bytes of English a token of each holds; nothing without the tokenizers."""
    if "KDKIT_TEST_DATA" not in os.environ:
        return {}
    source = Path(os.environ["KDKIT_TEST_DATA"])
    text = (source / "lm" / "tinyshakespeare.txt").read_text(encoding="utf-8")[:200_000]
    read = {side: AutoTokenizer.from_pretrained(source / "tokenizers" / name) for side, (_, name) in PAIR.items()}
    return {side: len(text.encode()) / len(tokenizer(text)["input_ids"]) for side, tokenizer in read.items()}


def compare(rounds: int, prompt: int, new: int) -> list[dict[str, Any]]:
    """Let both take turns; return a row for reading and one for writing."""
    models = {side: make(name) for side, (name, _) in PAIR.items()}
    turns = [{side: take_turn(model, prompt, new) for side, model in models.items()} for _ in range(rounds + 1)][1:]
    sizes, rows = bytes_per_token(), []
    for work, tokens in (("read", prompt), ("write", new)):
        ratios = [turn["teacher"][work] / turn["student"][work] for turn in turns]
        row = {"work": work, "tokens": tokens, "times as fast": statistics.median(ratios)}
        row |= {"from": min(ratios), "to": max(ratios), "claim": CLAIM}
        for side in models:
            row[f"{side} tokens/s"] = tokens / statistics.median(turn[side][work] for turn in turns)
        if sizes:
            row |= {f"{side} bytes/token": size for side, size in sizes.items()}
            row["times as fast, in bytes"] = row["times as fast"] * sizes["student"] / sizes["teacher"]
        rows.append(row)
    return rows


def main() -> None:
    """Measure, print beside the claim, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="and one that is not counted")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--new", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = compare(arguments.rounds, arguments.prompt, arguments.new)
    for row in rows:
        print(
            f"{row['work']} {row['tokens']} tokens: {row['times as fast']:.1f} times as fast "
            f"({row['from']:.1f} to {row['to']:.1f}); the source document says {CLAIM[0]:.0f} to {CLAIM[1]:.0f}"
        )
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
