"""What a model pays where documents end: whether the token that separates them is the one it was trained with."""

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.tokenizers import end_token_id
from kdkit.data.batches import Side
from kdkit.data.windows import Windows
from kdkit.losses.cross_entropy import shift_labels
from kdkit.models.reading import Reader, open_reader
from kdkit.training.scoring import iterate_batches

MAX_WINDOWS = 64
"""Windows with an end that are read."""
CHEAPER_BY = 3.0
"""Nats by which another token must be the more expected one to be named."""


@torch.no_grad()
def measure_ends(
    model: PreTrainedModel | Reader,
    windows: Windows,
    side: Side,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
    autocast_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Measure a model where documents end, on windows in which one does.

    Returns:
        `token` that separates documents, `nats` that it costs and `nats_after`, of the first token after it (means;
        None without an end); `bits_per_byte`: what both add to the score; `other_token`, BOS or EOS where that is
        another one, and `other_nats` that it would cost in the same place.
    """
    end = end_token_id(tokenizer)
    others = [i for i in (tokenizer.eos_token_id, tokenizer.bos_token_id) if i not in (None, end)]
    chosen = [end, *others[:1]]
    all_ids = np.asarray(windows.student_ids if side == "student" else windows.teacher_ids)
    is_end = (all_ids == end) & windows.labels(slice(None), side == "teacher")
    few = windows.select(np.flatnonzero(is_end.any(axis=1))[:MAX_WINDOWS])
    at_end, after = [], []
    with open_reader(model, autocast_dtype) as reader:
        for batch in iterate_batches(few, side, batch_size):
            ids, targets = batch["input_ids"], shift_labels(batch["labels"]).flatten()
            logits_of, flat = reader.read(ids), ids.flatten()
            is_after = (flat == end) & (targets >= 0)
            is_after[:: ids.shape[1]] = False  # the start of a window
            rows = ((targets == end) | is_after).nonzero().squeeze(1)
            nats = -logits_of(rows).float().log_softmax(dim=-1).cpu()
            of_end, of_after = nats[targets[rows] == end], nats[is_after[rows]]
            at_end.append(of_end[:, chosen])
            after.append(of_after.gather(1, targets[is_after][:, None]))
    costs = torch.cat(at_end).mean(dim=0).tolist() if len(few) else [None] * len(chosen)
    nats_after = torch.cat(after).mean().item() if sum(map(len, after)) else None
    total = ((costs[0] or 0.0) + (nats_after or 0.0)) * int(is_end.sum()) / np.log(2)
    names = tokenizer.convert_ids_to_tokens(chosen)
    return {
        "token": names[0],
        "nats": costs[0],
        "nats_after": nats_after,
        "bits_per_byte": float(total / max(int(windows.num_bytes.sum()), 1)),
        "other_token": names[1] if others else None,
        "other_nats": costs[1] if others else None,
    }


def warn_of_ends(facts: dict[str, Any], key: str) -> str | None:
    """Say that a model expects another separator; None where it does not.

    Args:
        facts: from `measure_ends`.
        key: the setting.
    """
    if facts["nats"] is None or facts["other_nats"] is None or facts["nats"] < facts["other_nats"] + CHEAPER_BY:
        return None
    return (
        f"{key}: the model pays {facts['nats']:.1f} nats for {facts['token']!r} at the end of a document and would pay "
        f"{facts['other_nats']:.1f} for {facts['other_token']!r}, as it seems to have been trained; set "
        f"{key}={facts['other_token']!r}"
    )
