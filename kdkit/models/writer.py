"""A model that writes text: prompts, plain or as conversations, in; text out, as a whole or piece by piece."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.alignment.templates import Message, encode_pieces, render_prompt, stop_ids
from kdkit.alignment.tokenizers import start_token_id
from kdkit.models.generation import Generated, Sampling, generate_ids
from kdkit.models.loading import context_length

Prompt = str | Sequence[Message]
"""Text to be continued, or messages to be answered."""

_CONTEXT = 8
"""Tokens before a text with which it is decoded: some vocabularies drop a space that stands first."""
_HALF = "\ufffd"
"""What an unfinished character is decoded to."""


@dataclass(frozen=True)
class Written:
    """A text that a model wrote."""

    text: str
    num_tokens: int
    """Without the one that ended it."""
    stopped: bool
    """Whether the model ended it; else it ran out of room."""


@dataclass(frozen=True)
class Writer:
    """What writes text, and the tokenizer whose ids it reads and writes."""

    tokenizer: PreTrainedTokenizerFast
    generate: Callable[..., list[list[Generated]]]
    """Takes prompts, sampling, stop tokens, and by name `num_samples`, `first` and `on_token`: see `generate_ids`."""
    context: int | None = None
    """Most tokens that it reads at once, prompt and text together; None: no limit."""

    def write(
        self, prompts: Sequence[Prompt], sampling: Sampling, num_samples: int = 1, first: int = 0
    ) -> list[list[Written]]:
        """Write after every prompt; see `generate_ids`.

        Raises:
            UserError: a prompt that leaves no room in the context, or messages and a tokenizer without a template.
        """
        rows = [read_prompt(prompt, self.tokenizer) for prompt in prompts]
        samples = self.generate(rows, sampling, stop_ids(self.tokenizer), num_samples=num_samples, first=first)
        return [
            [_written(text, self.tokenizer, row) for text in texts] for row, texts in zip(rows, samples, strict=True)
        ]

    def stream(self, prompt: Prompt, sampling: Sampling, on_text: Callable[[str], None]) -> Written:
        """Write after one prompt, and pass on every piece of text as soon as its characters are whole.

        Raises:
            UserError: see `write`.
        """
        row, stops = read_prompt(prompt, self.tokenizer), stop_ids(self.tokenizer)
        stream = TextStream(self.tokenizer, row, stops, on_text)
        ((text,),) = self.generate([row], sampling, stops, on_token=stream.add)
        stream.end()
        return _written(text, self.tokenizer, row)


def model_writer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int = 16,
    autocast_dtype: torch.dtype | None = None,
) -> Writer:
    """Return a writer that is a model of transformers.

    Args:
        batch_size: texts that are written at the same time.
        autocast_dtype: dtype for autocast; None: none.
    """
    options = {"vocab_size": len(tokenizer), "batch_size": batch_size, "autocast_dtype": autocast_dtype}
    return Writer(tokenizer, partial(generate_ids, model, **options), context_length(model.config))


def read_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return what a model reads: a start token and the text, or the conversation as its template writes it."""
    if isinstance(prompt, str):
        return encode_pieces([start_token_id(tokenizer), prompt], tokenizer)
    return render_prompt(prompt, tokenizer)


def decode_after(tokenizer: PreTrainedTokenizerFast, before: Sequence[int], ids: Sequence[int]) -> str:
    """Return the text that ids add to what stands before them, special tokens left out."""
    context = list(before[-_CONTEXT:])
    start, whole = (
        tokenizer.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for each in (context, [*context, *ids])
    )
    return whole[len(start) :]


class TextStream:
    """Turns tokens into text as they come."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        before: Sequence[int],
        stops: Sequence[int],
        on_text: Callable[[str], None],
    ):
        """Prepare for the tokens that follow a prompt."""
        self.tokenizer, self.before, self.stops, self.on_text = tokenizer, before, stops, on_text
        self.ids: list[int] = []
        self.shown = 0

    def add(self, token_id: int) -> None:
        """Pass on the text that a token completes."""
        if token_id not in self.stops:
            self.ids.append(token_id)
            text = decode_after(self.tokenizer, self.before, self.ids)
            if not text.endswith(_HALF):
                self._show(text)

    def end(self) -> None:
        """Pass on what is left: half a character."""
        self._show(decode_after(self.tokenizer, self.before, self.ids))

    def _show(self, text: str) -> None:
        if len(text) > self.shown:
            self.on_text(text[self.shown :])
            self.shown = len(text)


def _written(text: Generated, tokenizer: PreTrainedTokenizerFast, before: Sequence[int]) -> Written:
    return Written(decode_after(tokenizer, before, text.ids), len(text.ids), text.stopped)
