"""TRL's answer-only loss: batches of its `SFTTrainer` on conversations, and the loss and gradient norm on each."""

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer


def answer_only_losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    conversations: list[list[dict[str, str]]],
    batch_size: int,
    max_length: int,
    folder: Path,
) -> Iterator[dict[str, float]]:
    """Yield `loss`, `gradient_norm` and `tokens` in the loss of each batch, in the order of the conversations."""
    rows = [{"prompt": messages[:-1], "completion": messages[-1:]} for messages in conversations]
    settings = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        completion_only_loss=True,
        max_length=max_length,
        packing=False,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        use_cpu=True,
        shuffle_dataset=False,
    )
    trainer = SFTTrainer(model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    dataset = trainer.train_dataset
    for start in range(0, len(rows), batch_size):
        inputs = trainer.data_collator([dataset[i] for i in range(start, min(start + batch_size, len(rows)))])
        model.zero_grad()
        loss = trainer.compute_loss(model, dict(inputs))
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        counted = int((inputs["labels"][:, 1:] != -100).sum())
        yield {"loss": loss.item(), "gradient_norm": norm.item(), "tokens": counted}
