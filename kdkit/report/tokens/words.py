"""Tokens as a person reads them: coloured or divided in a terminal, coloured in a notebook, and in tables."""

from collections.abc import Iterable, Sequence
from typing import Any

from IPython.display import HTML

from kdkit.report.tables import Table
from kdkit.report.writing import plain_html

COLOURS = ("#ccfbf1", "#fde68a", "#dbeafe", "#fbcfe8")
"""Backgrounds of neighbouring tokens, pale enough for black letters."""
TERMINAL_COLOURS = (158, 222, 153, 218)
"""The same of the 256 colours of a terminal."""
DIVIDER = "\u2502"
SHOWN = {" ": "\u2423", "\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d"}
"""White space where a token stands alone."""


def read_piece(piece: bytes) -> str:
    """Return a token's bytes as text; bytes that are no whole character, and controls, as `<e4>`."""
    return "".join(
        f"<{ord(letter) - 0xDC00:02x}>"
        if 0xDC80 <= ord(letter) <= 0xDCFF
        else letter
        if letter.isprintable() or letter in SHOWN
        else "".join(f"<{byte:02x}>" for byte in letter.encode())
        for letter in piece.decode("utf-8", "surrogateescape")
    )


def write_piece(piece: bytes) -> str:
    """Return a token's bytes as one visible word: a space as an open box, a line end as an arrow."""
    return "".join(SHOWN.get(letter, letter) for letter in read_piece(piece))


def colour_tokens(pieces: Iterable[bytes]) -> str:
    """Colour tokens for a terminal, four colours in turn; line ends stay line ends."""
    parts = []
    for number, piece in enumerate(pieces):
        start = f"\x1b[30;48;5;{TERMINAL_COLOURS[number % len(TERMINAL_COLOURS)]}m"
        lines = read_piece(piece).replace("\r", SHOWN["\r"]).replace("\t", SHOWN["\t"]).split("\n")
        parts += [f"{SHOWN[chr(10)]}\x1b[0m\n".join(f"{start}{line}" for line in lines) + "\x1b[0m"]
    return "".join(parts)


def divide_tokens(pieces: Iterable[bytes]) -> str:
    """Put a divider between tokens, where there are no colours."""
    return DIVIDER.join(map(read_piece, pieces))


def show_tokens(cuts: dict[str, Sequence[bytes]]) -> HTML:
    """Show the same text as each of several tokenizers cuts it, tokens coloured, in a notebook.

    Args:
        cuts: the bytes of every token, by the name of the tokenizer.
    """
    return HTML("".join(_block(name, pieces) for name, pieces in cuts.items()))


def use_table(uses: dict[str, dict[str, Any]]) -> Table:
    """Put tokenizers, or kinds of text, side by side.

    Args:
        uses: what `TokenUse.describe` returns, by name.
    """
    headings = ["", "bytes per token", "tokens per word", "tokens", "entries used", "parts of characters", "unknown"]
    rows = [
        [
            name,
            f"{use['bytes_per_token']:.3f}",
            f"{use['tokens_per_word']:.2f}",
            f"{use['num_tokens']:,}",
            f"{use['entries_used']:,} of {use['entries']:,}",
            f"{use['inner_token_share']:.2%}",
            f"{use['unknown_share']:.2%}",
        ]
        for name, use in uses.items()
    ]
    if any(use["changed_share"] for use in uses.values()):
        headings.append("text changed")
        rows = [[*row, f"{use['changed_share']:.2%}"] for row, use in zip(rows, uses.values(), strict=True)]
    return headings, rows


def counts_table(most: list[tuple[bytes, int]], rarest: list[tuple[bytes, int]], num_tokens: int) -> Table:
    """Put the entries that a text uses most beside those that it uses least.

    Args:
        most: bytes of an entry and how often it is used.
        rarest: likewise, the rarest first.
        num_tokens: of the text.
    """
    rows = []
    for number in range(max(len(most), len(rarest))):
        row = [str(number + 1)]
        for side in (most, rarest):
            piece, count = side[number] if number < len(side) else (b"", 0)
            row += [write_piece(piece), f"{count:,}" if count else ""]
            if side is most:
                row.append(f"{count / max(num_tokens, 1):.1%}" if count else "")
        rows.append(row)
    return ["", "most used", "times", "share", "rarest", "times"], rows


def _block(name: str, pieces: Sequence[bytes]) -> str:
    spans = []
    for number, piece in enumerate(pieces):
        text = plain_html(read_piece(piece)).replace("\n", f"{SHOWN[chr(10)]}\n").replace("\t", SHOWN["\t"])
        colour = COLOURS[number % len(COLOURS)]
        spans.append(f"<span style='background:{colour};color:#111'>{text}</span>")
    num_bytes = sum(map(len, pieces))
    facts = f"{len(pieces)} tokens, {num_bytes / max(len(pieces), 1):.2f} bytes per token"
    style = "max-width:820px;white-space:pre-wrap;word-break:break-word;line-height:1.7"
    return f"<p><b>{plain_html(name)}</b>: {facts}</p><pre style='{style}'>{''.join(spans)}</pre>"
