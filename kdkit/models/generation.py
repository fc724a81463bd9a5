"""Generation of text by a causal LM: batches of prompts of any length, drawn as the settings state and not otherwise.

What is drawn depends on the seed and on the places of prompt and sample alone: not on the size of a batch, nor on
whatever generation settings lie in the model's folder.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPast

from kdkit.errors import UserError
from kdkit.models.heads import autocast
from kdkit.models.loading import context_length

CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
"""What transformers calls keys and values that are kept; the second is its older name."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; what is cut off is cut off in the order of these fields."""

    temperature: float = 1.0
    """Of `softmax(logits / temperature)`; 0: the most likely token, always."""
    top_k: int = 0
    """Most likely tokens that can be drawn; 0: all."""
    top_p: float = 1.0
    """Share of the probability that the drawn tokens hold at least, the most likely first."""
    min_p: float = 0.0
    """Least probability of a drawn token, as a share of the most likely one's."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens that stand in the text already, and multiplies the negative ones."""
    max_new_tokens: int = 128
    """Tokens to add at most; the model's context may leave less room."""
    seed: int = 0


@dataclass(frozen=True)
class Generated:
    """What a model wrote after a prompt."""

    ids: list[int]
    """Without the token that ended it."""
    stop_id: int | None
    """The stop token that ended it; None: it ran out of room."""
    logprob: float | None = field(default=None, compare=False)
    """Mean log-probability of its tokens, the stop token included, in nats, as the model itself finds them likely: at
    temperature 1, nothing cut off. None: nobody noted it, as where the most likely token is always taken."""

    @property
    def stopped(self) -> bool:
        """Whether the model ended the text itself."""
        return self.stop_id is not None


def generate_ids(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop_ids: Sequence[int],
    *,
    vocab_size: int,
    num_samples: int = 1,
    first: int = 0,
    batch_size: int = 16,
    autocast_dtype: torch.dtype | None = None,
    on_token: Callable[[int], None] | None = None,
) -> list[list[Generated]]:
    """Write after every prompt, batch by batch, with keys and values kept.

    Args:
        prompts: token ids, each with all that the model expects before a text, such as its start token.
        stop_ids: tokens that end a text.
        vocab_size: true size of the tokenizer; rows of a padded head beyond it are never drawn.
        num_samples: texts for every prompt.
        first: number of the first prompt, where a longer list is written in parts: its random numbers go on.
        batch_size: texts that are written at the same time.
        autocast_dtype: dtype for autocast; None: none.
        on_token: called with every token as it is drawn, stop tokens included; for one prompt and one sample.

    Returns:
        For every prompt its samples.

    Raises:
        UserError: a prompt that leaves no room in the context, or an empty one.
    """
    if on_token is not None and (len(prompts), num_samples) != (1, 1):
        raise ValueError(f"on_token: expected one prompt and one sample, got {len(prompts)} and {num_samples}")
    context = context_length(model.config)
    rooms = [check_room(context, prompt, sampling.max_new_tokens) for prompt in prompts]
    # prompts of like length together: little padding; and of one room, since all rows of a batch go on to its end
    order = sorted(range(len(prompts)), key=lambda i: (-rooms[i], len(prompts[i])))
    texts: dict[tuple[int, int], Generated] = {}
    was_training = model.training
    model.eval()
    try:
        with _own_settings_aside(model), autocast(model, autocast_dtype):
            for room, group in groupby(order, key=rooms.__getitem__):
                places = [(i, sample) for i in group for sample in range(num_samples)]
                for start in range(0, len(places), batch_size):
                    batch = places[start : start + batch_size]
                    rows = [list(prompts[i]) for i, _ in batch]
                    numbers = [(first + i, sample) for i, sample in batch]
                    draw = Draw(rows, numbers, sampling, room, vocab_size, model.device)
                    written = _write(model, rows, draw, room, stop_ids, on_token)
                    found = map(_cut, written, draw.logprobs_of(len(written)), [stop_ids] * len(written))
                    texts.update(zip(batch, found, strict=True))
    finally:
        model.train(was_training)
    return [[texts[i, sample] for sample in range(num_samples)] for i in range(len(prompts))]


def check_room(context: int | None, prompt: Sequence[int], max_new_tokens: int) -> int:
    """Return how many tokens may follow a prompt.

    Args:
        context: most tokens that the model reads; None: no limit.

    Raises:
        UserError: none, or an empty prompt.
    """
    if not len(prompt):
        raise UserError("prompt: expected at least one token, got an empty prompt; write something")
    if context is not None and len(prompt) >= context:
        raise UserError(
            f"prompt: expected fewer than {context} tokens, the model's context, got {len(prompt)}; shorten it"
        )
    return max_new_tokens if context is None else min(max_new_tokens, context - len(prompt))


@torch.no_grad()
def _write(
    model: PreTrainedModel,
    rows: list[list[int]],
    draw: "Draw",
    room: int,
    stop_ids: Sequence[int],
    on_token: Callable[[int], None] | None,
) -> list[list[int]]:
    """Return what follows each row; after a stop token stands anything."""
    width = max(map(len, rows))
    padding = stop_ids[0] if stop_ids else 0  # any token: the mask hides it
    input_ids = torch.tensor([[padding] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    stated = GenerationConfig(
        do_sample=False,  # `draw` leaves one token only
        max_new_tokens=room,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=padding,
        use_cache=True,
    )
    output = model.generate(
        input_ids,
        attention_mask=mask,
        **{CACHE: _read_once(model, rows, input_ids, mask)},
        generation_config=stated,
        logits_processor=LogitsProcessorList([draw]),
        streamer=None if on_token is None else _Listener(on_token),
    )
    return output[:, width:].tolist()


def _read_once(
    model: PreTrainedModel, rows: list[list[int]], input_ids: torch.Tensor, mask: torch.Tensor
) -> DynamicCache | None:
    """Read a prompt with several samples once: its keys and values, all but the last token's, for every row.

    None where all prompts differ, have one token, or where the model keeps something else.
    """
    prompts = list(map(tuple, rows))
    firsts = {prompt: number for number, prompt in reversed(list(enumerate(prompts)))}
    if len(firsts) == len(rows) or input_ids.shape[1] == 1:
        return None
    once = sorted(firsts.values())
    seen = mask[once, :-1]
    positions = (seen.cumsum(dim=-1) - 1).clamp(min=0)
    # without the head, whose logits nobody needs
    cache = model.base_model(input_ids[once, :-1], attention_mask=seen, position_ids=positions, use_cache=True)[CACHE]
    if not isinstance(cache, DynamicCache):
        return None
    places = {number: place for place, number in enumerate(once)}
    cache.reorder_cache(torch.tensor([places[firsts[prompt]] for prompt in prompts], device=input_ids.device))
    return cache


def _cut(row: list[int], logprobs: list[float], stop_ids: Sequence[int]) -> Generated:
    """Cut what was written at its first stop token."""
    place = next((i for i, token_id in enumerate(row) if token_id in stop_ids), None)
    own = logprobs if place is None else logprobs[: place + 1]
    mean = sum(own) / len(own) if own else None
    return Generated(row, None, mean) if place is None else Generated(row[:place], row[place], mean)


class Draw(LogitsProcessor):
    """Draws the next token of every row; transformers then takes the only one that is left.

    Every row has random numbers of its own, so that it does not matter which rows share a batch.
    """

    def __init__(
        self,
        rows: list[list[int]],
        numbers: list[tuple[int, int]],
        sampling: Sampling,
        room: int,
        vocab_size: int,
        device: torch.device,
    ):
        """Prepare a batch.

        Args:
            numbers: of the prompt and of the sample, for every row.
        """
        self.sampling, self.vocab_size = sampling, vocab_size
        self.starts = torch.tensor([max(map(len, rows)) - len(row) for row in rows], device=device)
        draws = [np.random.default_rng((sampling.seed, *each)).random(room) for each in numbers]
        self.uniform = torch.from_numpy(np.stack(draws, axis=1)).to(device)
        self.step = 0
        self.logprobs: list[torch.Tensor] = []
        self.warpers = LogitsProcessorList()
        if sampling.top_k:
            self.warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            self.warpers.append(TopPLogitsWarper(sampling.top_p))
        if sampling.min_p > 0.0:
            self.warpers.append(MinPLogitsWarper(sampling.min_p))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores that leave one token of every row, or where the temperature is 0, the tokens' logits.

        Args:
            input_ids: int64, `[B, S]`, the padding before the prompts included.
            scores: fp32, `[B, V]`.
        """
        scores[:, self.vocab_size :] = -torch.inf
        own = scores
        if self.sampling.repetition_penalty != 1.0:
            scores = self._penalise(input_ids, scores)
        if self.sampling.temperature == 0.0:
            return scores
        kept = self.warpers(input_ids, scores / self.sampling.temperature)
        # a sum of 50,000 probabilities in fp32 would round small ones away
        probabilities = torch.softmax(kept, dim=-1)
        reached = probabilities.cumsum(dim=-1, dtype=torch.float64)
        drawn = torch.searchsorted(reached, self.uniform[self.step, :, None] * reached[:, -1:], right=True)
        self.step += 1
        drawn.clamp_(max=self.vocab_size - 1)
        is_own = not self.warpers and (self.sampling.temperature, self.sampling.repetition_penalty) == (1.0, 1.0)
        self.logprobs.append(
            probabilities.gather(1, drawn).log() if is_own else own.gather(1, drawn) - own.logsumexp(-1, keepdim=True)
        )
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)

    def logprobs_of(self, count: int) -> list[list[float]]:
        """Return the log-probabilities of what was drawn, row by row; none where nothing was."""
        return torch.cat(self.logprobs, dim=1).tolist() if self.logprobs else [[] for _ in range(count)]

    def _penalise(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Lower the scores of tokens that the text has; transformers' own class counts the padding in."""
        is_text = torch.arange(input_ids.shape[1], device=input_ids.device) >= self.starts[:, None]
        seen = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
        seen.scatter_(1, torch.where(is_text, input_ids, scores.shape[1]), True)
        penalty = self.sampling.repetition_penalty
        return torch.where(seen[:, :-1], torch.where(scores < 0, scores * penalty, scores / penalty), scores)


class _Listener(BaseStreamer):
    """Passes on the tokens of one row; the first call of `generate` brings the prompt."""

    def __init__(self, on_token: Callable[[int], None]):
        self.on_token, self.is_prompt = on_token, True

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, or the next token."""
        if not self.is_prompt:
            self.on_token(int(value))
        self.is_prompt = False

    def end(self) -> None:
        """Hear that the text has ended, which the caller sees for itself."""


@contextmanager
def _own_settings_aside(model: PreTrainedModel) -> Iterator[None]:
    """Put the generation settings of the model's folder aside: `generate` fills in whatever is left open."""
    of_folder = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = of_folder
