r"""LaTeX into tokens: numbers, letters, commands, brackets, and texts such as `"cm` for `\text{cm}`."""

import re

from kdkit.config.maths.settings import PolicyConfig

MOST_LETTERS = 4000
"""Of a formula; what is longer is refused."""


class UnreadableError(ValueError):
    """Text that is no formula, or one too large to compute with."""


FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch", "arcsin", "arccos",
    "arctan", "arccot", "arcsec", "arccsc", "arcsinh", "arccosh", "arctanh", "arsinh", "arcosh", "artanh", "ln",
    "log", "lg", "exp", "sgn", "sign", "Re", "Im", "arg", "rank", "tr", "trace", "det", "adj", "asin", "acos",
    "atan", "sqrt", "erf", "erfc", "floor", "ceil", "cis",
}  # fmt: skip
"""Names that are functions whether a backslash stands before them or not."""
PLAIN_WORDS = {"pi": "\\pi", "infinity": "\\infty", "inf": "\\infty", "or": '"or', "and": '"and', "theta": "\\theta"}

REPLACEMENTS = (
    (re.compile(r"\\left\s*\|"), r"\\lvert "),
    (re.compile(r"\\right\s*\|"), r"\\rvert "),
    (re.compile(r"\\(?:left|right)\s*\.(?!\d)"), " "),
    (re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])"), " "),
    (re.compile(r"\\(?:d|t|c)frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\(?:dd?ot)s[bcmo]?(?![a-zA-Z])"), r"\\dots "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|°"), "\\\\text{°}"),
    (re.compile(r"\\?%|\\text\s*\{\s*(?:percent|percentage|pct|\\?%)\s*\}|(?<=\d)\s*percent\b"), r"\\text{%}"),
    (re.compile(r"(\d)\\,(?=\d{3}(?!\d))"), r"\1"),
    (re.compile(r"(?<=\d)\{,\}(?=\d{3})"), ""),
    (re.compile(r"\\(?:[,;:!> ]|q?quad(?![a-zA-Z])|thinspace|hspace\s*\{[^{}]*\})|~"), " "),
    (re.compile(r"\bnp\.|\bmath\.|\bsympy\."), ""),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"<=|≤|\\leq(?:slant|q)?(?![a-zA-Z])"), r"\\le "),
    (re.compile(r">=|≥|\\geq(?:slant|q)?(?![a-zA-Z])"), r"\\ge "),
    (re.compile(r"!=|≠|\\neq(?![a-zA-Z])|\\not\s*="), r"\\ne "),
    (re.compile(r"\\(?:vert|mid)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\lbrace(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\(?:rightarrow|longrightarrow)(?![a-zA-Z])"), r"\\to "),
    (re.compile(r"\\(?:land|wedge)(?![a-zA-Z])"), r" \\text{and} "),
    (re.compile(r"\\(?:lor|vee)(?![a-zA-Z])"), r" \\text{or} "),
)
LETTERS = {
    "\u2212": "-", "\u2013": "-", "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "\\div ",
    "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2208": "\\in ",
    "\u2205": "\\emptyset ", "\u211d": "\\mathbb{R}", "\u00b1": "\\pm ", "\u2213": "\\mp ", "\u221a": "\\sqrt ",
    "\u222b": "\\int ", "\u2032": "'", "\u2033": "''", "\u2019": "'", "\u2192": "\\to ", "\u00b2": "^{2}",
    "\u00b3": "^{3}", "\u2074": "^{4}", "\u2075": "^{5}", "\u00bd": "\\frac{1}{2}", "\u201c": "", "\u201d": "",
    "\u00a0": " ",
}  # fmt: skip
"""Signs of Unicode in LaTeX."""
TEXT = (
    r"\\(?:text(?:rm|bf|it|normal|sf)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|operatorname\*?|boldsymbol|bm)\s*"
    r"\{(?P<text>[^{}]*)\}"
)
TOKEN = re.compile(
    rf"(?P<space>\s+)|\\begin\s*\{{(?P<begin>[a-z]+\*?)\}}|\\end\s*\{{(?P<end>[a-z]+\*?)\}}|{TEXT}"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+(?![.\d]))?)|(?P<command>\\[A-Za-z]+|\\.)"
    r"|(?P<word>[A-Za-z]{2,})|(?P<other>.)",
    re.DOTALL,
)
MATH_MARKS = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$")
DOUBLED = re.compile(r"\\\\(?=[A-Za-z])")
"""Before a command where nothing has rows: somebody's JSON was escaped twice."""
REPEATING = re.compile(r"(?P<whole>\d*)\.(?P<once>\d*)\\(?:overline|bar)\s*(?:\{(?P<many>\d+)\}|(?P<one>\d))")
"""A decimal number whose last digits repeat."""
SPACED = re.compile(r"^\s*[-+]?(?:\\?\$)?\d{1,3}(?: \d{3})+(?![\d/])")
"""12 500, where an answer begins with it."""
THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
CONTINENTAL = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{3})+(?![\d.])")


def tokenise(text: str, policies: PolicyConfig, thousands: bool = False) -> list[str]:
    """Cut a formula into tokens.

    Args:
        text: LaTeX or plain text.
        policies: `decimal_comma` counts here.
        thousands: read 1,000 as one number and not as two.

    Raises:
        UnreadableError: it is too long.
    """
    if len(text) > MOST_LETTERS:
        raise UnreadableError(f"{len(text)} letters")
    for letter, latex in LETTERS.items():
        text = text.replace(letter, latex)
    text = MATH_MARKS.sub(" ", text).replace(r"\$", r"\text{\$}").replace(r"\text{\text{\$}", r"\text{\$")
    if policies.decimal_comma:
        text = CONTINENTAL.sub(lambda match: match[0].replace(".", ""), text)
        text = re.sub(r"(?<=\d)(?:\{,\}|,)(?=\d)", ".", text)
    elif thousands:
        text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
        text = SPACED.sub(lambda match: match[0].replace(" ", ""), text)
    text = REPEATING.sub(_as_fraction, text)
    if r"\begin" not in text:
        text = DOUBLED.sub(r"\\", text)
    text = text.replace("\\\\", r"\cr ")
    for pattern, replacement in REPLACEMENTS:
        text = pattern.sub(replacement, text)
    tokens: list[str] = []
    for match in TOKEN.finditer(text):
        if match["begin"] or match["end"]:
            tokens += ["\\begin", f'"{match["begin"]}'] if match["begin"] else ["\\end"]
        elif match["text"] is not None:
            is_behind_number = bool(tokens) and tokens[-1][0].isdigit()
            tokens += _read_text(match["text"], match[0], is_behind_number)
        elif match["word"]:
            tokens += _read_word(match["word"])
        elif not match["space"]:
            tokens.append(match[0])
    return tokens


def _as_fraction(match: re.Match) -> str:
    """Write a repeating decimal number as a fraction."""
    once, many = match["once"], match["many"] or match["one"]
    above = int(match["whole"] + once + many) - int((match["whole"] + once) or "0")
    return rf"\frac{{{above}}}{{{10 ** len(once) * (10 ** len(many) - 1)}}}"


def _read_text(content: str, whole: str, is_behind_number: bool) -> list[str]:
    """Make tokens of a text within a formula; a single letter is a unit behind a number, or where it is words."""
    name = content.strip(" ~\\")
    if name in FUNCTIONS:
        return [f"\\{name}"]
    if name in PLAIN_WORDS:
        return [PLAIN_WORDS[name]]
    is_word = is_behind_number or whole.startswith(("\\text", "\\mbox", "\\hbox")) or content.startswith((" ", "~"))
    if len(name) == 1 and name.isalpha() and (not is_word or name in "eid"):
        return [name]
    return [f'"{name}'] if name else []


def _read_word(word: str) -> list[str]:
    """Make tokens of letters without a backslash: a function's name, or letters one by one."""
    if word in FUNCTIONS:
        return [f"\\{word}"]
    if word in PLAIN_WORDS:
        return [PLAIN_WORDS[word]]
    for name in ("arcsin", "arccos", "arctan", "sqrt", "sinh", "cosh", "tanh", "sin", "cos", "tan", "exp", "log", "ln"):
        before, found, after = word.partition(name)
        if found and len(before) < 2 and len(after) < 2:  # xsin, sinx
            return [*before, f"\\{name}", *after]
    return list(word)
