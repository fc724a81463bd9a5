"""Conversations read to windows for two tokenizers, beside `apply_chat_template(tokenize=True)` of each row.

    KDKIT_TEST_DATA=shared/data python -m benchmarks.read_conversations [--rounds 3] [--clock wall]

Dolly's rows (those that are whole), Qwen 1.5's and SmolLM2's tokenizers, max_length 512 on both sides. kdkit's side
reads the rows as conversations, checks that the templates change no content, tokenizes for both models, aligns and
cuts into windows; every round begins with nothing remembered. The peer only writes and tokenizes, row by row, for both
tokenizers. Both take turns; rates are medians over rounds, and the ratio is that of the same round. Time is processor
time (set TOKENIZERS_PARALLELISM=false), which other work on the machine changes little, or the wall clock's.
"""

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median

from transformers import PreTrainedTokenizerFast

from benchmarks.measure import versions, write_results
from kdkit.alignment.templates import ChatTemplate
from kdkit.alignment.tokenizers import load_tokenizer, set_turn_end
from kdkit.data.chat.packer import ChatPacker
from kdkit.data.chat.sides import Side
from kdkit.data.conversations import find_layout, read_conversation
from kdkit.data.pair import pair_vocabularies

RESULTS = Path(__file__).parent / "results" / "read_conversations.json"
LENGTH = 512
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
    "are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + "
    "message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template that SmolLM2-Instruct brings; the shared tokenizer is the base model's."""
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}


def load_tokenizers(shared: Path) -> list[PreTrainedTokenizerFast]:
    """Load both tokenizers, each with its template."""
    smollm2, qwen = (load_tokenizer(shared / "tokenizers" / name) for name in ("smollm2", "qwen1.5"))
    smollm2.chat_template = SMOLLM2
    return [smollm2, qwen]


def make_packer(tokenizers: list[PreTrainedTokenizerFast]) -> ChatPacker:
    """Prepare reading, which is not measured: it depends on the models alone."""
    templates = [ChatTemplate(tokenizer) for tokenizer in tokenizers]
    for tokenizer, template in zip(tokenizers, templates, strict=True):
        set_turn_end(tokenizer, template.end_id)
    student, teacher = (Side(*each, LENGTH) for each in zip(tokenizers, templates, strict=True))
    return ChatPacker(student, [teacher], [pair_vocabularies(*tokenizers)])


def read(rows: list[dict[str, str]], packer: ChatPacker) -> int:
    """Read rows to windows; return how many windows there are."""
    layout = find_layout(rows[0])
    assert layout is not None
    conversations = (read_conversation(row, layout, "row").to_json() for row in rows)
    return sum(len(fitted) for _, fitted in packer.pack(conversations))


def apply_templates(rows: list[dict[str, str]], tokenizers: list[PreTrainedTokenizerFast]) -> int:
    """Write and tokenize row by row; return how many rows there are."""
    for row in rows:
        asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]
        for tokenizer in tokenizers:
            tokenizer.apply_chat_template(messages, tokenize=True)
    return len(rows)


def main() -> None:
    """Measure both in turn and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="processor")
    arguments = parser.parse_args()
    clock = CLOCKS[arguments.clock]
    shared = Path(os.environ["KDKIT_TEST_DATA"])
    lines = (shared / "instruction" / "dolly_train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if not row["input_truncated"]]
    rates: dict[str, list[float]] = {"kdkit": [], "apply_chat_template": []}
    for _ in range(arguments.rounds):
        tokenizers = load_tokenizers(shared)
        packer = make_packer(tokenizers)
        for name, run in (
            ("kdkit", lambda packer=packer: read(rows, packer)),
            ("apply_chat_template", lambda tokenizers=tokenizers: apply_templates(rows, tokenizers)),
        ):
            start = clock()
            count = run()
            rates[name].append(count / (clock() - start))
            assert count == len(rows)
    ratios = [ours / peers for ours, peers in zip(*rates.values(), strict=True)]
    row = {
        "name": "Dolly, Qwen 1.5 and SmolLM2",
        "rows": len(rows),
        "clock": arguments.clock,
        "rows/s": round(median(rates["kdkit"])),
        "rows/s, rounds": [round(rate) for rate in rates["kdkit"]],
        "apply_chat_template, rows/s": round(median(rates["apply_chat_template"])),
        "times the peer": round(median(ratios), 2),
        "times the peer, rounds": [round(ratio, 2) for ratio in ratios],
        "versions": versions(),
    }
    write_results(RESULTS, [row])


if __name__ == "__main__":
    main()
