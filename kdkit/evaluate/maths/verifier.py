"""A verifier: a logistic head on a model's own hidden states, that says how likely a solution of its is right.

Source: Cobbe et al. 2021, Training Verifiers to Solve Math Word Problems, arXiv:2110.14168; theirs is a whole model,
and here only a head is trained, on what the student's last layer holds after it has read problem and solution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.models.heads import autocast
from kdkit.models.loading import context_length
from kdkit.models.writer import Prompt, read_prompt

STRENGTH = 0.01
"""Inverse of the penalty on the head's weights: there are about as many states as samples."""


@dataclass(frozen=True)
class Verifier:
    """A trained head."""

    head: Pipeline

    def scores(self, states: np.ndarray) -> np.ndarray:
        """Return the probability that each solution is right, `[N]`.

        Args:
            states: of `read_states`.
        """
        return self.head.predict_proba(states)[:, 1]


@torch.no_grad()
def read_states(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    batch_size: int = 16,
    autocast_dtype: torch.dtype | None = None,
) -> np.ndarray:
    """Return what a model's last layer holds of each solution: its last token's state, and the mean, `[N, 2 H]`.

    Args:
        prompts: the problem of each solution, as the model was asked.
        texts: the solutions.
    """
    pairs = [
        (read_prompt(prompt, tokenizer), tokenizer(text, add_special_tokens=False).input_ids)
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    context = context_length(model.config)
    rows = [(prompt + text)[:context] for prompt, text in pairs]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    states = np.zeros((len(rows), 2 * model.config.get_text_config().hidden_size), np.float32)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(rows[place]) for place in batch)
        input_ids = torch.tensor([rows[place] + [0] * (width - len(rows[place])) for place in batch])
        mask = torch.tensor([[1] * len(rows[place]) + [0] * (width - len(rows[place])) for place in batch])
        with autocast(model, autocast_dtype):
            output = model.base_model(
                input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
            )
        hidden = output.last_hidden_state.float().cpu()
        for row, place in enumerate(batch):
            first = min(len(pairs[place][0]), len(rows[place]) - 1)
            own = hidden[row, first : len(rows[place])]
            states[place] = torch.cat([own[-1], own.mean(dim=0)]).numpy()
    return states


def fit_verifier(states: np.ndarray, is_right: Sequence[bool]) -> Verifier | None:
    """Train a head; None where all solutions are right, or none is."""
    if len(set(is_right)) < 2:
        return None
    head = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
    return Verifier(head.fit(states, np.array(is_right)))


def describe_scores(scores: np.ndarray, is_right: Sequence[bool]) -> dict[str, Any]:
    """Say how well scores tell right solutions from wrong ones: `area_under_curve`, where half is chance."""
    both = len(set(is_right)) == 2
    return {
        "solutions": len(is_right),
        "right": sum(is_right),
        "area_under_curve": float(roc_auc_score(is_right, scores)) if both else None,
    }
