"""A GGUF file as a teacher, run by llama.cpp (`teacher.path: FILE.gguf`): quantised on disk, quantised in memory."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.files import PROBES
from kdkit.errors import UserError
from kdkit.machine.gguf_files import read_gguf_header
from kdkit.models.generation import Draw, Generated, Sampling, check_room
from kdkit.models.llama_cpp import LlamaCpp
from kdkit.models.reading import Reader, Rows
from kdkit.runs.hashes import hash_file
from kdkit.teachers.interface import WritingTeacher


class GGUFTeacher(WritingTeacher):
    """A causal LM in a GGUF file; it gives predictions, and no hidden states, experts or attention."""

    def __init__(self, path: str, tokenizer: PreTrainedTokenizerFast, key: str, *, on_gpu: bool = False):
        """Load the file.

        Args:
            path: of the .gguf file.
            tokenizer: that of the file, from `load_gguf_tokenizer`, or the one that it was made with.
            key: the setting that named it, for messages.
            on_gpu: see `LlamaCpp`.

        Raises:
            UserError: see `read_gguf_header` and `LlamaCpp`; a tokenizer whose ids mean something else.
        """
        self.header = read_gguf_header(path, key)
        self.path, self._tokenizer = path, tokenizer
        self.context, self.parameters = self.header.context, self.header.parameters
        self.num_bytes, self.weight_type = self.header.path.stat().st_size, self.header.quantisation
        self.llama = LlamaCpp(self.header, key, on_gpu=on_gpu)
        check_ids(tokenizer, self.llama, key)

    @property
    def name(self) -> str:
        """The file and how its weights are stored, for messages."""
        return f"{Path(self.path).name} ({self.header.quantisation}, llama.cpp)"

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer."""
        return self._tokenizer

    def get_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """See `TextTeacher.get_logits`; `[B, T, V]` in one piece, where `reader` makes some rows at a time."""
        rows = range(input_ids.shape[1])
        return torch.stack([self.llama.logits(row, rows) for row in input_ids.tolist()])

    def reader(self, autocast_dtype: torch.dtype | None = None) -> Reader:
        """See `TextTeacher.reader`; it reads no further than it is asked, and on from where it was."""
        return GGUFReader(self)

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
        """See `TextTeacher.write`; the samples of a prompt share what was computed for it."""
        rooms = [check_room(self.context, prompt, sampling.max_new_tokens) for prompt in prompts]
        return [
            [
                self._write(list(prompt), (first + i, sample), sampling, room, stop_ids, on_token)
                for sample in range(num_samples)
            ]
            for i, (prompt, room) in enumerate(zip(prompts, rooms, strict=True))
        ]

    def identify(self) -> dict[str, str]:
        """Return the sha256 of the file."""
        return {"gguf": hash_file(self.header.path)}

    def _write(
        self,
        prompt: list[int],
        number: tuple[int, int],
        sampling: Sampling,
        room: int,
        stop_ids: Sequence[int],
        on_token: Callable[[int], None] | None,
    ) -> Generated:
        """Write one text after one prompt."""
        draw = Draw([prompt], [number], sampling, room, len(self._tokenizer), self.device)
        ids = list(prompt)
        for _ in range(room):
            scores = draw(torch.tensor([ids]), self.llama.logits(ids, [len(ids) - 1]))
            token_id = int(scores.argmax())
            if on_token is not None:
                on_token(token_id)
            if token_id in stop_ids:
                return Generated(ids[len(prompt) :], token_id)
            ids.append(token_id)
        return Generated(ids[len(prompt) :], None)


class GGUFReader(Reader):
    """Reads with llama.cpp the rows that it is asked for."""

    def __init__(self, teacher: GGUFTeacher):
        super().__init__(teacher.name, len(teacher.tokenizer), teacher.device)
        self.llama = teacher.llama

    def read(self, input_ids: torch.Tensor) -> Rows:
        """Prepare to read; see `Reader.read`."""
        texts, width = input_ids.tolist(), input_ids.shape[1]

        def logits(rows: torch.Tensor) -> torch.Tensor:
            """Return the logits of flat rows; a sequence is read once, however often its rows are asked for."""
            asked = rows.cpu()
            rows, inverse = torch.unique(asked, return_inverse=True)
            numbers, counts = torch.unique_consecutive(rows // width, return_counts=True)
            pairs = zip(numbers.tolist(), (rows % width).split(counts.tolist()), strict=True)
            parts = [self.llama.logits(texts[number], places.tolist()) for number, places in pairs]
            made = (parts[0] if len(parts) == 1 else torch.cat(parts))[:, : self.vocab_size]
            return made if torch.equal(rows, asked) else made.index_select(0, inverse)

        return logits


def check_ids(tokenizer: PreTrainedTokenizerFast, llama: LlamaCpp, key: str) -> None:
    """Check that a tokenizer's ids mean to it what they mean to llama.cpp; print where it cuts a text otherwise.

    Raises:
        UserError: more entries than the model has, or entries that are spelled otherwise.
    """
    if len(tokenizer) > llama.vocab_size:
        raise UserError(
            f"{key}: expected a tokenizer of at most {llama.vocab_size} entries, the vocabulary of "
            f"{llama.header.path.name!r}, got {len(tokenizer)}; name its own: teacher.tokenizer=FOLDER"
        )
    entries = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    differing = [i for i, text in enumerate(entries) if text != llama.token_text(i)]
    if differing:
        first = differing[0]
        raise UserError(
            f"{key}: expected a tokenizer whose ids mean what those of {llama.header.path.name!r} mean, got "
            f"{len(differing)} that differ, such as {first}: {entries[first]!r}, not {llama.token_text(first)!r}; "
            "name its own: teacher.tokenizer=FOLDER"
        )
    for text in PROBES:
        ours, theirs = tokenizer(text, add_special_tokens=False).input_ids, llama.tokenize(text)
        if ours != theirs:
            print(
                f"{key}: the tokenizer cuts {text[:40]!r} into {len(ours)} tokens, llama.cpp into {len(theirs)}; the "
                "teacher reads the first, and may predict worse for it (teacher.tokenizer=FOLDER names another)"
            )
            return
