"""A student's embeddings and head from a teacher's, whatever the two tokenizers and widths."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import end_token_id, start_token_id, token_bytes


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
    known, means, firsts = _rows_of(pieces, teacher_embeddings, teacher_head)
    generator = torch.Generator().manual_seed(seed)
    tables = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    for table, rows in zip(tables, (means, firsts), strict=True):
        reduced = _reduce(rows.cpu(), table.shape[1], generator).to(table)
        with torch.no_grad():
            table[known] = reduced * (table[known].std() / reduced.std())
    return len(known)


@torch.no_grad()
def change_vocabulary(
    model: PreTrainedModel, student_tokenizer: PreTrainedTokenizerFast, teacher_tokenizer: PreTrainedTokenizerFast
) -> int:
    """Let a model of the teacher's vocabulary read another one, in place: embeddings and head get a row per token.

    A token is spelled with the teacher's, see `start_from_teacher`; its rows are theirs, at full width. The tokens that
    open and end a text take the teacher's rows for that. What cannot be spelled gets the mean row.

    Returns:
        How many of the student's tokens were spelled.
    """
    inputs = model.get_input_embeddings().weight.detach().float().cpu().clone()
    head = model.get_output_embeddings().weight.detach().float().cpu().clone()
    pieces = spell_tokens(student_tokenizer, teacher_tokenizer)
    for find in (start_token_id, end_token_id):
        if (ours := find(student_tokenizer)) is not None and (theirs := find(teacher_tokenizer)) is not None:
            pieces[ours] = [theirs]
    known, means, firsts = _rows_of(pieces, inputs, head)
    model.resize_token_embeddings(len(pieces), mean_resizing=False)
    for table, rows in ((model.get_output_embeddings().weight, firsts), (model.get_input_embeddings().weight, means)):
        table[:] = rows.mean(dim=0).to(table)
        table[known] = rows.to(table)
    text = model.config.get_text_config()
    text.bos_token_id, text.eos_token_id = start_token_id(student_tokenizer), end_token_id(student_tokenizer)
    text.pad_token_id = student_tokenizer.pad_token_id
    model.generation_config = type(model.generation_config).from_model_config(model.config)
    return len(known)


def _rows_of(
    pieces: list[list[int]], embeddings: torch.Tensor, head: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the tokens that are spelled, the means of their pieces' embeddings and the head's rows of the first."""
    known = torch.tensor([token for token, spelled in enumerate(pieces) if spelled])
    spelled = [pieces[token] for token in known.tolist()]
    means = torch.stack([embeddings[ids].float().mean(dim=0) for ids in spelled])
    return known, means, head[torch.tensor([ids[0] for ids in spelled])].float()


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
