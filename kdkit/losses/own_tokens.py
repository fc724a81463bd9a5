"""What the tokens of a student's own text count: by how far both models still disagree, or by a constant advantage."""

from collections.abc import Callable

import torch

from kdkit.alignment.spans import Spans
from kdkit.losses.chunked.engine import Head, even_chunks, rows_per_chunk
from kdkit.losses.chunked.signals import DenseSignals
from kdkit.losses.span_rows import sum_spans

LEAST_LIKELY = 0.2
"""Share of the own tokens that a constant advantage is given to."""
ADVANTAGE = -0.5
"""The constant one."""


@torch.no_grad()
def student_logprobs(hidden: torch.Tensor, head: Head, tokens: torch.Tensor) -> torch.Tensor:
    """Return the student's log-probability of the text's next tokens, fp32, `[student_rows]`."""
    return _logprobs(lambda rows: head.logits(hidden[rows]), tokens, head.vocab_size)


@torch.no_grad()
def teacher_logprobs(signals: DenseSignals | tuple[DenseSignals, ...]) -> torch.Tensor:
    """Return the teacher's, `[teacher_rows]`; the mean of several passes."""
    passes = signals if isinstance(signals, tuple) else (signals,)
    return torch.stack([_of_pass(each) for each in passes]).mean(dim=0)


def _of_pass(signals: DenseSignals) -> torch.Tensor:
    def logits_of(rows: slice) -> torch.Tensor:
        return signals.logits(torch.arange(rows.start, rows.stop))

    return _logprobs(logits_of, signals.targets, signals.head.vocab_size)


def _logprobs(logits_of: Callable[[slice], torch.Tensor], tokens: torch.Tensor, width: int) -> torch.Tensor:
    """Return log-probabilities of one token per row; the logits of some rows exist at a time."""
    parts = [
        torch.log_softmax(logits_of(rows), dim=-1).gather(1, tokens[rows, None]).squeeze(1)
        for rows in even_chunks(len(tokens), rows_per_chunk(width, tokens.device))
    ]
    return torch.cat(parts) if parts else tokens.new_zeros(0, dtype=torch.float32)


def importance_weights(
    spans: Spans, student: torch.Tensor, teacher: torch.Tensor, counted: torch.Tensor, importance: float
) -> torch.Tensor:
    """Weigh the rows of each sequence by the share of its disagreement that does not lie before them.

    A row's weight is `1 + importance * (1 - before / total)`, where the disagreement of a span is the distance of both
    models' log-probabilities of its text. With one tokenizer a span is a token.

    Args:
        student: fp32, `[student_rows]`: log-probabilities of the text's tokens.
        teacher: fp32, `[teacher_rows]`: the teacher's.
        counted: bool, `[student_rows]`: own tokens; the prompt disagrees with nobody.
        importance: gamma of the paper, >= 0.

    Returns:
        fp32, `[student_rows]`, from 1 to 1 + importance.

    Source: Xie et al. 2026 (IW-OPD), arXiv:2606.22600, algorithm 1; there for the sampled token's advantage alone.
    """
    count, device = len(spans.student_starts) - 1, student.device
    of_student, of_teacher = spans.span_of_student_rows().to(device), spans.span_of_teacher_rows().to(device)
    gaps = (sum_spans(teacher.to(device), of_teacher, count) - sum_spans(student, of_student, count)).abs().double()
    gaps = gaps * (sum_spans(counted.double(), of_student, count) > 0)
    sequence = torch.repeat_interleave(spans.sequence_starts.diff()).to(device)
    totals = sum_spans(gaps, sequence, len(spans.sequence_starts) - 1)
    passed = gaps.cumsum(0) - gaps - (totals.cumsum(0) - totals)[sequence]
    shares = (passed / totals[sequence].clamp(min=1e-8)).clamp(0.0, 1.0)
    return (1.0 + importance * (1.0 - shares)).float()[of_student]


def constant_advantages(student: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Return `ADVANTAGE` for the own tokens that the student found least likely, 0 elsewhere, `[student_rows]`.

    Args:
        student: fp32, `[student_rows]`: its log-probabilities of the text's tokens.
        counted: bool, `[student_rows]`: own tokens.

    Source: Ding & Zhang 2026, arXiv:2608.31046, section 3.2.
    """
    own = counted.nonzero().squeeze(1)
    least = student[own].argsort(stable=True)[: round(LEAST_LIKELY * len(own))]
    return torch.zeros_like(student).index_fill_(0, own[least], ADVANTAGE)
