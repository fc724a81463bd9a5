"""The output head of a causal LM, apart from the model: hidden states in, logits out, some rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from transformers import PreTrainedModel

from kdkit.errors import UserError
from kdkit.losses.chunked.engine import Head


def find_head(model: PreTrainedModel, vocab_size: int) -> Head:
    """Return a model's head, checked against the logits that the model itself computes.

    Args:
        model: a causal LM.
        vocab_size: true size of its tokenizer; the head may have more rows.

    Raises:
        UserError: the model does more with its hidden states than a `Head` does.
    """
    output = model.get_output_embeddings()
    values = model.config.get_text_config().to_dict()
    head = Head(
        output.weight,
        vocab_size,
        bias=getattr(output, "bias", None),  # nn.Linear has it, an Embedding tied as a head does not
        scale=float(values.get("logit_scale") or 1.0 / (values.get("logits_scaling") or 1.0)),
        softcap=values.get("final_logit_softcapping"),
    )
    _check(model, head)
    return head


def last_hidden_state(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Run a model without its head; return what the head would read, `[B, S, H]`."""
    return model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state


def hidden_of_wrapped(model: torch.nn.Module, bare: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Run a model that is being trained through its wrapper; return what its head would read.

    DistributedDataParallel exchanges gradients only if its own `forward` was called, so the hidden
    states are taken on their way to the head, which computes one position only.

    Args:
        model: the model as Trainer hands it over, perhaps wrapped.
        bare: the model inside.
        input_ids: int64, `[B, S]`.

    Returns:
        `[B, S, H]`.
    """
    with _hidden_on_its_way(bare) as caught:
        model(input_ids=input_ids, use_cache=False, logits_to_keep=1)
    return caught[0]


@contextmanager
def _hidden_on_its_way(bare: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collect what the head reads in every forward pass inside."""
    caught: list[torch.Tensor] = []
    handle = bare.base_model.register_forward_hook(lambda _, __, output: caught.append(output.last_hidden_state))
    try:
        yield caught
    finally:
        handle.remove()


@torch.no_grad()
def _check(model: PreTrainedModel, head: Head) -> None:
    """Compare the head with the model on a few tokens, in one forward pass.

    Trainer wraps `forward` in autocast; a second pass below it computes in 32 bits, where a token may go to another
    expert of a mixture.
    """
    was_training = model.training
    model.eval()
    input_ids = (torch.arange(8, device=model.device) * 7 % head.vocab_size)[None]
    with _hidden_on_its_way(model) as caught:
        expected = model(input_ids=input_ids, use_cache=False).logits[..., : head.vocab_size].float()
    if not caught:  # OPT's goes to the decoder inside of its body
        raise UserError(
            f"{type(model).__name__}: expected a head that reads what the model's body returns, got one that passes "
            "the body by; this architecture is not supported"
        )
    got = head.logits(caught[0])
    model.train(was_training)
    finite = expected.isfinite()  # a model that computes NaN is no matter of its architecture
    expected, got = expected[finite], got[finite]
    difference = (got - expected).abs().max().item() if len(got) else 0.0
    if not difference <= 1e-2 * max(1.0, expected.abs().max().item() if len(got) else 1.0):
        raise UserError(
            f"{type(model).__name__}: expected logits that are a product of hidden states and the output embeddings "
            f"(scaled, soft-capped), got logits that differ by {difference:.3g}; this architecture is not supported"
        )


def autocast(model: PreTrainedModel, dtype: torch.dtype | None) -> torch.autocast | nullcontext:
    """Return the autocast context of a forward pass, or none."""
    return torch.autocast(model.device.type, dtype=dtype) if dtype is not None else nullcontext()
