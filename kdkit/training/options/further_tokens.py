"""Multi-token prediction: heads that predict further tokens than the next one, as an auxiliary loss of a training.

They belong to the training: the student that is saved is the plain model, with what they have taught its layers.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator

from kdkit.config.recipe.settings import MultiTokenConfig
from kdkit.losses.chunked.engine import Head, chunked_loss, cross_entropy_chunk, even_chunks, rows_per_chunk
from kdkit.losses.cross_entropy import IGNORE_INDEX, count_items


class FurtherTokens(torch.nn.Module):
    """One block for each further token, `h + silu(W h)`, in front of the student's own output head.

    With W = 0 at the start each predicts what the student does, and nothing is drawn from the random stream.

    Sources: Gloeckle et al. 2024 (multi-token prediction with a shared output head), arXiv:2404.19737; the block is
    that of Cai et al. 2024 (Medusa), arXiv:2401.10774.
    """

    def __init__(self, settings: MultiTokenConfig, hidden_size: int):
        """Make the blocks.

        Args:
            hidden_size: H of what the head reads.
        """
        super().__init__()
        self.weight = settings.weight
        blocks = (torch.nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(settings.num_tokens))
        self.blocks = torch.nn.ModuleList(blocks)
        for block in self.blocks:
            torch.nn.init.zeros_(block.weight)

    def loss_of(
        self, hidden: torch.Tensor, labels: torch.Tensor, head: Head, num_items: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum the cross-entropy of all further tokens, divided by the tokens of the step.

        Args:
            hidden: `[B * S, H]`, with a graph: what the head reads.
            labels: int64, `[B, S]`, not shifted; `IGNORE_INDEX` where nothing is to be predicted.
            head: the student's, which learns from this too.
            num_items: tokens in the loss of the whole step; None: this batch is the step.

        Returns:
            The weighted loss, and per token of the step the raw `multi_token_loss`, a mean over the further tokens, and
            `multi_token_weighted` as it stands in the loss.
        """
        num_items = count_items(int((labels[:, 1:] != IGNORE_INDEX).sum()), num_items)
        total = hidden.new_zeros((), dtype=torch.float32)
        for distance, block in enumerate(self.blocks, start=2):
            targets = F.pad(labels[:, distance:], (0, min(distance, labels.shape[1])), value=IGNORE_INDEX).flatten()
            rows = (targets != IGNORE_INDEX).nonzero().squeeze(1)
            chosen = hidden.index_select(0, rows)
            moved = chosen + F.silu(F.linear(chosen, block.weight.to(chosen.dtype)))
            weights = torch.full((len(rows),), 1.0, device=hidden.device) / num_items
            chunks = even_chunks(len(rows), rows_per_chunk(head.vocab_size, hidden.device))
            loss, _ = chunked_loss(moved, head, cross_entropy_chunk(targets[rows], weights), chunks)
            total = total + loss
        weighted = self.weight * total
        return weighted, {
            "multi_token_loss": total.detach() / len(self.blocks),
            "multi_token_weighted": weighted.detach(),
        }

    def average_gradients(self, accelerator: Accelerator) -> None:
        """Average the gradients over the processes; DistributedDataParallel knows the student's parameters only."""
        if accelerator.num_processes > 1:
            for parameter in self.parameters():
                parameter.grad = accelerator.reduce(parameter.grad, reduction="mean")
