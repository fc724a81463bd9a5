"""Models and token sequences of the training-throughput benchmark, the same for every side of it."""

import os
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

VOCABULARY = 49152
BATCH, LENGTH, STEPS, DROPPED_STEPS = 4, 256, 8, 2
LEARNING_RATE = 1e-3


def make_models(seed: int = 0) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
    """Make a random student (4 layers, width 192) and teacher (6 layers, width 384), fp32, untied heads.

    Returns:
        Student and teacher; the teacher in eval mode and without gradients.
    """
    torch.manual_seed(seed)
    student = _llama(hidden_size=192, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512)
    teacher = _llama(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1024)
    return student, teacher.eval().requires_grad_(False)


def _llama(**sizes: int) -> LlamaForCausalLM:
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, dtype="float32", **sizes)
    return LlamaForCausalLM(config)


def load_tokenizer() -> PreTrainedTokenizerBase:
    """Load the SmolLM2 tokenizer from the folder named by KDKIT_TEST_DATA."""
    return AutoTokenizer.from_pretrained(_data_folder() / "tokenizers" / "smollm2")


def make_sequences(count: int = BATCH * STEPS, length: int = LENGTH) -> np.ndarray:
    """Cut sequences of real text, one after the other from the start of Tiny Shakespeare.

    Returns:
        int64, count x length: token ids without special tokens.
    """
    text = (_data_folder() / "lm" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    ids = load_tokenizer()(text, add_special_tokens=False, verbose=False)["input_ids"]
    if count * length > len(ids):
        raise ValueError(f"{count} sequences of {length} tokens are more than the text's {len(ids):,} tokens")
    return np.array(ids[: count * length], dtype=np.int64).reshape(count, length)


def _data_folder() -> Path:
    folder = os.environ.get("KDKIT_TEST_DATA")
    if not folder:
        raise SystemExit("KDKIT_TEST_DATA must name the folder with lm/tinyshakespeare.txt and tokenizers/smollm2")
    return Path(folder)
