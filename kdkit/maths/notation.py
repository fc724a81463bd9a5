r"""One spelling of maths that people type: unicode and plain text become LaTeX, variants of LaTeX become one."""
# ruff: noqa: RUF001 - the look-alikes are what it is about

import re

SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿˣ", "0123456789+-=()nx", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₙₓ", "0123456789+-=()nx", strict=True))
RAISED = re.compile(f"[{''.join(map(re.escape, SUPERSCRIPTS))}]+")
LOWERED = re.compile(f"[{''.join(map(re.escape, SUBSCRIPTS))}]+")

SYMBOLS = {
    **dict.fromkeys("−‐‑‒–—", "-"),
    **dict.fromkeys("·⋅∙", r" \cdot "),
    **dict.fromkeys("×✕", r" \times "),
    **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003", " "),
    **dict.fromkeys("’′", "'"),
    **{"÷": r" \div ", "∗": "*", "⁄": "/", "∕": "/", "≤": r" \leq ", "≥": r" \geq ", "≠": r" \neq "},
    **{"∞": r" \infty ", "π": r" \pi ", "λ": r" \lambda ", "∫": r" \int ", "∑": r" \sum ", "∂": r" \partial "},
    **{"±": r" \pm ", "→": r" \to ", "∪": r" \cup ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}"},
    **{"¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "″": "''", "∇": r" \nabla ", "θ": r" \theta "},
}
SPELLINGS = (
    (r"\\[dt]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|\\displaystyle\b|\\limits\b", ""),
    (r"\\le\b|\\leqslant\b|<=", r"\\leq"),
    (r"\\ge\b|\\geqslant\b|>=", r"\\geq"),
    (r"\\ne\b|!=", r"\\neq"),
    (r"(?<!\\)\\[,;:! ]|~|\\quad\b|\\qquad\b", " "),
    (r"(?<!\\)\\[()\[\]]|\$\$", "$"),
    (r"\\operatorname\*?\{(\w+)\}|\\mathrm\{(\w)\}", r"\1\2"),
    (r"\\begin\{(?:[bBvV]|small)?matrix\}|\\begin\{array\}\{[^}]*\}", r"\\begin{pmatrix}"),
    (r"\\end\{(?:[bBvV]|small)?matrix\}|\\end\{array\}", r"\\end{pmatrix}"),
    (r"\\(?:vec|mathbf|boldsymbol)\b", ""),
    (r"\*\*", "^"),
    (r"->", r"\\to"),
    (r"\bdet(?=\s*[(\[A-Z\\])(?<!\\det)", r"\\det"),
)
FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|ln|log|exp"
FUNCTION = re.compile(rf"(?<![\\a-zA-Z])({FUNCTIONS})(?![a-zA-Z])")
NAMES = re.compile(r"(?<![\\a-zA-Z])(pi|infinity|infty|lambda)(?![a-zA-Z])")
BARE_EXPONENT = re.compile(r"\^\s*(-?\d+|[a-zA-Z])")
EXPONENT_IN_BRACKETS = re.compile(r"\^\s*\(([^()]*)\)")
BARE_FRACTION = re.compile(r"\\frac\s*(\d)\s*(\d)")
ROOT = re.compile(r"(?:√|(?<![\\a-zA-Z])sqrt|\\sqrt(?=\s*[(\w]))\s*")


def normalise(text: str) -> str:
    r"""Write a text's maths in LaTeX: `x³ - 2x²` is `x^{3} - 2x^{2}`, `√(x+1)` is `\sqrt{x+1}`, `x**10` is `x^{10}`.

    Words and fractions such as `1/2` stay. A text that has been normalised stays as it is.
    """
    for symbol, latex in SYMBOLS.items():
        text = text.replace(symbol, latex)
    text = RAISED.sub(lambda raised: "^{" + "".join(SUPERSCRIPTS[each] for each in raised[0]) + "}", text)
    text = LOWERED.sub(lambda lowered: "_{" + "".join(SUBSCRIPTS[each] for each in lowered[0]) + "}", text)
    for pattern, replacement in SPELLINGS:
        text = re.sub(pattern, replacement, text)
    text = FUNCTION.sub(r"\\\1", text)
    text = NAMES.sub(lambda name: rf"\{'infty' if name[1] == 'infinity' else name[1]}", text)
    text = _with_roots(text)
    text = BARE_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = BARE_EXPONENT.sub(r"^{\1}", text)
    text = EXPONENT_IN_BRACKETS.sub(r"^{\1}", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def _with_roots(text: str) -> str:
    r"""Write square roots as `\sqrt{...}`: of a bracket, or of the number or letter that follows."""
    while found := ROOT.search(text):
        start = found.end()
        if text[start : start + 1] == "(":
            end = closing(text, start)
            inside, rest = text[start + 1 : end], text[end + 1 :]
        else:
            length = len(re.match(r"\d+(?:\.\d+)?|\w?", text[start:])[0])
            inside, rest = text[start : start + length], text[start + length :]
        text = text[: found.start()] + rf"\sqrt{{{inside}}}" + rest
    return text


def closing(text: str, start: int) -> int:
    """Return the place of the bracket that closes the one at `start`, or the text's length where none does."""
    opening, depth = text[start], 0
    closer = {"(": ")", "[": "]", "{": "}"}[opening]
    for i in range(start, len(text)):
        depth += (text[i] == opening) - (text[i] == closer)
        if depth == 0:
            return i
    return len(text)
