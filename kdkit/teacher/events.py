"""What a pair's predictions are compared on: the same outcomes for both models, made from the logits of each.

Letters: c rows, v vocabulary, g events. With one tokenizer the events are its tokens. With two, they are
the tokens that both have (`Common`), or the tokens of the finer one, which the coarser one's tokens begin
with (`Grouped`). An event's logit is the log-sum-exp of its tokens' logits, so a softmax over events is
the distribution that the tokens' softmax implies, renormalised over those that belong to an event.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tokens:
    """Every token is an event."""

    def push(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn logits, c v, into the logits of the events, c g."""
        return logits

    def pull(self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        """Turn a gradient by the events' logits into one by the logits.

        Args:
            gradient: c g.
            logits: c v: what was pushed.
            events: c g: what came out.
        """
        return gradient


@dataclass(frozen=True)
class Common:
    """Some tokens are events, in a given order."""

    ids: torch.Tensor
    """int64, g: distinct tokens."""

    def push(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Tokens.push`."""
        return logits.index_select(-1, self.ids)

    def pull(self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        """See `Tokens.pull`; tokens that are no event get 0."""
        return torch.zeros_like(logits).index_copy_(-1, self.ids, gradient)


@dataclass(frozen=True)
class Grouped:
    """Tokens that begin with the same piece of text are one event."""

    groups: torch.Tensor
    """int64, v: the event of each token; `size` for none."""
    size: int

    def push(self, logits: torch.Tensor) -> torch.Tensor:
        """See `Tokens.push`; an event without a token gets the smallest probability that fp32 has."""
        largest = logits.amax(dim=-1, keepdim=True)
        sums = logits.new_zeros(*logits.shape[:-1], self.size + 1)
        sums.index_add_(-1, self.groups, (logits - largest).exp_())
        return sums[..., : self.size].clamp(min=torch.finfo(logits.dtype).tiny).log_().add_(largest)

    def pull(self, gradient: torch.Tensor, logits: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
        """See `Tokens.pull`; d event / d logit is the token's share of its event."""
        padded = torch.nn.functional.pad(gradient, (0, 1))
        totals = torch.nn.functional.pad(events, (0, 1), value=torch.inf)
        shares = (logits - totals.index_select(-1, self.groups)).exp_()
        return shares.mul_(padded.index_select(-1, self.groups))


Events = Tokens | Common | Grouped
