"""TRL's SFTTrainer with a kdkit loss: override `compute_loss`, nothing else."""

import tempfile

import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.losses import chunked_distillation_loss

texts = [f"The river carries letter {number} under the old bridge." for number in range(32)]
tokenizer = train_tokenizer(texts, 300)
shape = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
teacher = LlamaForCausalLM(LlamaConfig(hidden_size=64, initializer_range=0.2, **shape)).eval().requires_grad_(False)
student = LlamaForCausalLM(LlamaConfig(hidden_size=32, **shape))


class DistillSFTTrainer(SFTTrainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        learned = model.model(inputs["input_ids"]).last_hidden_state
        with torch.no_grad():
            taught = teacher.model(inputs["input_ids"].to(teacher.device)).last_hidden_state
        return chunked_distillation_loss(
            learned, model.lm_head, taught, teacher.lm_head, inputs["labels"], num_items_in_batch=num_items_in_batch
        )


with tempfile.TemporaryDirectory() as folder:
    options = {"max_steps": 4, "learning_rate": 1e-2, "report_to": [], "use_cpu": True, "fp16": False, "bf16": False}
    arguments = SFTConfig(
        output_dir=folder, per_device_train_batch_size=8, logging_steps=1, save_strategy="no", **options
    )
    data = Dataset.from_dict({"text": texts})
    DistillSFTTrainer(student, args=arguments, train_dataset=data, processing_class=tokenizer).train()
