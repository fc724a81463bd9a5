"""A small embedding student, a teacher that is a table, and sentences, for tests of training."""

from types import SimpleNamespace

import numpy as np
import torch
from transformers import BertConfig, BertModel

from kdkit.config.embeddings import embedding_config_from_values
from kdkit.embeddings.models.embedder import EmbeddingModel
from kdkit.embeddings.models.pooling import Reading
from kdkit.machine.hardware import Hardware
from kdkit.machine.session import Session

WIDTH, TEACHER_WIDTH, VOCABULARY = 16, 24, 60


class TableTeacher:
    """Answers from a table of unit vectors: what a cache does."""

    def __init__(self, count, width=TEACHER_WIDTH):
        vectors = torch.randn(count, width, generator=torch.Generator().manual_seed(1))
        self.vectors = torch.nn.functional.normalize(vectors, dim=-1).numpy()

    def view(self, rows, device):
        """Look rows up."""
        pooled = torch.from_numpy(self.vectors[rows]).to(device)
        return SimpleNamespace(pooled=pooled, token_states=None, attention_mask=None, attentions=None)


def make_data(count=40, seed=0):
    """Make random token ids, 3 to 9 a sentence."""
    draw = np.random.default_rng(seed)
    tokens = [draw.integers(1, VOCABULARY, size=draw.integers(3, 10)) for _ in range(count)]
    return SimpleNamespace(
        rows=np.arange(count), second=None, texts=[str(i) for i in range(count)], student_tokens=tokens, groups=None
    )


def make_embedder(num_layers=3, width=WIDTH, dropout=0.1, seed=0):
    """Make a tiny BERT with mean pooling."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=32,
    )
    reading = Reading(pooling="mean", normalize=True, max_length=32)
    return EmbeddingModel(BertModel(config, add_pooling_layer=False), SimpleNamespace(pad_token_id=0), reading)


def make_config(**values):
    """Make a configuration of a training of 8 steps of 8 sentences."""
    train = {"per_device_train_batch_size": 8, "max_steps": 8, "warmup_steps": 1, "learning_rate": 1e-3}
    values["train"] = train | values.get("train", {})
    return embedding_config_from_values(values)


def cpu(precision="fp32"):
    """Describe a CPU; fp16 is for tests of loss scaling only."""
    return Hardware("cpu", "cpu", precision, "cpu", "a test")


def make_session(config, run, hardware=None):
    """Put together what a stage is given; on a CPU, if nothing else is said."""
    return Session(config, run, hardware or cpu())


WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "mat",
    "grass",
    "red",
    "blue",
    "big",
    "small",
    "and",
    "then",
    "it",
    "was",
    "not",
    "very",
    "quick",
    "slow",
    "house",
    "tree",
]


def save_teacher(folder, *, width=TEACHER_WIDTH, num_layers=4, pooling="mean"):
    """Save a tiny BERT with a word vocabulary as a sentence-transformers folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from kdkit.embeddings.models.export import save_embedding_model

    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, **names)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    reading = Reading(pooling=pooling, normalize=True, max_length=32)
    model = EmbeddingModel(BertModel(config, add_pooling_layer=False), tokenizer, reading).eval()
    return save_embedding_model(model, folder)


def write_sentences(file, count=60, extra=()):
    """Write a CSV of random sentences of the vocabulary, and some more."""
    draw = np.random.default_rng(0)
    rows = [" ".join(draw.choice(WORDS, size=draw.integers(3, 9))) for _ in range(count)]
    file.write_text("text\n" + "".join(f'"{row}"\n' for row in [*rows, *extra]), encoding="utf-8")
    return file
