"""Settings that every training has, whatever is trained."""

from typing import Annotated, Literal

from pydantic import Field

from kdkit.settings import Count, Number, Positive, Section


class OptimizationConfig(Section):
    """Device, precision, optimizer, schedule and logging of a training."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU that works, else the CPU."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """`auto` decides by the device; the reason is printed."""
    per_device_train_batch_size: Count = 4
    """Sequences in a micro-batch. Alias: `batch_size`."""
    gradient_accumulation_steps: Count = 8
    """Micro-batches in an optimizer step."""
    learning_rate: Positive = 5.0e-5
    """Peak learning rate of AdamW, reached after the warm-up, then cosine to 0."""
    weight_decay: Annotated[Number, Field(ge=0.0)] = 0.01
    """AdamW weight decay; none on biases and norms."""
    warmup_steps: Annotated[int, Field(ge=0)] = 20
    """Optimizer steps of linear warm-up."""
    num_train_epochs: Positive = 3.0
    """Passes over the training sequences; `max_steps` overrides it. Alias: `num_epochs`."""
    max_steps: Count | None = None
    """Optimizer steps; null: by `num_train_epochs`."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm after unscaling."""
    log_every: Count = 20
    """Optimizer steps between lines of metrics.jsonl and progress lines."""
    save_every: Count = 500
    """Optimizer steps between checkpoints; the last one is kept."""
    wandb: Literal["disabled", "offline", "online"] = "disabled"
    """Also log to Weights & Biases; metrics.jsonl is written in any case."""
    wandb_project: str = "kdkit"
    """Project that Weights & Biases files the run under."""
