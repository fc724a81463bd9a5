"""What a teacher is to the rest of kdkit, and the base class of your own: three methods, the rest has defaults.

`Teacher` (`kdkit.teachers.prepare`) is a model of transformers, `GGUFTeacher` (`kdkit.teachers.gguf`) a file run by
llama.cpp. A cache of answers stands in for either (`kdkit.teachers.cache`). See docs/teachers.md.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdkit.errors import UserError
from kdkit.losses.chunked.engine import even_chunks, rows_per_chunk
from kdkit.machine.user_code import UserCode
from kdkit.models.generation import Generated, Sampling
from kdkit.models.reading import Reader, Rows
from kdkit.models.writer import Writer
from kdkit.runs.folder import fingerprint, fingerprint_files
from kdkit.teachers.online import LogitTeacher, OnlineTeacher


class TextTeacher(UserCode):
    """A teacher that reads and writes token ids; subclass it and write `tokenizer`, `get_logits` and `generate`.

    The constructor takes no arguments where a configuration names the class (`teacher.path: python:module:Class`). It
    is called more than once, so load heavy weights when they are first needed.
    """

    path: str = ""
    """Where it comes from, for messages and reports."""
    member: str = ""
    """Its name among several teachers."""
    was_built: bool = False
    """Whether it is a teacher of `teacher.path: build`."""
    device: torch.device = torch.device("cpu")
    """Where its logits are made."""
    context: int | None = None
    """Most tokens that it reads at once; None: no limit."""
    batch_size: int = 16
    """Texts that `generate` writes at the same time, where it writes several."""
    parameters: int | None = None
    """How many it has; None: not known."""
    num_bytes: int | None = None
    """Bytes of its weights in memory; None: not known."""
    weight_type: str = "unknown"
    """In what its weights are stored."""
    has_layers: bool = False
    """Whether it is a model of transformers, whose layers, experts and attention can be seen: see `model`."""

    @property
    def name(self) -> str:
        """What messages and reports call it."""
        return f"{type(self).__name__} {self.path!r}" if self.path else type(self).__name__

    @property
    def names(self) -> tuple[str, ...]:
        """What a layer map may call it."""
        return (self.member, self.path) if self.member else (self.path,)

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer whose ids it reads."""
        raise NotImplementedError(f"{self.name}: tokenizer")

    def get_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Predict the next token at every position.

        Args:
            input_ids: int64, `[B, T]`, on the CPU, padded on the right by any ids; a prediction must depend on what
                stands at and before its position alone.

        Returns:
            fp32, `[B, T, V]`, V at least the tokenizer's size; NaN and inf are refused when they are read.
        """
        raise NotImplementedError(f"{self.name}: get_logits")

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop_ids: Sequence[int]
    ) -> list[Generated]:
        """Write after every prompt; for several texts of one prompt it stands there several times.

        Args:
            prompts: token ids, each with all that the model expects before a text.
            sampling: how tokens are drawn.
            stop_ids: tokens that end a text; none: it goes on to `sampling.max_new_tokens`.

        Raises:
            UserError: a prompt that leaves no room in the context.
        """
        raise UserError(
            f"teacher: expected one that writes text, got {self.name}, whose class has no method generate; add it"
        )

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        stop_ids: Sequence[int],
        *,
        num_samples: int = 1,
        first: int = 0,
        on_token: Callable[[int], None] | None = None,
    ) -> list[list[Generated]]:
        """Write several texts after every prompt, as `generate_ids` does; by default `generate` on repeated prompts.

        Args:
            first: number of the first prompt, in a longer list that is written in parts; by default the seed moves on.
            on_token: called with every token; by default when the text is whole.
        """
        repeated = [prompt for prompt in prompts for _ in range(num_samples)]
        written = self.generate(repeated, replace(sampling, seed=sampling.seed + first), stop_ids)
        for text in written if on_token is not None else ():
            for token_id in text.ids:
                on_token(token_id)
        return [written[i : i + num_samples] for i in range(0, len(written), num_samples)]

    def get_hidden_states(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what goes into each layer, and what the head reads: `[B, T, H]` each, first to last.

        Raises:
            UserError: it has none, which is the default.
        """
        self.refuse("hidden states", "get_hidden_states")

    @property
    def model(self) -> PreTrainedModel:
        """The model of transformers behind it.

        Raises:
            UserError: there is none, which is the default.
        """
        self.refuse("its layers and weights", "this step")

    @torch.no_grad()
    def token_logprobs(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of every token after the first, fp32, `[B, T - 1]`."""
        rows, (num_rows, width) = self.reader().read(input_ids), input_ids.shape
        wanted = (torch.arange(num_rows)[:, None] * width + torch.arange(width - 1)).flatten()
        targets, parts = input_ids[:, 1:].flatten(), []
        for part in even_chunks(len(wanted), rows_per_chunk(len(self.tokenizer), self.device)):
            logprobs = rows(wanted[part])[:, : len(self.tokenizer)].log_softmax(dim=-1)
            parts.append(logprobs.gather(1, targets[part, None].to(logprobs.device)).squeeze(1))
        return torch.cat(parts).view(num_rows, width - 1)

    def identify(self) -> dict[str, str]:
        """Return what a cache of its answers must match: by default the class and the text of its file.

        Override it where the answers depend on more, such as a file of weights.
        """
        file = inspect.getsourcefile(type(self))
        code = fingerprint_files(Path(file)) if file and Path(file).is_file() else fingerprint(type(self).__name__)
        return {"class": type(self).__name__, "code": code}

    def reader(self, autocast_dtype: torch.dtype | None = None) -> Reader:
        """Return what reads text with it, some rows at a time.

        Args:
            autocast_dtype: for a model of transformers.
        """
        return LogitReader(self.name, len(self.tokenizer), self.device, self.get_logits)

    def online(self, vocab_size: int, autocast_dtype: torch.dtype | None = None) -> OnlineTeacher:
        """Return what answers a trainer's batches.

        Args:
            vocab_size: true size of its tokenizer.
            autocast_dtype: for a model of transformers.
        """
        return LogitTeacher(self.reader(autocast_dtype), vocab_size, self.context)

    def writer(self, batch_size: int = 16, autocast_dtype: torch.dtype | None = None) -> Writer:
        """Return what writes text with it.

        Args:
            batch_size: texts that are written at the same time, by a model of transformers.
            autocast_dtype: for a model of transformers.
        """
        return Writer(self.tokenizer, self.write, self.context)

    def refuse(self, what: str, wanted_by: str) -> NoReturn:
        """Stop: it does not give what a loss or a step needs.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"teacher: expected one that gives {what}, for {wanted_by}, got {self.name}, which gives predictions only; "
            "use a model of transformers (teacher.path=FOLDER), or do without"
        )


class LogitReader(Reader):
    """Reads with a function that gives the logits of whole sequences; one sequence's are kept at a time."""

    def __init__(
        self, name: str, vocab_size: int, device: torch.device, get_logits: Callable[[torch.Tensor], torch.Tensor]
    ):
        """Keep the function.

        Args:
            get_logits: see `TextTeacher.get_logits`.
        """
        super().__init__(name, vocab_size, device)
        self.get_logits = get_logits

    def read(self, input_ids: torch.Tensor) -> Rows:
        """Prepare to read each sequence when its rows are asked for; see `Reader.read`."""
        input_ids, width = input_ids.cpu(), input_ids.shape[1]
        kept: dict[int, torch.Tensor] = {}

        def of_sequence(number: int) -> torch.Tensor:
            """Return the logits of one sequence; the last one is kept."""
            if number not in kept:
                kept.clear()  # before the next one is made, or two would be in memory
                kept[number] = self._checked(self.get_logits(input_ids[number : number + 1]), width)
            return kept[number]

        @torch.no_grad()
        def logits(rows: torch.Tensor) -> torch.Tensor:
            """Return the logits of flat rows, in their order."""
            rows = rows.cpu()
            numbers, counts = torch.unique_consecutive(rows // width, return_counts=True)
            pairs = zip(numbers.tolist(), (rows % width).split(counts.tolist()), strict=True)
            nothing = torch.empty(0, self.vocab_size, device=self.device)
            return torch.cat([nothing, *(of_sequence(number)[place] for number, place in pairs)])

        return logits

    def _checked(self, logits: torch.Tensor, width: int) -> torch.Tensor:
        """Return the logits of one sequence, `[T, V]`, without what lies beyond the vocabulary.

        Raises:
            UserError: another shape.
        """
        shape = tuple(logits.shape)
        if len(shape) != 3 or shape[:2] != (1, width) or shape[2] < self.vocab_size:
            raise UserError(
                f"teacher: expected logits of shape [1, {width}, {self.vocab_size}] from {self.name}, got "
                f"{list(shape)}; get_logits returns a row of the whole vocabulary for every position"
            )
        return logits[0, :, : self.vocab_size].float().to(self.device)


class WritingTeacher(TextTeacher):
    """A teacher whose own `write` is batched: `generate` follows from it."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, stop_ids: Sequence[int]
    ) -> list[Generated]:
        """See `TextTeacher.generate`."""
        return [texts[0] for texts in self.write(prompts, sampling, stop_ids)]
