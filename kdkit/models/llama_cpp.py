"""A GGUF file run by llama.cpp: weights stay quantised in memory, predictions come for the positions asked for.

Written on the C functions that llama-cpp-python passes on, since its class `Llama` keeps a table of context x
vocabulary numbers, and keys and values in fp16: on fp32 weights that is 0.03 off in a logit, with fp32 2e-5.
"""

import ctypes
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch

from kdkit.errors import UserError
from kdkit.machine.gguf_files import INSTALL, GGUFHeader

BATCH = 32
"""Tokens in one call of llama.cpp. Its memory for logits, twice `BATCH x V` numbers, grows with it and its speed hardly
does: SmolLM2-135M reads as fast with 32 as with 512."""
CONTEXT_STEP = 256
"""Contexts are opened in multiples of so many tokens."""
FP32 = 0
"""ggml's number of the type."""
WARNING, ERROR = 3, 4


@dataclass(frozen=True)
class Library:
    """llama.cpp, loaded."""

    calls: ModuleType
    """Its C functions."""
    said: deque[str]
    """Its last warnings and errors."""
    listener: Any
    """What llama.cpp calls with its messages; it must live as long as the library."""


def load_library(key: str) -> Library:
    """Load llama.cpp, once; its messages are kept, not printed.

    Args:
        key: the setting that named the file, for messages.

    Raises:
        UserError: it is not installed.
    """
    try:
        import llama_cpp
    except ModuleNotFoundError:
        raise UserError(
            f"{key}: expected llama.cpp to run a GGUF file, got no Python package 'llama_cpp'; {INSTALL} (it is "
            "compiled, which takes minutes)"
        ) from None
    return _start(llama_cpp)


@lru_cache(maxsize=1)
def _start(llama_cpp: ModuleType) -> Library:
    """Start the library and keep its messages."""
    said: deque[str] = deque(maxlen=8)

    @llama_cpp.llama_log_callback
    def listen(level: int, text: bytes, _: object) -> None:
        if level in (WARNING, ERROR) and (line := " ".join(text.decode(errors="replace").split())):
            said.append(line)

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return Library(llama_cpp, said, listen)


class LlamaCpp:
    """One model, and one text at a time: what of it has been read is kept, so that reading on costs the rest only."""

    def __init__(self, header: GGUFHeader, key: str, *, on_gpu: bool = False):
        """Load the weights; nothing is read yet.

        Args:
            header: from `read_gguf_header`, which has checked the file.
            key: the setting that named it, for messages.
            on_gpu: put all layers on the GPU, where llama.cpp was compiled for one.

        Raises:
            UserError: an architecture that llama.cpp does not know, or another reason why it cannot be loaded.
        """
        self.library, self.header = load_library(key), header
        calls = self.calls = self.library.calls
        self._context, self._length = None, 0
        self._read: list[int] = []
        options = calls.llama_model_default_params()
        options.n_gpu_layers = -1 if on_gpu and calls.llama_supports_gpu_offload() else 0
        self.library.said.clear()
        self._model = calls.llama_model_load_from_file(str(header.path).encode(), options)
        if not self._model:
            raise UserError(
                f"{key}: expected a GGUF file that llama.cpp can run, got {header.path.name!r} (architecture "
                f"{header.architecture!r}): {self._last_words()}; use another file, or a model of transformers"
            )
        self._memory = {"model": self._model}
        self._vocabulary = calls.llama_model_get_vocab(self._model)
        self.vocab_size = int(calls.llama_vocab_n_tokens(self._vocabulary))
        """Rows of its head."""
        self.context = header.context
        """Most tokens that it reads at once; None: not said."""
        self._batch = self._memory["batch"] = calls.llama_batch_init(BATCH, 0, 1)
        for place in range(BATCH):
            self._batch.n_seq_id[place] = 1
            self._batch.seq_id[place][0] = 0
        parts = self._batch.token, self._batch.pos, self._batch.logits
        self._tokens, self._positions, self._flags = (np.ctypeslib.as_array(part, (BATCH,)) for part in parts)
        # not __del__: when a process ends, the library may be gone before it is called
        self.close = weakref.finalize(self, _free, calls, self._memory)
        """Give its memory back."""

    def logits(self, ids: Sequence[int], rows: Sequence[int]) -> torch.Tensor:
        """Predict what follows some positions of a text, fp32, `[rows, V]`.

        Args:
            ids: the text, at least up to the last row.
            rows: positions, increasing.

        Raises:
            UserError: more tokens than the model's context, or ids beyond its vocabulary.
        """
        ids, wanted = list(ids[: rows[-1] + 1]), set(rows)
        self._check(ids)
        done = self._keep(ids, rows[0])
        out = torch.empty(len(wanted), self.vocab_size)
        filled = 0
        for first in range(done, len(ids), BATCH):
            part = ids[first : first + BATCH]
            flags = [first + place in wanted for place in range(len(part))]
            self._decode(part, first, flags)
            if count := sum(flags):
                pointer = self.calls.llama_get_logits(self._context)
                values = np.ctypeslib.as_array(pointer, shape=(count * self.vocab_size,))
                out[filled : filled + count] = torch.from_numpy(values.reshape(count, self.vocab_size))
                filled += count
        self._read = ids
        return out

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Cut a text as llama.cpp does, without start and end tokens.

        Args:
            special: whether names of special tokens in it are read as such.
        """
        content = text.encode()
        room = (ctypes.c_int32 * (len(content) + 8))()
        count = self.calls.llama_tokenize(self._vocabulary, content, len(content), room, len(room), False, special)
        return list(room[: max(count, 0)])

    def token_text(self, token_id: int) -> str:
        """Return how the file spells a token."""
        return self.calls.llama_vocab_get_text(self._vocabulary, token_id).decode(errors="replace")

    def _check(self, ids: list[int]) -> None:
        """Refuse what llama.cpp would stop the process at, or answer with an error code."""
        if self.context is not None and len(ids) > self.context:
            raise UserError(
                f"teacher: expected at most {self.context} tokens, the context of {self.header.path.name!r}, got "
                f"{len(ids)}; shorten the text"
            )
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise UserError(
                f"teacher: expected ids below {self.vocab_size}, the vocabulary of {self.header.path.name!r}, got "
                f"{min(ids)} to {max(ids)}; the text was cut by another tokenizer"
            )

    def _keep(self, ids: list[int], first: int) -> int:
        """Keep what has been read of this text already; return how many tokens that is, at most `first`."""
        if len(ids) > self._length:
            self._open(len(ids))
        memory = self.calls.llama_get_memory(self._context)
        same = next((i for i, (a, b) in enumerate(zip(self._read, ids, strict=False)) if a != b), len(self._read))
        same = min(same, len(ids), first)
        # a recurrent model cannot forget a part
        if same and not self.calls.llama_memory_seq_rm(memory, 0, same, -1):
            same = 0
        if not same:
            self.calls.llama_memory_clear(memory, False)
        self._read = ids[:same]
        return same

    def _open(self, length: int) -> None:
        """Open a context for texts of some length."""
        if (old := self._memory.pop("context", None)) is not None:
            self.calls.llama_free(old)
        length = -(-length // CONTEXT_STEP) * CONTEXT_STEP
        options = self.calls.llama_context_default_params()
        options.n_ctx = self._length = length
        options.n_batch = options.n_ubatch = BATCH
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        options.type_k = options.type_v = FP32
        options.flash_attn_type = self.calls.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.library.said.clear()
        self._context, self._read = self.calls.llama_init_from_model(self._model, options), []
        if not self._context:
            self._length = 0
            raise UserError(
                f"teacher: expected memory for {length} tokens of {self.header.path.name!r}, got an error of "
                f"llama.cpp: {self._last_words()}; shorten the sequences (data.max_length, teacher.max_length)"
            )

        self._memory["context"] = self._context

    def _decode(self, ids: list[int], first: int, flags: list[bool]) -> None:
        """Read some tokens after what is kept."""
        batch, count = self._batch, len(ids)
        batch.n_tokens = count
        self._tokens[:count], self._positions[:count] = ids, range(first, first + count)
        self._flags[:count] = flags
        self.library.said.clear()
        code = self.calls.llama_decode(self._context, batch)
        if code != 0:
            self._read = []
            raise UserError(
                f"teacher: expected llama.cpp to read {count} tokens with {self.header.path.name!r}, got its error "
                f"{code}: {self._last_words()}; check the file"
            )

    def _last_words(self) -> str:
        """Return what llama.cpp said last."""
        return "; ".join(list(self.library.said)[-2:])[:300] or "no reason given"


def _free(calls: ModuleType, memory: dict[str, Any]) -> None:
    """Free what a model holds, in the order in which one part needs the other."""
    for name, free in (
        ("context", calls.llama_free),
        ("batch", calls.llama_batch_free),
        ("model", calls.llama_model_free),
    ):
        if name in memory:
            free(memory.pop(name))
