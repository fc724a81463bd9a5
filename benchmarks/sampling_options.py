"""What each sampling option does to the texts of a small model: how likely, how varied, how repetitive they are.

    python -m benchmarks.sampling_options runs/ensemble/student "The module" "A list" "If the"

For each setting 32 texts of 64 tokens after every prompt: the mean log-probability of their tokens under the model
itself at temperature 1, distinct tokens in a hundred, and the share of their 4-grams of tokens that stand earlier in
the same text.
"""

import sys
from pathlib import Path

import torch

from benchmarks.measure import write_results
from kdkit.alignment.tokenizers import load_tokenizer, start_token_id
from kdkit.models.generation import Sampling, generate_ids
from kdkit.models.loading import load_causal_lm

RESULTS = Path(__file__).parent / "results" / "sampling_options.json"
LENGTH, SAMPLES, GRAM = 64, 32, 4
OPTIONS = {
    "as it is": {},
    "temperature 0": {"temperature": 0.0},
    "temperature 0, repetition penalty 1.2": {"temperature": 0.0, "repetition_penalty": 1.2},
    "temperature 0.7": {"temperature": 0.7},
    "temperature 1.3": {"temperature": 1.3},
    "top-k 20": {"top_k": 20},
    "top-p 0.9": {"top_p": 0.9},
    "min-p 0.1": {"min_p": 0.1},
    "repetition penalty 1.2": {"repetition_penalty": 1.2},
}


@torch.no_grad()
def mean_logprob(model: torch.nn.Module, prompt: list[int], ids: list[int]) -> float:
    """Return the mean log-probability of what follows a prompt, in nats."""
    logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).mean())


def repeated(ids: list[int]) -> float:
    """Return the share of 4-grams that stand earlier in a text."""
    grams = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams)


def main() -> None:
    """Write with every setting and print the table."""
    folder, *texts = sys.argv[1:]
    model, tokenizer = load_causal_lm(folder, "MODEL").eval(), load_tokenizer(folder, "MODEL")
    prompts = [[start_token_id(tokenizer), *tokenizer(text, add_special_tokens=False).input_ids] for text in texts]
    rows = []
    for name, options in OPTIONS.items():
        sampling = Sampling(max_new_tokens=LENGTH, **options)
        count = 1 if sampling.temperature == 0.0 else SAMPLES
        written = generate_ids(model, prompts, sampling, [], vocab_size=len(tokenizer), num_samples=count)
        pairs = [(prompt, each.ids) for prompt, samples in zip(prompts, written, strict=True) for each in samples]
        figures = {
            "log-probability": sum(mean_logprob(model, *pair) for pair in pairs) / len(pairs),
            "distinct tokens in a hundred": 100 * sum(len(set(ids)) / len(ids) for _, ids in pairs) / len(pairs),
            "repeated 4-grams": sum(repeated(ids) for _, ids in pairs) / len(pairs),
        }
        rows.append({"setting": name} | {key: round(value, 3) for key, value in figures.items()})
    write_results(RESULTS, rows)


if __name__ == "__main__":
    main()
