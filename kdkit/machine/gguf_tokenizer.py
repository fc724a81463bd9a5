"""The tokenizer of a GGUF file, rebuilt from its metadata so that it cuts text as llama.cpp does.

transformers rebuilds vocabulary and merges. Two rules get lost there and are put back: digits that are cut off one by
one before a byte-level BPE, and the space that SentencePiece puts before every text, also before one that begins with
a space.
"""

from pathlib import Path

from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdkit.errors import UserError
from kdkit.machine.gguf_files import GGUFHeader, read_gguf_header

CUTS_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Values of `tokenizer.ggml.pre` for which llama.cpp cuts off every digit (llama-vocab.cpp)."""


def load_gguf_tokenizer(path: str | Path, key: str) -> PreTrainedTokenizerFast:
    """Rebuild the tokenizer of a GGUF file; about 2 s for 50,000 entries.

    Raises:
        UserError: see `read_gguf_header`; a kind of tokenizer that transformers cannot rebuild.
    """
    header = read_gguf_header(str(path), key)
    file = header.path
    try:
        read = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
    except Exception as error:  # tokenizers raises bare Exception, transformers what its readers raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{key}: expected a GGUF file whose tokenizer can be rebuilt, got {file.name!r} with "
            f"{header.metadata.get('tokenizer.ggml.model')!r}: {reason}; name a folder that has it: "
            "teacher.tokenizer=FOLDER"
        ) from None
    _restore(read, header)
    return PreTrainedTokenizerFast(
        tokenizer_object=read.backend_tokenizer,
        bos_token=read.bos_token,
        eos_token=read.eos_token,
        unk_token=read.unk_token,
        pad_token=read.pad_token,
        chat_template=read.chat_template,
        clean_up_tokenization_spaces=False,
    )


def _restore(tokenizer: PreTrainedTokenizerFast, header: GGUFHeader) -> None:
    """Put back the rules that were lost."""
    values, backend = header.metadata, tokenizer.backend_tokenizer
    kind = values.get("tokenizer.ggml.model")
    if kind == "gpt2" and values.get("tokenizer.ggml.pre") in CUTS_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if kind == "llama" and values.get("tokenizer.ggml.add_space_prefix", True):
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.pre_tokenizer = None
