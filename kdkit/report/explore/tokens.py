"""What a teacher expects after each token of a text, in colour, beside the student's tokens of it. Never imports torch.

What is shown is what `kdkit.teachers.token_probe` writes down.
"""

from typing import Any

from IPython.display import HTML

from kdkit.report.display import show_table
from kdkit.report.explore.widgets import MARK, Explore, Explorer, text_explorer
from kdkit.report.tables import Table
from kdkit.report.tokens.words import SHOWN, read_piece, write_piece
from kdkit.report.writing import plain_html
from kdkit.runs.folder import Run, is_watched

BAR = 24
"""Characters of a bar for a probability of 1."""
DIFFERENT = "#fde68a"
"""Background of a span that the tokenizers cut differently."""


def show_next_tokens(run: Run, explore: Explore) -> HTML | Explorer:
    """Return what a notebook shows (02): widgets for a person, the first held-out text otherwise.

    Args:
        run: with `teacher/tokens.json`.
        explore: lets the teacher read a text.
    """
    import ipywidgets

    facts = run.read_json("teacher/tokens.json")
    still = tokens_html(facts["shown"])
    if not is_watched():
        return HTML(still)
    view = ipywidgets.HTML()

    def show(shown: dict[str, Any]) -> None:
        view.value = tokens_html(shown)

    return Explorer(text_explorer(facts, explore, view, show), still)


def tokens_html(shown: dict[str, Any]) -> str:
    """Write the text in the teacher's tokens and in the student's, and what the teacher expects after the chosen one.

    Args:
        shown: what `TokenExplorer.explore` returns.
    """
    least, most, spans = min(shown["entropy"]), max(shown["entropy"]), shown["spans"]
    places = enumerate(zip(shown["tokens"], shown["entropy"], shown["on_common"], strict=True))
    coloured = "".join(_teacher_token(i, facts, (least, most), i == shown["position"]) for i, facts in places)
    legend = f"the bluer, the less certain of what comes next: white {least:.1f}, blue {most:.1f} bits of entropy"
    different = sum(_is_different(span) for span in spans)
    num_student = sum(len(span["student"]) for span in spans)
    return "".join(
        [
            _block("teacher", f"{len(shown['tokens'])} tokens; {legend}", coloured),
            _block(
                "student",
                f"{num_student} tokens; in yellow {different} of {len(spans)} spans that it cuts differently",
                "".join(map(_student_span, spans)),
            ),
            f"<p style='max-width:820px;line-height:1.5'>{plain_html(_sentence(shown))}</p>",
            show_table(predictions_table(shown)).data,
        ]
    )


def predictions_table(shown: dict[str, Any]) -> Table:
    """List the most likely tokens after the chosen one."""
    rows = [
        [
            write_piece(bytes.fromhex(entry["token"])),
            f"{entry['probability']:.1%}",
            "\u2588" * round(BAR * entry["probability"]),
            "yes" if entry["is_common"] else "no",
        ]
        for entry in shown["predictions"]
    ]
    return ["next token", "probability", "", "the student has it"], rows


def _sentence(shown: dict[str, Any]) -> str:
    """Say how certain the teacher is after the chosen token, and what the text goes on with."""
    place, following = shown["position"], shown["following"]
    sentence = (
        f"After {_name(shown['tokens'][place])}: {shown['entropy'][place]:.2f} bits of entropy, and "
        f"{shown['on_common'][place]:.1%} of the probability on tokens that the student has too."
    )
    if following is None:
        return f"{sentence} The text ends here."
    return (
        f"{sentence} The text goes on with {_name(following['token'])}: "
        f"{following['probability']:.1%}, number {following['rank']} of the teacher's list."
    )


def _name(token: str) -> str:
    return f"\u201c{write_piece(bytes.fromhex(token))}\u201d"


def _is_different(span: dict[str, list[str]]) -> bool:
    return len(span["student"]) != 1 or len(span["teacher"]) != 1


def _teacher_token(number: int, facts: tuple[str, float, float], reach: tuple[float, float], is_chosen: bool) -> str:
    """Colour a token by how uncertain the teacher is after it; the chosen one is framed."""
    (token, entropy, on_common), (least, most) = facts, reach
    style = f"background:rgba(37,99,235,{0.6 * (entropy - least) / max(most - least, 1e-9):.2f})"
    style += f";outline:2px solid {MARK}" if is_chosen else ""
    return _span(token, style, f"{number}: {entropy:.1f} bits, {on_common:.0%} on common tokens")


def _student_span(span: dict[str, list[str]]) -> str:
    """Write the student's tokens of a span."""
    style = f"background:{DIFFERENT}" if _is_different(span) else ""
    names = " | ".join(write_piece(bytes.fromhex(token)) for token in span["teacher"])
    title = f"{len(span['student'])} : {len(span['teacher'])}; the teacher's: {names}"
    return "".join(_span(token, style, title) for token in span["student"])


def _span(token: str, style: str, title: str) -> str:
    """Write a token with a thin line before it."""
    text = plain_html(read_piece(bytes.fromhex(token))).replace("\n", f"{SHOWN[chr(10)]}\n").replace("\t", SHOWN["\t"])
    return f"<span style='border-left:1px solid #9ca3af;{style}' title='{plain_html(title)}'>{text}</span>"


def _block(name: str, facts: str, body: str) -> str:
    style = "max-width:800px;white-space:pre-wrap;word-break:break-word;line-height:1.8;padding:4px 10px"
    style += ";font-family:monospace;background:white;color:#111"
    return f"<p style='line-height:1.5'><b>{name}</b>: {facts}</p><pre style='{style}'>{body}</pre>"
