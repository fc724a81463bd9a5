"""Start a student's embeddings and head from a teacher's, whatever the two tokenizers and widths."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import token_bytes


def start_from_teacher(
    student: PreTrainedModel,
    teacher_embeddings: torch.Tensor,
    teacher_head: torch.Tensor,
    student_tokenizer: PreTrainedTokenizerFast,
    teacher_tokenizer: PreTrainedTokenizerFast,
    seed: int,
) -> int:
    """Overwrite the student's input embeddings and head, in place, by the teacher's reduced to the student's width.

    A student token is spelled with teacher tokens, longest first: its embedding is their mean, its row of the head that
    of the first, which is what a teacher would predict there. The rows are centred, projected on their main directions,
    turned at random (a body from random weights knows no direction) and scaled to the spread that they replace. Tokens
    that cannot be spelled (special ones) stay as they are.

    Args:
        teacher_embeddings: [V_teacher, H_teacher].
        teacher_head: [V_teacher, H_teacher].
        seed: of the turn.

    Returns:
        How many of the student's tokens were started.

    Source: the idea of arXiv:2510.06502; the reduction and the turn are kdkit's.
    """
    pieces = spell_tokens(student_tokenizer, teacher_tokenizer)
    known = torch.tensor([token for token, spelled in enumerate(pieces) if spelled])
    spelled = [pieces[token] for token in known.tolist()]
    means = torch.stack([teacher_embeddings[ids].float().mean(dim=0) for ids in spelled])
    firsts = teacher_head[torch.tensor([ids[0] for ids in spelled])].float()
    generator = torch.Generator().manual_seed(seed)
    tables = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    for table, rows in zip(tables, (means, firsts), strict=True):
        reduced = _reduce(rows.cpu(), table.shape[1], generator).to(table)
        with torch.no_grad():
            table[known] = reduced * (table[known].std() / reduced.std())
    return len(known)


def spell_tokens(
    student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> list[list[int]]:
    """Spell each of the student's tokens with the teacher's, by bytes and longest first; empty where it cannot be."""
    ids = {piece: token for token, piece in enumerate(token_bytes(teacher_tokenizer)) if piece}
    longest = max(map(len, ids))
    return [_spell(piece, ids, longest) if piece else [] for piece in token_bytes(student_tokenizer)]


def _spell(piece: bytes, ids: dict[bytes, int], longest: int) -> list[int]:
    found, start = [], 0
    while start < len(piece):
        ends = range(min(len(piece), start + longest), start, -1)
        end = next((end for end in ends if piece[start:end] in ids), None)
        if end is None:
            return []
        found.append(ids[piece[start:end]])
        start = end
    return found


def _reduce(rows: torch.Tensor, width: int, generator: torch.Generator) -> torch.Tensor:
    """Project rows [tokens, H] on their main directions and turn them at random, [tokens, width]."""
    rows = rows - rows.mean(dim=0)
    _, directions = torch.linalg.eigh(rows.T @ rows)  # the last are the main ones
    kept = directions[:, -width:]
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    return rows @ kept @ turn[: kept.shape[1]]
