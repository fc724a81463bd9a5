r"""LaTeX for a terminal: `$f'(x) = 3x^{2} - \frac{1}{2}x$` reads f'(x) = 3x² - 1/2 x."""

import re

LOW, HIGH = "0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
"""What has a raised sign, and that sign."""
SYMBOLS = {
    "cdot": "·", "times": "×", "div": "÷", "pm": "±", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥", "neq": "≠", "ne": "≠",  # noqa: E501, RUF001
    "infty": "∞", "pi": "π", "lambda": "λ", "alpha": "α", "beta": "β", "theta": "θ", "mu": "μ", "nabla": "∇",  # noqa: RUF001
    "int": "∫", "sum": "∑", "partial": "∂", "to": "→", "cup": "∪", "cap": "∩", "in": "∈", "emptyset": "∅",  # noqa: RUF001
    "Rightarrow": "⇒", "implies": "⇒", "iff": "⇔", "quad": "  ", "qquad": "    ", "ldots": "...", "dots": "...",
}  # fmt: skip
BRACED = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
"""A group in braces that holds at most one more level of them."""
FRACTION = re.compile(rf"\\[dt]?frac{BRACED}{BRACED}")
ROOT = re.compile(rf"\\sqrt{BRACED}")
MATRIX = re.compile(r"\\begin\{[bpvV]?matrix\}(.*?)\\end\{[bpvV]?matrix\}", re.DOTALL)
WORDS = re.compile(rf"\\(?:text|mathrm|operatorname|mathbf|boxed){BRACED}")
RAISED = re.compile(r"\^(?:\{([0-9n+\-]+)\}|(\d))")
COMMAND = re.compile(r"\\([A-Za-z]+)")


def plain_latex(text: str) -> str:
    """Write a line of words and LaTeX with the signs that a terminal has; what it has no sign for stays LaTeX-like."""
    text = text.replace(r"\\", " ; ").replace("$", "")
    text = re.sub(r"\\(left|right|displaystyle)(?![A-Za-z])|\\[,;:! ]", "", text)
    text = MATRIX.sub(lambda found: "[" + re.sub(r"\s*&\s*", " ", found[1].strip()) + "]", text)
    before, raised = "", str.maketrans(LOW, HIGH)
    while text != before:  # from the inside out
        before = text
        for pattern, write in ((WORDS, _inside), (ROOT, _root), (FRACTION, _fraction)):
            text = pattern.sub(write, text)
    text = RAISED.sub(lambda found: (found[1] or found[2]).translate(raised), text)
    text = COMMAND.sub(lambda found: SYMBOLS.get(found[1], found[1]), text)
    text = re.sub(r"([\^_])\{(\w)\}", r"\1\2", text).replace(r"\{", "{").replace(r"\}", "}")
    return " ".join(text.split())


def _inside(found: re.Match[str]) -> str:
    return found[1]


def _root(found: re.Match[str]) -> str:
    return f"√{_grouped(found[1])}"


def _fraction(found: re.Match[str]) -> str:
    over, under = _grouped(found[1]), _grouped(found[2])
    # what follows would read as a part of the denominator
    return f"{over}/{under}" + " " * found.string[found.end() : found.end() + 1].isalnum()


def _grouped(latex: str) -> str:
    """Put what is more than a number or a name in brackets."""
    return latex if re.fullmatch(r"\w+|\\[A-Za-z]+", latex) else f"({latex})"
