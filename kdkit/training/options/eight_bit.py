"""AdamW whose running means take a byte each in place of four: bitsandbytes' AdamW8bit, embeddings and head in fp32.

Source: Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861, which keeps 32 bits for
embeddings too (section 2.3).
"""

import importlib.util
from typing import Any

import torch

from kdkit.errors import UserError
from kdkit.training.options.optimizer import Groups, split_groups, tables_of

INSTALL = "pip install 'bitsandbytes>=0.50'"


def check_eight_bit() -> None:
    """Refuse the optimizer where its package is missing.

    Raises:
        UserError: no bitsandbytes.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"train.optimizer: expected the package bitsandbytes for adamw_8bit, got none installed; {INSTALL}, "
            "or set train.optimizer=adamw"
        )


def make_eight_bit(model: torch.nn.Module, groups: Groups, adamw_options: dict[str, Any]) -> torch.optim.Optimizer:
    """Make the optimizer of a model.

    bitsandbytes' own way to except embeddings is a list that lives as long as the process: it goes by a parameter's
    number, so it changes every later optimizer, and it keeps the model alive. Here the group says it.

    Args:
        groups: of all parameters that learn.
        adamw_options: such as `lr`, `betas` and `eps`.

    Raises:
        UserError: no bitsandbytes.
    """
    check_eight_bit()
    from bitsandbytes.optim import AdamW8bit

    class EightBitAdamW(AdamW8bit):
        """AdamW8bit that asks the group how many bits its running means have."""

        def get_config(self, gindex: int, pindex: int, group: dict[str, Any]) -> dict[str, Any]:
            """Return the settings of a parameter; bitsandbytes' hook."""
            return super().get_config(gindex, pindex, group) | {"optim_bits": group["optim_bits"]}

    in_fp32, in_bytes = split_groups(groups, tables_of(model))
    given = [group | {"optim_bits": 8} for group in in_bytes] + [group | {"optim_bits": 32} for group in in_fp32]
    return EightBitAdamW(given, **{name: adamw_options[name] for name in ("lr", "betas", "eps")})
