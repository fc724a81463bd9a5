"""Answer-only loss against TRL's SFTTrainer (`completion_only_loss`): the same rows, model and batches.

    python -m benchmarks.answer_only_loss [--rows 64]       (needs trl==1.16.0 and KDKIT_TEST_DATA)

Dolly's questions and answers, rendered with a chat template, SmolLM2's tokenizer, a random Llama (96 x 2), fp32, CPU.
Compared are the loss and the norm of its gradient, batch by batch. The template writes nothing behind an answer but
the end of the turn; of ChatML, which writes a line end too, TRL counts that line end, and kdkit does not: a second row.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainingArguments, set_seed

from benchmarks.measure import versions, write_results
from benchmarks.peers.trl_sft import answer_only_losses
from kdkit.alignment.templates import CHATML, ChatTemplate
from kdkit.alignment.tokenizers import load_tokenizer, set_turn_end
from kdkit.data.batches import WindowCollator
from kdkit.data.chat.packer import ChatPacker
from kdkit.data.chat.sides import Side
from kdkit.data.conversations import Conversation, find_layout, read_conversation
from kdkit.data.pair import pair_vocabularies
from kdkit.data.windows import Windows
from kdkit.training.trainer import LanguageModelTrainer

RESULTS = Path(__file__).parent / "results" / "answer_only_loss.json"
BATCH, LENGTH = 8, 512
NO_LINE_END = (
    "{% for message in messages %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|im_start|>assistant\\n' }}{% endif %}"
)


def main() -> None:
    """Compare both on two templates, print the table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    count = parser.parse_args().rows
    folder = Path(os.environ["KDKIT_TEST_DATA"])
    lines = (folder / "instruction" / "dolly_dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    layout = find_layout(rows[0])
    assert layout is not None
    conversations = [read_conversation(row, layout, "row") for row in rows]
    results = []
    for name, template in (("end of turn alone", NO_LINE_END), ("ChatML", CHATML)):
        tokenizer = load_tokenizer(folder / "tokenizers" / "smollm2")
        tokenizer.chat_template = template
        windows, read = pack(tokenizer, conversations, count)
        results.append(compare(name, tokenizer, windows, read) | {"versions": versions()})
    write_results(RESULTS, results)


def pack(
    tokenizer: PreTrainedTokenizerFast, conversations: list[Conversation], count: int
) -> tuple[Windows, list[Conversation]]:
    """Make windows of the first conversations that need not be cut."""
    template = ChatTemplate(tokenizer)
    set_turn_end(tokenizer, template.end_id)
    side = Side(tokenizer, template, LENGTH)
    packer = ChatPacker(side, [side], [pair_vocabularies(tokenizer, tokenizer)])
    ((((windows,), fitted)),) = list(packer.pack([each.to_json() for each in conversations]))[:1]
    kept = [number for number, each in enumerate(fitted) if not each.is_cut][:count]
    return windows.select(np.array(kept)), [Conversation(fitted[number].messages) for number in kept]


def compare(
    name: str, tokenizer: PreTrainedTokenizerFast, windows: Windows, conversations: list[Conversation]
) -> dict[str, Any]:
    """Return the largest differences over all batches; `loss` and `gradient_norm` relative to TRL's."""
    plain = [[{"role": m.role, "content": m.content} for m in each.messages] for each in conversations]
    with tempfile.TemporaryDirectory() as folder:
        theirs = list(answer_only_losses(make_model(tokenizer), tokenizer, plain, BATCH, LENGTH, Path(folder)))
        mine = own_losses(make_model(tokenizer), tokenizer, windows, Path(folder))
    differences = {
        key: max(abs(a[key] - b[key]) / abs(b[key]) for a, b in zip(mine, theirs, strict=True))
        for key in ("loss", "gradient_norm")
    }
    tokens = [sum(int(batch["tokens"]) for batch in side) for side in (mine, theirs)]
    return {
        "template": name,
        "batches": len(mine),
        "kdkit_tokens": tokens[0],
        "trl_tokens": tokens[1],
        "kdkit_loss": mine[0]["loss"],
        "trl_loss": theirs[0]["loss"],
        **{f"{key}_difference": f"{value:.1e}" for key, value in differences.items()},
    }


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make the same random model every time."""
    set_seed(0)
    sizes = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.1, **sizes))


def own_losses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, windows: Windows, folder: Path
) -> list[dict[str, float]]:
    """Compute loss, gradient norm and tokens of each batch with kdkit's trainer."""
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    collate = WindowCollator(windows)
    trainer = LanguageModelTrainer(model, arguments, collate, len(tokenizer))
    found = []
    for start in range(0, len(windows), BATCH):
        inputs = collate(list(range(start, min(start + BATCH, len(windows)))))
        model.zero_grad()
        loss, _ = trainer.compute_step(model, inputs, None)
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        counted = int((inputs["labels"][:, 1:] != -100).sum())
        found.append({"loss": loss.item(), "gradient_norm": norm.item(), "tokens": counted})
    return found


if __name__ == "__main__":
    main()
