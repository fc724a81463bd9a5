"""The verb `generate`: text by a model, to the terminal as it is written, or from a file of prompts to a file."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kdkit.alignment.templates import Message
from kdkit.data.conversations import ROLES
from kdkit.errors import UserError
from kdkit.models.generation import Sampling
from kdkit.models.writer import Prompt, Writer, Written
from kdkit.runs.messages import visible
from kdkit.workflow.writers import open_writer

Style = Literal["auto", "chat", "plain"]


@dataclass(frozen=True)
class GenerateRequest:
    """What the command asks for."""

    source: str
    """See `open_writer`."""
    model: str
    prompts: list[str]
    file: str
    """With prompts, in place of `prompts`; empty: none."""
    output: str
    """File for what is written; empty: the terminal."""
    style: Style
    system: str
    sampling: Sampling
    num_samples: int
    batch_size: int
    runs_dir: str


def generate_text(request: GenerateRequest) -> None:
    """Write after the prompts of a request; without any, hold a conversation at the terminal.

    Raises:
        UserError: nothing to write after, a file that cannot be read, or one that is there already.
        KeyboardInterrupt: with what is kept.
    """
    _check_request(request)
    rows = _read_prompts(request)
    writer, learnt_chat = open_writer(request.source, request.model, request.runs_dir, request.batch_size)
    is_chat = _is_chat(request.style, writer, learnt_chat)
    if rows is None:
        _converse(request, writer, is_chat)
        return
    prompts = [_as_prompt(row, is_chat, request.system) for row in rows]
    if request.output:
        _write_file(request, writer, prompts)
    else:
        _show(request, writer, prompts)


def _check_request(request: GenerateRequest) -> None:
    """Refuse options that do not go together, and a file that cannot be written, before a model is loaded."""
    sampling, output = request.sampling, Path(request.output)
    if request.prompts and request.file:
        raise UserError("--prompt: expected it or --prompts, got both; write it into the file, or leave one out")
    if sampling.temperature == 0.0:  # the most likely token, always
        idle = {
            "--num-samples": (request.num_samples, 1),
            "--top-k": (sampling.top_k, 0),
            "--min-p": (sampling.min_p, 0.0),
        }
        for option, (value, otherwise) in idle.items():
            if value != otherwise:
                raise UserError(
                    f"{option}: expected {otherwise:g} at --temperature 0, which draws nothing, got {value:g}; leave "
                    "it out, or set --temperature 0.8"
                )
    if request.output and output.exists():
        raise UserError(f"--output: expected a new file, got {request.output!r}, which exists; name another one")
    if request.output and not output.absolute().parent.is_dir():
        raise UserError(
            f"--output: expected a file in a folder that exists, got {request.output!r}; make the folder first"
        )


def _is_chat(style: Style, writer: Writer, learnt_chat: bool | None) -> bool:
    """Decide whether prompts are messages to be answered."""
    has_template = bool(writer.tokenizer.chat_template)
    if style == "chat" and not has_template:
        raise UserError(
            "--chat: expected a tokenizer with a chat template, got one without; leave --chat out, or name an "
            "instruct model"
        )
    if style != "auto":
        return style == "chat"
    return has_template if learnt_chat is None else learnt_chat and has_template


def _read_prompts(request: GenerateRequest) -> list[Any] | None:
    """Return the prompts, from a file as what its rows hold; None: a person is to write them."""
    if request.file:
        return _read_file(request.file)
    if request.prompts:
        if empty := [prompt for prompt in request.prompts if not prompt.strip()]:
            raise UserError(
                f'--prompt: expected text, got {empty[0]!r}; write --prompt "The module", or leave it out for a '
                "conversation"
            )
        return list(request.prompts)
    if request.output:
        raise UserError("--output: expected prompts to write after, got none; add --prompts FILE or --prompt TEXT")
    if sys.stdin.isatty():
        return None
    text = sys.stdin.read().strip()
    if not text:
        raise UserError('--prompt: expected text, got none; add --prompt "...", or --prompts FILE')
    return [text]


def _read_file(name: str) -> list[Any]:
    """Read prompts: the lines of a .txt file, or rows of a .jsonl file with `prompt` or `messages`; not empty lines."""
    path = Path(name)
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"--prompts: expected a .txt file of lines or a .jsonl file, got {name!r}; rename it")
    try:
        lines = {i: line for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"--prompts: expected a file that can be read, got {name!r}: {reason}; correct it") from None
    if not lines:
        raise UserError(f"--prompts: expected at least one prompt, got none in {name!r}; write one a line")
    if path.suffix == ".txt":
        return list(lines.values())
    return [_read_row(line, f"{name}:{i}") for i, line in lines.items()]


def _read_row(line: str, where: str) -> str | list[Message]:
    """Read a row of a .jsonl file."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    found = row.get("messages", row.get("prompt")) if isinstance(row, dict) else row
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        messages = [Message(ROLES.get(str(each.get("role")), ""), each.get("content")) for each in found]
        while messages and messages[-1].role == "assistant":  # what it answers is to be written anew
            messages.pop()
        are_whole = all(each.role and isinstance(each.content, str) for each in messages)
        if messages and are_whole and messages[-1].content.strip():
            return messages
    elif isinstance(found, str) and found.strip():
        return found
    raise UserError(
        f'{where}: expected {{"prompt": "..."}} or {{"messages": [{{"role": "user", "content": "..."}}]}}, '
        f"got {line[:80]!r}; correct it"
    )


def _as_prompt(row: str | list[Message], is_chat: bool, system: str) -> Prompt:
    """Return a prompt in the style that was chosen; messages are always answered."""
    if isinstance(row, str) and not is_chat:
        if system:
            raise UserError("--system: expected a conversation, got a plain prompt; add --chat, or leave --system out")
        return row
    messages = [Message("user", row)] if isinstance(row, str) else row
    return [Message("system", system), *messages] if system and messages[0].role != "system" else messages


def _show(request: GenerateRequest, writer: Writer, prompts: list[Prompt]) -> None:
    """Print what is written: one text as it comes, of several each under its number."""
    if len(prompts) == request.num_samples == 1:
        writer.stream(prompts[0], request.sampling, _say)
        _say("\n")
        return
    for number, texts in enumerate(_in_parts(request, writer, prompts), start=1):
        for sample, text in enumerate(texts, start=1):
            name = f"{number}.{sample}" if request.num_samples > 1 else f"{number}"
            print(f"[{name}]\n{visible(text.text)}\n", flush=True)


def _in_parts(request: GenerateRequest, writer: Writer, prompts: list[Prompt]) -> Iterator[list[Written]]:
    """Yield the texts of each prompt, some batches at a time, so that little is lost when the work is stopped."""
    size = max(1, 4 * request.batch_size // request.num_samples)
    for first in range(0, len(prompts), size):
        yield from writer.write(prompts[first : first + size], request.sampling, request.num_samples, first)


def _write_file(request: GenerateRequest, writer: Writer, prompts: list[Prompt]) -> None:
    """Write a row a text: messages with the answer as the last one, or `prompt` and `completion`.

    Raises:
        KeyboardInterrupt: with how many prompts are done.
    """
    done = 0
    try:
        with Path(request.output).open("x", encoding="utf-8") as file:
            for prompt, texts in zip(prompts, _in_parts(request, writer, prompts), strict=True):
                rows = [json.dumps(_as_row(prompt, text), ensure_ascii=False) for text in texts]
                file.write("".join(f"{row}\n" for row in rows))
                file.flush()
                done += 1
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{done} of {len(prompts)} prompts are done, in {request.output}") from None
    print(f"{done} prompts, {done * request.num_samples} texts: {request.output}")


def _as_row(prompt: Prompt, text: Written) -> dict[str, Any]:
    facts = {"stopped": text.stopped, "tokens": text.num_tokens}
    if isinstance(prompt, str):
        return {"prompt": prompt, "completion": text.text, **facts}
    messages = [*prompt, Message("assistant", text.text)]
    return {"messages": [{"role": each.role, "content": each.content} for each in messages], **facts}


def _converse(request: GenerateRequest, writer: Writer, is_chat: bool) -> None:
    """Answer what a person types, until an empty line, the end of input or Ctrl-C."""
    what = "a message" if is_chat else "a beginning"
    print(f"Type {what}; /new starts over, an empty line ends. Ctrl-C stops an answer.")
    history: list[Message] = []
    for turn in range(10**9):
        try:
            text = input("> ")
        except EOFError:
            print()
            return
        if not text.strip():
            return
        if text.strip() == "/new":
            history = []
            continue
        sampling = replace(request.sampling, seed=request.sampling.seed + turn)
        prompt = _as_prompt([*history, Message("user", text)] if is_chat else text, is_chat, request.system)
        pieces: list[str] = []

        def hear(piece: str, pieces: list[str] = pieces) -> None:
            pieces.append(piece)
            _say(piece)

        try:
            writer.stream(prompt, sampling, hear)
        except UserError as error:
            print(f"{error} (/new starts over)")
            continue
        except KeyboardInterrupt:
            pass  # what was written stands as the answer
        print()
        if is_chat:
            history += [Message("user", text), Message("assistant", "".join(pieces))]


def _say(text: str) -> None:
    print(visible(text), end="", flush=True)
