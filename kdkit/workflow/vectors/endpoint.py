"""The verb `embed`: the vectors of a file's sentences, asked from an endpoint, in a file for `teacher.vectors`."""

from dataclasses import dataclass

from kdkit.config.values import expand_home
from kdkit.embeddings.data.sentences import load_sentences
from kdkit.embeddings.teacher.endpoint import Endpoint, embed_texts
from kdkit.errors import UserError
from kdkit.runs.paths import find_root, make_place_for, resolve_output


@dataclass(frozen=True)
class EmbedRequest:
    """What the command line says."""

    file: str
    out: str
    url: str
    model: str
    key_variable: str
    batch_size: int


def embed_file(request: EmbedRequest) -> str:
    """Ask for the vectors that are missing; return a line about the file.

    Raises:
        UserError: see `load_sentences` and `embed_texts`; another ending than .parquet, or no URL.
    """
    out = expand_home(request.out)
    if out.suffix != ".parquet":
        raise UserError(f"OUT: expected a .parquet file, got {request.out!r}; name it so")
    if not request.url.startswith(("http://", "https://")):
        raise UserError(f"--url: expected http://... or https://..., got {request.url!r}; correct it")
    make_place_for(out, "OUT")
    sentences = load_sentences(request.file, resolve_output(".cache", find_root()), key="FILE")
    texts = [text for text in sentences.texts() if text]  # endpoints refuse what is empty
    asked, there = embed_texts(
        texts, out, Endpoint(request.url.rstrip("/"), request.model, request.key_variable), request.batch_size
    )
    return f"{out}: {there:,} vectors, {asked:,} of them new; use it: -p teacher.vectors={out}"
