"""Inspection of a mixture of experts: which experts each token of a text uses, and what each predicts alone.

Used by notebook 02.
"""

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import start_token_id, token_bytes
from kdkit.config.language import Config
from kdkit.data.prepare import PreparedData
from kdkit.errors import UserError
from kdkit.machine.session import Session
from kdkit.models.continuations import choose_prompts
from kdkit.models.experts import Choice, Experts
from kdkit.models.heads import autocast, last_hidden_state
from kdkit.models.loading import num_experts
from kdkit.teachers.interface import TextTeacher

MAX_TOKENS = 24
"""Tokens of a text that are read: as many as a picture can name."""
MAX_CANDIDATES = 16
"""Experts that predict alone."""
TOP_TOKENS = 5
"""Most likely next tokens that are shown of each."""
NUM_TEXTS = 8
"""Held-out texts to choose from."""


class ExpertExplorer:
    """Routing and single-expert predictions of a mixture of experts on any text."""

    def __init__(
        self,
        experts: Experts,
        tokenizer: PreTrainedTokenizerFast,
        autocast_dtype: torch.dtype | None = None,
    ):
        """Take a model's experts and its tokenizer; nothing is computed yet."""
        self.experts, self.tokenizer, self.autocast_dtype = experts, tokenizer, autocast_dtype
        self.model: PreTrainedModel = experts.model
        self._bytes = token_bytes(tokenizer)

    def explore(self, text: str, position: int | None = None) -> dict[str, Any]:
        """Follow a text through the experts.

        Args:
            text: its first `MAX_TOKENS` tokens are read.
            position: token after which each expert predicts the next one; None: the one in the middle.

        Returns:
            `tokens`, `[S]`, as text; `experts`, `[num_layers, S, top_k]`, chosen by the model itself, the largest
            weight first; `entropy`, `[num_layers, S]`, of the gates' distribution over all experts, in bits;
            `position`; `predictions`: of the model itself (`expert` None) and of each of `MAX_CANDIDATES` experts
            alone, in every layer and for every token with weight 1, after that token: `tokens` and `probabilities`,
            the most likely first.

        Raises:
            UserError: a text without a token.
        """
        ids = self.tokenizer(text, add_special_tokens=False).input_ids[:MAX_TOKENS]
        if not ids:
            raise UserError(f"text: expected at least one token, got {text!r}; write some text")
        position = min(len(ids) - 1, len(ids) // 2 if position is None else position)
        # the start token that both sides of a window begin with is read, but not shown
        input_ids = torch.tensor([[start_token_id(self.tokenizer), *ids]], device=self.model.device)
        with torch.no_grad(), self.experts.watched() as seen, autocast(self.model, self.autocast_dtype):
            last_hidden_state(self.model, input_ids)
        logits = torch.stack([layer[1:].cpu() for layer in seen])
        logprobs = torch.log_softmax(logits, dim=-1)
        shares = logprobs.exp()
        candidates = shares[:, position].sum(dim=0).topk(min(MAX_CANDIDATES, self.experts.num_experts)).indices
        return {
            "tokens": [self._name(i) for i in ids],
            "experts": logits.topk(self.experts.top_k, dim=-1).indices.tolist(),
            "entropy": (-(shares * logprobs).sum(dim=-1) / torch.log(torch.tensor(2.0))).tolist(),
            "position": position,
            "predictions": self._predict(input_ids[:, : position + 2], sorted(candidates.tolist())),
        }

    @torch.no_grad()
    def _predict(self, input_ids: torch.Tensor, candidates: list[int]) -> list[dict[str, Any]]:
        """Predict the token after a text, `[1, S]`: the model as it is, then each candidate alone, in one batch."""
        # one row of the batch per candidate, and all its tokens to that expert
        rows = torch.tensor(candidates, device=input_ids.device).repeat_interleave(input_ids.shape[1])[:, None]
        alone = Choice(torch.ones(rows.shape, device=rows.device), rows)
        with autocast(self.model, self.autocast_dtype):
            own = self.model(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits
            with self.experts.routed(lambda *_: alone):
                forced = self.model(
                    input_ids=input_ids.expand(len(candidates), -1), use_cache=False, logits_to_keep=1
                ).logits
        logits = torch.cat([own, forced])[:, -1, : len(self.tokenizer)].float().cpu()
        best = torch.softmax(logits, dim=-1).topk(TOP_TOKENS)
        return [
            {"expert": expert, "tokens": [self._name(i) for i in ids], "probabilities": values}
            for expert, ids, values in zip(
                [None, *candidates], best.indices.tolist(), best.values.tolist(), strict=True
            )
        ]

    def _name(self, token_id: int) -> str:
        """Write a token as text; of a character that it holds only a part of, the bytes."""
        piece = self._bytes[token_id]
        return self.tokenizer.decode([token_id]) if piece is None else piece.decode(errors="backslashreplace")


def probe_experts(session: Session[Config], data: PreparedData, teacher: TextTeacher) -> ExpertExplorer | None:
    """Inspect a teacher's experts and write `teacher/experts.json`.

    The file holds `layers` (decoder layers that are mixtures), `num_experts`, `top_k`, `texts` to choose from, and
    `shown`: what `ExpertExplorer.explore` returns for the first. Without experts that can be inspected, it holds
    `missing` alone, the reason.

    Returns:
        The explorer; None without such experts.
    """
    if not teacher.has_layers:
        missing = f"{teacher.name} gives predictions only: whether it has experts, and which it uses, cannot be seen."
        session.run.write_json("teacher/experts.json", {"missing": missing})
        return None
    if not num_experts(teacher.model.config):
        session.run.write_json("teacher/experts.json", {"missing": "This teacher is dense: it has no experts."})
        return None
    try:
        experts = Experts(teacher.model)
    except UserError as error:
        session.run.write_json("teacher/experts.json", {"missing": f"These experts cannot be looked into: {error}."})
        return None
    explorer = ExpertExplorer(experts, data.teacher_tokenizer, session.hardware.autocast_dtype)
    openings = data.manifest["openings"]
    texts = choose_prompts(openings, NUM_TEXTS, session.config.evaluate.prompt_length) or openings[:1]
    facts = {
        "layers": experts.layers,
        "num_experts": experts.num_experts,
        "top_k": experts.top_k,
        "texts": texts,
        "shown": explorer.explore(texts[0]),
    }
    session.run.write_json("teacher/experts.json", facts)
    return explorer
