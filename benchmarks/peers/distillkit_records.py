"""DistillKit's compressed log-probability records: how long they are and what comes back out of them.

Not the package itself, which is installed from its repository only, but a re-implementation in our own words of what
`distillkit.compression` of arcee-ai/DistillKit (Apache-2.0) does; benchmarks/peers/records.py runs the package's own
code where there is a checkout, and finds the same ids, the same bytes and values within 2e-4 nats. Both settings are
those that its README recommends, with `residual_bins: []` (no quantised residuals), `delta_encoding: false` and the
default `normalize_t: false`:

    recommended   k 128, exact_k 16 in bfloat16, polynomial_terms [0, 1, 2, 3, 4, "sqrt"] in float32
    budget        k 50,  exact_k 1  in bfloat16, polynomial_terms [0, 1, "sqrt"] in float32

A record is, per token, with the k most probable tokens in descending order:

    part                                          recommended         budget
    exact_k highest log-probabilities, bfloat16   16 x 2 =  32 bytes   1 x 2 =   2 bytes
    coefficients of the other k - exact_k, fp32    6 x 4 =  24 bytes   3 x 4 =  12 bytes
    k token ids of ceil(log2 v) bits, packed      128 x 16 bits = 256  50 x 16 bits = 100
    together, for v = 49,152                      312 bytes            114 bytes

The curve is a least-squares fit of sum_j c_j f_j(t) over the ranks t = 0 .. k - exact_k - 1, unscaled, by a pseudo-
inverse from an SVD with singular values under 1e-5 dropped. DistillKit fits in the precision of the log-probabilities
it is given. Its capture script gives fp32, and with t**4 up to 1.5e8 the small singular values of the recommended
setting then lie below the rounding error of the large one. On random logits numpy's OpenBLAS still got them right and
torch's MKL put the tail off by 2 nats (RMS) instead of 0.03. The default here is float64, the better for DistillKit.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

SMALLEST_SINGULAR_VALUE = 1e-5


@dataclass(frozen=True)
class Setting:
    """What a record holds."""

    k: int
    exact: int
    """How many of the highest log-probabilities are stored as such, in bfloat16."""
    terms: tuple[float, ...]
    """Powers of the rank whose coefficients are stored, in float32; 0.5 is DistillKit's `sqrt`."""


SETTINGS = {
    "recommended": Setting(k=128, exact=16, terms=(0, 1, 2, 3, 4, 0.5)),
    "budget": Setting(k=50, exact=1, terms=(0, 1, 0.5)),
}


def roundtrip(
    logprobs: np.ndarray | torch.Tensor,
    setting: str = "recommended",
    precision: Literal["float32", "float64"] = "float64",
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Compress log-probabilities into records of bytes and read these back.

    Args:
        logprobs: float, n v, normalised over the vocabulary.
        setting: a key of `SETTINGS`.
        precision: of the fit; the coefficients are stored in fp32 either way.

    Returns:
        Reconstructed log-probabilities (fp32, n k), their token ids (int64, n k), both in the order of the true
        probability, and the bytes of a token's record. Nothing is renormalised: the reconstruction may be above 0.
    """
    logprobs = torch.as_tensor(logprobs)
    records = compress(logprobs, SETTINGS[setting], getattr(torch, precision))
    values, ids = decompress(records, SETTINGS[setting], logprobs.shape[-1])
    return values, ids, records.shape[-1]


def compress(logprobs: torch.Tensor, setting: Setting, precision: torch.dtype = torch.float64) -> torch.Tensor:
    """Make records (uint8, n b) of log-probabilities (n v)."""
    top, ids = logprobs.topk(setting.k, dim=-1)
    exact, tail = top[:, : setting.exact], top[:, setting.exact :].to(precision)
    curves = _curves(setting, precision)
    left, singular, right = torch.linalg.svd(curves, full_matrices=False)
    inverse = torch.where(singular > SMALLEST_SINGULAR_VALUE, 1 / singular, 0)
    coefficients = ((tail @ left) * inverse) @ right
    parts = [
        exact.to(torch.bfloat16).contiguous().view(torch.uint8),
        coefficients.float().contiguous().view(torch.uint8),
        _pack(ids, _id_bits(logprobs.shape[-1])),
    ]
    return torch.cat(parts, dim=-1)


def decompress(records: torch.Tensor, setting: Setting, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Read records back: log-probabilities (fp32, n k) and token ids (int64, n k)."""
    lengths = [2 * setting.exact, 4 * len(setting.terms)]
    exact, coefficients, packed = records.split([*lengths, records.shape[-1] - sum(lengths)], dim=-1)
    exact = exact.contiguous().view(torch.bfloat16).float()
    coefficients = coefficients.contiguous().view(torch.float32)
    tail = (_curves(setting, torch.float32) * coefficients.unsqueeze(-2)).sum(-1)
    return torch.cat([exact, tail], dim=-1), _unpack(packed, _id_bits(vocabulary), setting.k)


def _curves(setting: Setting, dtype: torch.dtype) -> torch.Tensor:
    """Evaluate each term at each rank: ranks x terms."""
    ranks = torch.arange(setting.k - setting.exact, dtype=dtype)
    return torch.stack([ranks.sqrt() if term == 0.5 else ranks**term for term in setting.terms], dim=-1)


def _id_bits(vocabulary: int) -> int:
    return (vocabulary - 1).bit_length()


def _pack(ids: torch.Tensor, bits: int) -> torch.Tensor:
    """Write ids as one stream of bits, the highest first, padded to whole bytes."""
    shifts = np.arange(bits - 1, -1, -1)
    stream = (ids.numpy()[..., None] >> shifts & 1).astype(np.uint8).reshape(len(ids), -1)
    return torch.from_numpy(np.packbits(stream, axis=-1))


def _unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    stream = np.unpackbits(packed.numpy(), axis=-1, count=count * bits).reshape(len(packed), count, bits)
    return torch.from_numpy(stream.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64)))
