"""Vectors from an endpoint with OpenAI's form of embeddings, written to a file for `teacher.vectors`.

What was paid for is kept: every answer is appended to `OUT.partial` at once, and a second call goes on from there.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from kdkit.errors import UserError
from kdkit.runs.messages import step_line

TRIES, LONGEST_WAIT = 6, 60.0
"""Tries of a request, with waits of 1, 2, 4, ... seconds between them, or as many as the endpoint asks for."""
WORTH_A_RETRY = (408, 409, 425, 429, 500, 502, 503, 504)
TIMEOUT = 300.0
"""Seconds of silence after which an endpoint counts as gone."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint of the user's, such as `http://localhost:8000/v1`."""

    url: str
    """Without `/embeddings`."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable of the key; not set: none is sent."""

    def embed(self, texts: list[str]) -> np.ndarray:
        """Ask for the vectors of some texts.

        Returns:
            fp32, `[num_texts, H]`.

        Raises:
            UserError: no endpoint there, one that refuses, or another answer than vectors.
        """
        body = json.dumps({"model": self.model, "input": texts, "encoding_format": "float"}).encode()
        answer = self._ask(body)
        try:
            entries = sorted(answer["data"], key=lambda entry: entry["index"])
            vectors = np.array([entry["embedding"] for entry in entries], np.float32)
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"--url: expected `data` with `index` and `embedding` from {self.url}/embeddings, got "
                f"{self._hide(json.dumps(answer))[:160]!r}; is it OpenAI's form?"
            ) from None
        if vectors.shape[:1] != (len(texts),) or vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise UserError(
                f"--url: expected {len(texts)} finite vectors of one width from {self.url}/embeddings, got an array "
                f"{list(vectors.shape)}{'' if np.isfinite(vectors).all() else ' with NaN'}; try another --model"
            )
        return vectors

    def _ask(self, body: bytes) -> Any:
        """Send a request, several times where that can help."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/embeddings", body, headers)
        opener = urllib.request.build_opener(_NoRedirect)
        for tried in range(1, TRIES + 1):
            wait = min(2.0 ** (tried - 1), LONGEST_WAIT)
            try:
                with opener.open(request, timeout=TIMEOUT) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.read(400).decode(errors='replace')}"
                asked = error.headers.get("Retry-After") or ""
                wait = min(float(asked), LONGEST_WAIT) if asked.isdecimal() else wait
                is_last = error.code not in WORTH_A_RETRY or tried == TRIES
            except (OSError, HTTPException, ValueError) as error:  # ValueError: no JSON, or no URL
                reason, is_last = str(error), tried == TRIES or isinstance(error, ValueError)
            if is_last:
                got = self._hide(" ".join(reason.split()))[:240]
                raise UserError(
                    f"--url: expected vectors from {self.url}/embeddings, got {got}; check --url, "
                    f"--model and the key in ${self.key_variable}, then run the same command again"
                ) from None
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _hide(self, text: str) -> str:
        """Take the key out of what an endpoint says."""
        key = os.environ.get(self.key_variable)
        return text.replace(key, "***") if key else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirects: the key would go along, to whatever host."""

    def redirect_request(self, *_: Any) -> None:
        """Let a redirect be an error."""


def embed_texts(texts: list[str], out: Path, endpoint: Endpoint, batch_size: int) -> tuple[int, int]:
    """Add the vectors of texts to a file; those that it has, or that an interrupted call got, are not asked for.

    Args:
        out: a .parquet file, with columns `text` and `vector`.
        batch_size: texts in a request.

    Returns:
        How many texts were asked for now, and how many the file has.

    Raises:
        UserError: see `Endpoint.embed`; a file with the vectors of another model or width.
    """
    partial = out.with_name(out.name + ".partial")
    _drop_broken_end(partial)
    known, width = set(), None
    for table in _tables(out, partial):
        width = _check(table, endpoint, width, out)
        known.update(table["text"].to_pylist())
    asked = [text for text in dict.fromkeys(texts) if text not in known]
    start, step = time.perf_counter(), max(1, len(asked) // batch_size // 20)
    for number, place in enumerate(range(0, len(asked), batch_size), start=1):
        batch = asked[place : place + batch_size]
        table = _table(batch, endpoint.embed(batch), endpoint)
        width = _check(table, endpoint, width, out)
        with partial.open("ab") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        done = place + len(batch)
        if number % step == 0 or done == len(asked):
            left = (time.perf_counter() - start) / done * (len(asked) - done)
            print(step_line("embed", done, len(asked), "texts", left), flush=True)
    if partial.is_file():
        _merge(out, partial)
    return len(asked), len(known) + len(asked)


def _table(texts: list[str], vectors: np.ndarray, endpoint: Endpoint) -> pa.Table:
    """Put texts and vectors into columns, with the name of the model."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1), pa.float32()), vectors.shape[1])
    table = pa.table({"text": pa.array(texts, pa.string()), "vector": column})
    return table.replace_schema_metadata({"model": endpoint.model})


def _check(table: pa.Table, endpoint: Endpoint, width: int | None, out: Path) -> int:
    """Refuse vectors of another model or width; return the width."""
    model = (table.schema.metadata or {}).get(b"model", b"").decode()
    found = table.schema.field("vector").type.list_size
    if model != endpoint.model or width not in (None, found):
        wanted = f"{endpoint.model} with {width or found} numbers"
        raise UserError(
            f"OUT: expected vectors of {wanted} in {str(out)!r}, got those of {model or 'another program'} with {found}"
            "; name another file"
        )
    return found


def _tables(out: Path, partial: Path) -> Iterator[pa.Table]:
    """Yield what is there, in parts."""
    if out.is_file():
        try:
            file = parquet.ParquetFile(out)
        except pa.ArrowInvalid as error:
            raise UserError(f"OUT: expected a parquet file, got {str(out)!r}: {error}; name another file") from None
        schema = file.schema_arrow
        if schema.names != ["text", "vector"] or not pa.types.is_fixed_size_list(schema.field("vector").type):
            raise UserError(f"OUT: expected a file that `embed` wrote, got {str(out)!r}; name another file")
        for group in range(file.num_row_groups):
            yield file.read_row_group(group).replace_schema_metadata(schema.metadata)
    if partial.is_file():
        with partial.open("rb") as file:
            while file.peek(1):
                yield pa.ipc.open_stream(file).read_all()


def _drop_broken_end(partial: Path) -> None:
    """Cut off an answer that was being written when the process was killed."""
    if not partial.is_file():
        return
    whole = 0
    with partial.open("rb") as file:
        try:
            while file.peek(1):
                pa.ipc.open_stream(file).read_all()
                whole = file.tell()
        except (pa.ArrowInvalid, OSError):
            pass
    os.truncate(partial, whole)


def _merge(out: Path, partial: Path) -> None:
    """Write one parquet file out of what is there, and drop the parts."""
    new = out.with_name(out.name + ".new")
    writer = None
    for table in _tables(out, partial):
        writer = writer or parquet.ParquetWriter(new, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()
        new.replace(out)
    partial.unlink()
