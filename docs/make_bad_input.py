"""Write docs/bad_input.md from the table of bad inputs, which the tests go through.

python -m docs.make_bad_input
"""

from itertools import groupby
from pathlib import Path

from tests.bad_inputs import FILES, read_table

PAGE = Path(__file__).parent / "bad_input.md"
INTRODUCTION = """# Bad input

What is wrong with an input is said in one line on stderr, `kdkit: ...`, with exit code 2, before the first notebook:
what was expected, what there was instead, and what to do. `--debug` shows where in the code it was found. In a
notebook the same line stands in place of a traceback.

A failure that is nobody's mistake, such as a loss that is not a number, is one line and exit code 1; Ctrl-C is 130.
"""
ENDS = """
## The files

| file | what is in it |
|---|---|
"""


def make_page() -> str:
    """Return the page."""
    rows = read_table()
    lines = [
        INTRODUCTION,
        f"\n`tests/test_bad_inputs.py` gives the {len(rows)} inputs below to the commands, and wants these answers.\n",
        "The [files](#the-files) that they name are at the end; FOLDER is the folder that one is in, and `...` ",
        "stands for\na list or for another program's reason.\n",
    ]
    for verb, group in groupby(rows, key=lambda row: row[0].split()[0]):
        lines.append(f"\n## {verb}\n\n| `python -m kdkit` | answer |\n|---|---|\n")
        lines += [f"| {_code(command)} | {_code(answer)} |\n" for command, answer in group]
    lines.append(ENDS)
    lines += [f"| `{name}` | {what} |\n" for name, (_, what) in FILES.items()]
    return "".join([*lines, "\nThis page is generated: `python -m docs.make_bad_input`.\n"])


def _code(text: str) -> str:
    """Show a text as it is within a table, backticks and bars included."""
    mark, space = ("``", " ") if "`" in text else ("`", "")
    return f"{mark}{space}{text}{space}{mark}".replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
