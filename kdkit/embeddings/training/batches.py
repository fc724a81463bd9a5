"""Batches of sentences: their order, their tokens, and the student's and teacher's outputs for them.

The order of the sentences is decided by seed and epoch alone, so a training that goes on needs only its step number.
"""

import math

import numpy as np
import torch

from kdkit.alignment.characters import NO_GROUP
from kdkit.config.embeddings import EmbeddingTrainConfig
from kdkit.embeddings.data.prepare import SentenceData
from kdkit.embeddings.methods.base import BatchViews, MethodNeeds, SentenceMethod, StudentView
from kdkit.embeddings.models.embedder import EmbeddingModel, batches_by_length, pad_ids
from kdkit.embeddings.teacher.answers import CachedTeacher, LiveTeacher
from kdkit.embeddings.teacher.lists import RankingLists
from kdkit.errors import UserError
from kdkit.training.order import num_processes
from kdkit.training.together import Processes

POOL_BATCHES = 16
"""Batches whose sentences are sorted by length together."""


class Order:
    """The training rows of each micro-batch.

    Sentences of about equal length stand together, so that little is computed for padding: of `POOL_BATCHES` batches'
    worth of shuffled rows, sorted, neighbours make a batch; then the batches are shuffled.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, group_by_length: bool = True):
        """Plan the order.

        Args:
            lengths: tokens of each training row.
            batch_size: rows of a micro-batch.
        """
        self.lengths, self.batch_size, self.seed, self.group_by_length = lengths, batch_size, seed, group_by_length
        self._epoch, self._batches = -1, np.zeros((0, batch_size), np.int64)

    @property
    def batches_per_epoch(self) -> int:
        """Whole micro-batches in a pass over the rows; the rest is left out, other ones in every pass."""
        return len(self.lengths) // self.batch_size

    def num_batches(self, epochs: float) -> int:
        """Return the micro-batches of so many passes; where that is no whole number, the next one."""
        return max(1, math.ceil(self.batches_per_epoch * epochs - 1e-9))

    def rows(self, number: int) -> np.ndarray:
        """Return the rows of a micro-batch, counted from the start of the training."""
        epoch, index = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._draw(epoch)
        return self._batches[index]

    def _draw(self, epoch: int) -> np.ndarray:
        """Draw the micro-batches of a pass."""
        generator = np.random.default_rng([self.seed, epoch])
        rows = generator.permutation(len(self.lengths))[: self.batches_per_epoch * self.batch_size]
        if not self.group_by_length:
            return rows.reshape(-1, self.batch_size)
        pool = POOL_BATCHES * self.batch_size
        pools = [rows[start : start + pool] for start in range(0, len(rows), pool)]
        ordered = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in pools])
        return generator.permutation(ordered.reshape(-1, self.batch_size))


def make_order(data: SentenceData, config: EmbeddingTrainConfig, seed: int) -> Order:
    """Plan the micro-batches of a training, each for all processes together.

    Raises:
        UserError: fewer sentences than one batch.
    """
    batch_size = config.per_device_train_batch_size * num_processes()
    if len(data.rows) < batch_size:
        of = f" in {num_processes()} processes" if num_processes() > 1 else ""
        raise UserError(
            f"train.per_device_train_batch_size: expected at most the {len(data.rows)} training sentences, got "
            f"{batch_size}{of}; lower it, or give more sentences"
        )
    lengths = np.array([len(data.student_tokens[row]) for row in data.rows])
    return Order(lengths, batch_size, seed, config.group_by_length)


def make_views(
    student: EmbeddingModel,
    method: SentenceMethod,
    data: SentenceData,
    teacher: CachedTeacher | LiveTeacher,
    rows: np.ndarray,
    teacher_words: torch.Tensor | None = None,
    lists: RankingLists | None = None,
    processes: Processes = Processes(),  # noqa: B008 - it cannot be changed
) -> BatchViews:
    """Compute all outputs of both models that a method needs for some training rows.

    Of several processes each runs the student on its part of the rows, and gets the outputs of the others.

    Args:
        student: in training mode where the second view is another dropout.
        rows: int, `[B]`: training rows.
        teacher_words: the teacher's word embeddings, a row for each token id, where the method needs them.
        lists: documents of every training row, where the method needs them.
    """
    needs, device = method.needs, next(student.parameters()).device
    first = data.rows[rows]
    partners = data.second[rows] if needs.second and data.second is not None else None
    texts = [first] + [first if partners is None else partners] * needs.second
    ids = [data.student_tokens[text] for text in np.concatenate(texts)]
    padded = [tensor.to(device).unflatten(0, (-1, len(rows))) for tensor in pad_ids(ids, student.pad_id)]
    pooled, view = _run_student(student, needs, padded, processes)
    listed = lists.texts[rows][processes.part_of(len(rows))] if needs.lists else None
    groups = [data.groups[text] for text in first] if method.alignment and data.groups is not None else []
    width = view.attention_mask.shape[1]
    signals = teacher.view([int(text) for text in first], device)
    return BatchViews(
        student=view,
        teacher=signals,
        text_ids=torch.as_tensor(first, device=device),
        second=pooled[:, 1] if needs.second else None,
        lists=processes.gather(_read_lists(student, data, listed)) if needs.lists else None,
        list_scores=lists.scores_of(rows, device) if needs.lists else None,
        list_vectors=torch.from_numpy(teacher.vectors[lists.texts[rows]]).to(device) if needs.lists else None,
        second_ids=None if partners is None else torch.as_tensor(partners, device=device),
        teacher_word_embeddings=look_up(teacher_words, [data.teacher_tokens[text] for text in first], device)
        if needs.word_embeddings
        else None,
        student_group=pad_groups([group[2] for group in groups], width, device) if groups else None,
        teacher_group=pad_groups([g[3] for g in groups], signals.attention_mask.shape[1], device) if groups else None,
    )


def _read_lists(student: EmbeddingModel, data: SentenceData, listed: np.ndarray) -> torch.Tensor:
    """Return the student's vectors of texts given by number, `[B, L]`: `[B, L, H]`.

    Every distinct text is read once, beside others of its length, or most of the time would go into padding.
    """
    texts, places = np.unique(listed, return_inverse=True)
    ids = [data.student_tokens[text] for text in texts]
    batches = list(batches_by_length(ids, len(listed)))
    parts = [
        student(*(t.to(student.device) for t in pad_ids([ids[n] for n in rows], student.pad_id))) for rows in batches
    ]
    back = np.argsort(np.concatenate(batches))
    return torch.cat([part.pooled for part in parts])[back[places].reshape(listed.shape)]


def _run_student(
    student: EmbeddingModel, needs: MethodNeeds, padded: list[torch.Tensor], processes: Processes
) -> tuple[torch.Tensor, StudentView]:
    """Run the student on this process's part of a batch, and gather what the others made of theirs.

    Args:
        padded: token ids and mask, `[views, B, S]`, those of the sentences themselves first.

    Returns:
        `[B, views, H]`, sentence vectors; and all outputs for the first views.
    """
    input_ids, mask = (tensor[0] for tensor in padded)
    own = processes.part_of(len(mask))
    share = own.stop - own.start
    encoded = student(
        *(tensor[:, own].flatten(0, 1) for tensor in padded),
        hidden_states=bool(needs.layers) or needs.tokens,
        attentions=bool(needs.attention_layers),
    )
    states = tuple(layer[:share] for layer in encoded.hidden_states)
    how = "cls" if needs.layers == "cls" else ""
    pooled = processes.gather(encoded.pooled.unflatten(0, (-1, share)).transpose(0, 1))
    words = student.backbone.get_input_embeddings()(input_ids[own]) if needs.word_embeddings else None
    return pooled, StudentView(
        pooled=pooled[:, 0],
        attention_mask=mask,
        layers=[processes.gather(student.pool(state, mask[own], how)) for state in states] if needs.layers else [],
        hidden_states=tuple(map(processes.gather, states)) if needs.tokens else (),
        attentions=tuple(processes.gather(layer[:share]) for layer in encoded.attentions),
        word_embeddings=None if words is None else processes.gather(words),
    )


@torch.no_grad()
def layer_vectors(student: EmbeddingModel, ids: list[np.ndarray], batch_size: int) -> list[torch.Tensor]:
    """Return sentence vectors out of every layer of a student without a head, on the CPU and without dropout.

    Args:
        ids: tokens of each sentence.

    Returns:
        One `[num_sentences, H_student]` for each layer, the embedding layer's first.
    """
    layers = [torch.zeros(len(ids), student.pooled_width) for _ in range(student.num_layers + 1)]
    was_training, device = student.training, student.device
    student.eval()
    for rows in batches_by_length(ids, batch_size):
        input_ids, mask = (tensor.to(device) for tensor in pad_ids([ids[row] for row in rows], student.pad_id))
        states = student(input_ids, mask, hidden_states=True).hidden_states
        for layer, state in zip(layers, states, strict=True):
            layer[rows] = student.pool(state, mask).cpu()
    student.train(was_training)
    return layers


def look_up(table: torch.Tensor, ids: list[np.ndarray], device: torch.device) -> torch.Tensor:
    """Return the rows of a table for a batch of token ids: fp32, `[B, T, H]`."""
    return table[pad_ids(ids, 0)[0].to(table.device)].to(device).float()


def pad_groups(groups: list[np.ndarray], width: int, device: torch.device) -> torch.Tensor:
    """Make a batch of group numbers, padded on the right with `NO_GROUP`: int64, `[B, width]`."""
    padded = torch.full((len(groups), width), NO_GROUP)
    for row, group in enumerate(groups):
        padded[row, : len(group)] = torch.from_numpy(group.astype(np.int64))
    return padded.to(device)
