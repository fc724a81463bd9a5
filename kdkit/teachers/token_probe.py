"""What a teacher expects after each token of a text, and how the student's tokenizer reads the same text.

Used by notebook 02.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from kdkit.alignment.bytes import align_ends
from kdkit.alignment.tokenizers import encode_with_ends, start_token_id, token_bytes
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.data.text.documents import clean_text
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.teachers.interface import TextTeacher

MAX_TOKENS = 64
"""Tokens of a text that the teacher reads."""
TOP_TOKENS = 10
"""Most likely next tokens that are shown."""
NUM_TEXTS = 8
"""Held-out texts to choose from."""


class TokenExplorer:
    """A teacher's predictions on any text, and the same text in the student's tokens."""

    def __init__(self, teacher: TextTeacher, data: PreparedData, autocast_dtype: torch.dtype | None = None):
        """Keep what reads; nothing is computed yet."""
        self.reader, self.data = teacher.reader(autocast_dtype), data
        self.most = MAX_TOKENS if teacher.context is None else min(MAX_TOKENS, teacher.context - 1)
        self.tables = token_bytes(data.teacher_tokenizer), token_bytes(data.student_tokenizer)

    def explore(self, text: str, position: int | None = None) -> dict[str, Any]:
        """Read a text.

        Args:
            text: its first `MAX_TOKENS` tokens are read, fewer where the teacher's context ends before.
            position: token after which the teacher predicts the next one; None: the one in the middle.

        Returns:
            `tokens`, `[T]`, the bytes of the text that each token of the teacher covers, in hexadecimal; `entropy`,
            `[T]`, in bits, of the teacher's prediction after each; `on_common`, `[T]`, the share of that prediction on
            tokens that the student has too; `position`; `predictions`: the `TOP_TOKENS` most likely tokens after that
            one, each with its bytes (`token`), `probability` and whether it `is_common`; `following`: likewise the
            token that the text goes on with, and its `rank`, from 1 (None at the end); `spans`: the shortest stretches
            of text that both tokenizers start and end together, as the tokens of `teacher` and `student`.

        Raises:
            UserError: a text without a token.
        """
        tokenizer = self.data.teacher_tokenizer
        content = clean_text(text).encode()
        ids, ends = encode_with_ends(tokenizer, self.tables[0], content.decode())
        if not ids:
            raise UserError(f"text: expected at least one token, got {text!r}; write some text")
        spans = self._spans(content, ends, min(len(ids), self.most))
        ids, ends = ids[: self.most], ends[: self.most]
        position = min(len(ids) - 1, len(ids) // 2 if position is None else position)
        logprobs = self._predict(ids)
        shares = logprobs.exp()
        return {
            "tokens": _cut(content, ends),
            "entropy": (-(shares * logprobs.clamp(min=-1e4)).sum(dim=-1) / np.log(2.0)).tolist(),
            "on_common": shares[:, torch.from_numpy(self.data.overlap.teacher_ids)].sum(dim=-1).tolist(),
            "position": position,
            "predictions": self._describe(shares[position], shares[position].argsort(descending=True)[:TOP_TOKENS]),
            "following": self._follow(shares[position], ids[position + 1 :]),
            "spans": spans,
        }

    def _describe(self, shares: torch.Tensor, ids: torch.Tensor) -> list[dict[str, Any]]:
        """Describe tokens that a prediction, `[V]`, may go on with."""
        found = []
        for token_id in ids.tolist():
            piece = self.tables[0][token_id]
            if piece is None:  # a special token, by its name
                piece = self.data.teacher_tokenizer.convert_ids_to_tokens(token_id).encode()
            common = {"is_common": token_id in self.data.overlap.teacher_ids}
            found.append({"token": piece.hex(), "probability": shares[token_id].item(), **common})
        return found

    def _follow(self, shares: torch.Tensor, rest: list[int]) -> dict[str, Any] | None:
        """Describe the token that the text goes on with; None at its end."""
        if not rest:
            return None
        (found,) = self._describe(shares, torch.tensor(rest[:1]))
        return found | {"rank": int((shares > shares[rest[0]]).sum()) + 1}

    def _spans(self, content: bytes, ends: np.ndarray, count: int) -> list[dict[str, list[str]]]:
        """Cut the text of the first tokens of the teacher into spans that both tokenizers start and end together."""
        _, own_ends = encode_with_ends(self.data.student_tokenizer, self.tables[1], content.decode())
        student, teacher = _cut(content, own_ends), _cut(content, ends)
        groups = [group for group in align_ends(own_ends, ends).tolist() if group[3] <= count]
        return [{"student": student[a:b], "teacher": teacher[c:d]} for a, b, c, d in groups]

    @torch.no_grad()
    def _predict(self, ids: list[int]) -> torch.Tensor:
        """Return the log-probabilities of what comes after each token: fp32, `[T, V]`, on the CPU."""
        input_ids = torch.tensor([[start_token_id(self.data.teacher_tokenizer), *ids]])
        logits = self.reader.read(input_ids)(torch.arange(1, len(ids) + 1))
        return logits[:, : len(self.data.teacher_tokenizer)].float().cpu().log_softmax(dim=-1)


def _cut(content: bytes, ends: np.ndarray) -> list[str]:
    """Return the bytes that each token covers, in hexadecimal."""
    return [content[start:end].hex() for start, end in pairwise([0, *ends.tolist()])]


def probe_tokens(session: Session[Config], data: PreparedData, teacher: TextTeacher) -> TokenExplorer:
    """Read a held-out text and write `teacher/tokens.json`: `texts` to choose from, and `shown`, of the first of them.

    Returns:
        The explorer, for other texts.
    """
    explorer = TokenExplorer(teacher, data, session.hardware.autocast_dtype)
    texts = [text for text in data.manifest["openings"] if text.strip()][:NUM_TEXTS]
    session.run.write_json("teacher/tokens.json", {"texts": texts, "shown": explorer.explore(texts[0])})
    return explorer
