"""Contextual dynamic mapping (CDM): positions aligned by time warping, tokens by their spelling.

Unlike the losses of `cross_tokenizer`, which take spans, this one takes a whole sequence: which positions belong
together, as one of `num_groups` groups, follows from the cost of pairing their tokens and from the entropy of both
models there.
"""

import numpy as np
import torch

from kdkit.alignment.bytes import overlap_vocabularies
from kdkit.alignment.warping import group_positions, warp
from kdkit.errors import UserError
from kdkit.losses.closed_forms import apply_measure, forward_kl_with_gradient
from kdkit.losses.divergences import check_temperature
from kdkit.losses.precision import at_least_fp32

MAX_CACHED_PAIRS = 4_000_000
"""Distances remembered, 12 bytes each; past that the memory starts anew."""


class TokenMatcher:
    """How two vocabularies spell their tokens: exact partners, and edit distances once measured."""

    def __init__(
        self,
        student_table: list[bytes | None],
        teacher_table: list[bytes | None],
        end_ids: tuple[int, int] | None = None,
    ):
        """Pair the tokens of equal bytes.

        Args:
            student_table: `token_bytes` of the student's tokenizer.
            teacher_table: `token_bytes` of the teacher's.
            end_ids: ids that end a document in the student and in the teacher; paired too if given.
        """
        overlap = overlap_vocabularies(student_table, teacher_table, end_ids)
        self.teacher_of = np.full(len(student_table), -1, dtype=np.int64)
        self.teacher_of[overlap.student_ids] = overlap.teacher_ids
        self.student_of = np.full(len(teacher_table), -1, dtype=np.int64)
        self.student_of[overlap.teacher_ids] = overlap.student_ids
        self.student_texts, self.teacher_texts = _spell(student_table), _spell(teacher_table)
        self._keys = np.zeros(0, dtype=np.int64)
        self._distances = np.zeros(0, dtype=np.float32)

    def sequence_costs(self, student_targets: np.ndarray, teacher_targets: np.ndarray) -> np.ndarray:
        """Return the edit distance of each student token to each teacher token of a sequence.

        Returns:
            float64, `[student_rows, teacher_rows]`.
        """
        process, distance = _rapidfuzz()
        students, student_places = np.unique(student_targets, return_inverse=True)
        teachers, teacher_places = np.unique(teacher_targets, return_inverse=True)
        costs = process.cdist(
            self.student_texts[students].tolist(), self.teacher_texts[teachers].tolist(), scorer=distance
        )
        return costs.astype(np.float64)[student_places[:, None], teacher_places[None, :]]

    def distances(self, student_ids: np.ndarray, teacher_ids: np.ndarray) -> np.ndarray:
        """Return edit distance / summed length of token pairs: float32, `[pairs]`, 0 to 1; 1 for two empty texts."""
        keys, places = np.unique(student_ids * len(self.teacher_texts) + teacher_ids, return_inverse=True)
        if len(self._keys) > MAX_CACHED_PAIRS:
            self._keys, self._distances = self._keys[:0], self._distances[:0]
        new = np.setdiff1d(keys, self._keys, assume_unique=True)
        if len(new):
            merged = np.concatenate([self._keys, new])
            order = np.argsort(merged)
            self._keys = merged[order]
            self._distances = np.concatenate([self._distances, self._measure(new)])[order]
        return self._distances[np.searchsorted(self._keys, keys)][places]

    def _measure(self, keys: np.ndarray) -> np.ndarray:
        """Measure the distances of pairs, given as student id * V_teacher + teacher id."""
        process, distance = _rapidfuzz()
        students = self.student_texts[keys // len(self.teacher_texts)].tolist()
        teachers = self.teacher_texts[keys % len(self.teacher_texts)].tolist()
        edits = process.cpdist(students, teachers, scorer=distance).astype(np.float32)
        lengths = np.array([len(s) + len(t) for s, t in zip(students, teachers, strict=True)], dtype=np.float32)
        return np.where(lengths > 0, edits / np.maximum(lengths, 1), 1).astype(np.float32)


def cdm(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    student_targets: torch.Tensor,
    teacher_targets: torch.Tensor,
    matcher: TokenMatcher,
    top_k: int = 100,
    max_distance: float = 0.3,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute temperature**2 * KL(teacher || student) over mapped tokens, per group of aligned positions.

    Logits are averaged over the positions of a group. Its entries are the `top_k` likeliest tokens of the
    teacher with their student partners, then those of the student with theirs: a partner is the token of
    the same bytes, else the one of the other side's `top_k` spelled most alike, if alike enough. Both
    distributions are renormalised over the entries; a group without entries counts 0.

    Args:
        student_logits: float, `[student_rows, V_student]`: all rows of one sequence in order, cropped to the tokenizer.
        teacher_logits: float, `[teacher_rows, V_teacher]`: the same text; no gradient flows to it.
        student_targets: int64, `[student_rows]`: the token that each row predicts.
        teacher_targets: int64, `[teacher_rows]`, likewise.
        matcher: of these tokenizers; keep it for the whole training, it remembers distances.
        top_k: tokens mapped on each side.
        max_distance: partners differ by less, in edits per byte of both spellings, 0 to 1.
        temperature: softmax temperature of both, > 0.

    Returns:
        fp32, `[num_groups]`, in nats, 0 where both agree; and int64, `[student_rows]`: the group of each row, so that
        `values[groups]` is a value per student row.

    Raises:
        UserError: shapes do not fit, temperature <= 0, or rapidfuzz is not installed.

    Source: Chen et al. 2025 (CDM), arXiv:2502.11104, sec. 3; the edit-distance map is MinED (Wan et al.
    2024, arXiv:2401.10491). The authors' code lets a partner found at one position serve all later ones
    and mixes both sides when it joins the two directions; here each position stands for itself.
    """
    _check_sequence("student", student_logits, student_targets, matcher.teacher_of)
    _check_sequence("teacher", teacher_logits, teacher_targets, matcher.student_of)
    check_temperature(temperature)
    teacher_logits = teacher_logits.detach()
    costs = matcher.sequence_costs(student_targets.cpu().numpy(), teacher_targets.cpu().numpy())
    costs *= _doubt(student_logits.detach())[:, None] * _doubt(teacher_logits)[None, :]
    rows, columns, _ = warp(costs)
    device = student_logits.device
    student_groups, teacher_groups = (torch.from_numpy(g).to(device) for g in group_positions(rows, columns))
    student_means = _group_means(at_least_fp32(student_logits), student_groups)
    teacher_means = _group_means(at_least_fp32(teacher_logits), teacher_groups)
    student_ids, teacher_ids = map_top_tokens(student_means.detach(), teacher_means, matcher, top_k, max_distance)
    unmapped = (student_ids < 0) | (teacher_ids < 0)
    student_logprobs, teacher_logprobs = (
        # not -inf: a group without entries must give 0, not NaN
        torch.log_softmax((means.gather(1, ids.clamp(min=0)) / temperature).masked_fill(unmapped, -1e30), dim=-1)
        for means, ids in ((student_means, student_ids), (teacher_means, teacher_ids))
    )
    return temperature**2 * apply_measure(forward_kl_with_gradient, student_logprobs, teacher_logprobs), student_groups


def map_top_tokens(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    matcher: TokenMatcher,
    top_k: int = 100,
    max_distance: float = 0.3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pair the likeliest tokens of both models at each position.

    Args:
        student_logits: float, `[num_groups, V_student]`.
        teacher_logits: float, `[num_groups, V_teacher]`.

    Returns:
        int64, `[num_groups, 2 * top_k]`: student ids and teacher ids of the pairs; -1 on either side where there is no
        partner, or where the second half would repeat a pair of the first.
    """
    student_top, teacher_top = (
        logits.topk(min(top_k, logits.shape[1])).indices.cpu().numpy() for logits in (student_logits, teacher_logits)
    )
    student_partners, teacher_partners = matcher.student_of[teacher_top], matcher.teacher_of[student_top]
    open_students, open_teachers = teacher_partners < 0, student_partners < 0
    # between tokens without an exact partner, `[num_groups, student's top_k, teacher's top_k]`
    distances = np.full((len(student_top), student_top.shape[1], teacher_top.shape[1]), np.inf, dtype=np.float32)
    group, i, j = np.nonzero(open_students[:, :, None] & open_teachers[:, None, :])
    if len(group):
        distances[group, i, j] = matcher.distances(student_top[group, i], teacher_top[group, j])
    near = np.take_along_axis(student_top, distances.argmin(axis=1), axis=1)
    student_partners = np.where(open_teachers & (distances.min(axis=1) < max_distance), near, student_partners)
    near = np.take_along_axis(teacher_top, distances.argmin(axis=2), axis=1)
    teacher_partners = np.where(open_students & (distances.min(axis=2) < max_distance), near, teacher_partners)
    same = (student_top[:, :, None] == student_partners[:, None, :]) & (
        teacher_partners[:, :, None] == teacher_top[:, None, :]
    )
    teacher_partners = np.where(same.any(axis=2), -1, teacher_partners)
    pairs = np.concatenate([student_partners, student_top], axis=1), np.concatenate([teacher_top, teacher_partners], 1)
    student_ids, teacher_ids = (torch.from_numpy(ids).to(student_logits.device) for ids in pairs)
    return student_ids, teacher_ids


def _spell(table: list[bytes | None]) -> np.ndarray:
    """Return the texts to compare: one character per byte, so that half a character has one; no spaces."""
    return np.array([(piece or b"").decode("latin-1").replace(" ", "") for piece in table], dtype=object)


def _doubt(logits: torch.Tensor) -> np.ndarray:
    """Return 3 + 3 sigmoid(4 h - 2), with h the entropy scaled to 0..1 over the sequence: float64, `[rows]`."""
    logprobs = torch.log_softmax(at_least_fp32(logits), dim=-1)
    entropy = -(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(dim=-1)
    low, high = entropy.aminmax()
    # where all positions are equally unsure, as in a sequence of one, the scale does not matter
    scaled = (entropy - low) / torch.where(high > low, high - low, 1.0)
    return (3.0 + 3.0 * torch.sigmoid(4.0 * scaled - 2.0)).double().cpu().numpy()


def _group_means(logits: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Average the rows of each group: `[rows, V]` to `[num_groups, V]`."""
    counts = torch.bincount(groups)
    sums = logits.new_zeros(len(counts), logits.shape[1]).index_add(0, groups, logits)
    return sums / counts[:, None]


def _check_sequence(side: str, logits: torch.Tensor, targets: torch.Tensor, partners: np.ndarray) -> None:
    """Refuse logits that are not rows of the matcher's vocabulary, or have no target each."""
    if logits.dim() != 2 or len(logits) == 0 or logits.shape[1] != len(partners) or targets.shape != logits.shape[:1]:
        raise UserError(
            f"cdm: expected {side} logits of one sequence over {len(partners)} tokens and a target for each row, got "
            f"{tuple(logits.shape)} and {tuple(targets.shape)}; pass one sequence at a time, the head cropped"
        )


def _rapidfuzz() -> tuple:
    """Return rapidfuzz's module for many pairs, and the Levenshtein distance."""
    try:
        from rapidfuzz import process
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise UserError(
            "distill.loss: expected rapidfuzz for cdm, got no such package; run `pip install rapidfuzz`"
        ) from None
    return process, Levenshtein.distance
