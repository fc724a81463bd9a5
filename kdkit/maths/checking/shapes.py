r"""A whole answer: a formula, a list, a set of intervals, a tuple, a relation, or words."""

import re
from dataclasses import dataclass, replace

import sympy

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.equality import Formula
from kdkit.maths.checking.latex import building
from kdkit.maths.checking.latex.analysis import read_formula
from kdkit.maths.checking.latex.marks import CLOSERS, CLOSING, find_close, split
from kdkit.maths.checking.latex.pieces import read_system
from kdkit.maths.checking.latex.tokens import FUNCTIONS, PLAIN_WORDS, UnreadableError, tokenise
from kdkit.maths.checking.latex.units import mark_plain_unit

SIGNS = {"=": "=", "<": "<", ">": ">", "\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\equiv": "=", "\\approx": "~",
         "\\sim": "~", "\\simeq": "~", "\\cong": "~", "\\Leftrightarrow": "iff", "\\iff": "iff", "\\implies": "iff",
         "\\Rightarrow": "iff", "\\to": "to", "\\in": "in"}  # fmt: skip
SET_SIGNS = ("\\cup", "\\cap", "\\setminus", "\\backslash")
EMPTY = ("\\emptyset", "\\varnothing")


@dataclass(frozen=True)
class Words:
    """An answer in words."""

    text: str
    """Lower case, without punctuation."""


@dataclass(frozen=True)
class Listing:
    """Several answers."""

    items: tuple["Shape", ...]
    brackets: str = ""
    """Empty, `{}`, or what stood around them: `()`, `[]`, `(]`, `[)`."""
    joined: str = ","
    """`,`, `or` or `and`, where there are no brackets."""


@dataclass(frozen=True)
class Chain:
    """Formulas with relations between them."""

    sides: tuple["Shape", ...]
    signs: tuple[str, ...]
    """`=`, `<`, `>`, `<=`, `>=`, `!=`, `~` or `in`."""


@dataclass(frozen=True)
class SetOperation:
    """A union, intersection or difference of two sets."""

    sign: str
    left: "Shape"
    right: "Shape"


@dataclass(frozen=True)
class NumberSet:
    """A set with a name of its own: the real numbers, or none."""

    name: str


Shape = Formula | Words | Listing | Chain | SetOperation | NumberSet

TEXT = re.compile(r"\\(?:text(?:rm|bf|it)?|mathrm|mbox)\s*\{([^{}]*)\}")
WORDS = re.compile(r"[A-Za-z]+(?:[\s,'.-]+[A-Za-z][A-Za-z']*)*[.!]?")
CHOICE = re.compile(r"\(\s*([A-Za-z])\s*\)")
KNOWN_WORDS = {
    "yes", "no", "true", "false", "none", "undefined", "infinite", "diverges", "converges", "divergent",
    "convergent", "dne", "correct", "incorrect", "never", "always", "sometimes", "even", "odd", "neither", "both",
    "saddle", "maximum", "minimum", "linear", "nonlinear", "stable", "unstable", "exact", "separable", "analytic",
    "entire", "positive", "negative", "independent", "dependent", "increasing", "decreasing", "unknown",
}  # fmt: skip
PLACES = re.compile(
    r"[-+]?\s*\d*\.(?P<part>\d+)(?![\d\s]*\\(?:overline|bar))"
    r"(?:(?:e|\s*(?:\\times|\\cdot)\s*10\^)\{?(?P<power>[-+]?\d+)\}?)?"
)


def read_shape(text: str, policies: PolicyConfig, thousands: bool = True) -> Shape:
    r"""Read an answer.

    Args:
        text: LaTeX or plain text.
        policies: of decimal comma, logarithm and imaginary unit.
        thousands: read 1,000 as a number, unless it stands in brackets.

    Raises:
        UnreadableError: it is no formula, or one too large to compute with.
    """
    if words := read_words(text):
        return words
    text = mark_plain_unit(text)
    variants = [text]
    if "\\pm" in text or "\\mp" in text or "±" in text:
        text = text.replace("±", "\\pm ").replace("∓", "\\mp ")
        variants = [text.replace("\\pm", "+").replace("\\mp", "-"), text.replace("\\pm", "-").replace("\\mp", "+")]
    is_bare = thousands and not any(mark in text for mark in ("(", "[", "\\{"))
    tokens = [tokenise(each, policies, is_bare) for each in variants]
    try:
        shapes = [read_tokens(each, policies) for each in tokens]
    except (IndexError, KeyError) as error:
        raise UnreadableError(str(error)) from error
    if len(shapes) == 2:
        items = [item for each in shapes for item in (each.items if isinstance(each, Listing) else [each])]
        return Listing(tuple(items))
    return _with_places(shapes[0], text)


def read_words(text: str, is_expected: bool = False) -> Words | None:
    r"""Read an answer of words alone, in `\text{}` or not, or the letter of a choice, `\text{(B)}`.

    Args:
        text: of the answer.
        is_expected: the gold answer is words: letters are then no product.

    Returns:
        None: it is something else.
    """
    bare = TEXT.sub(r" \1 ", text)
    is_text = bare != text and not TEXT.sub("", text).strip(" .,;!~\\$()")
    bare = " ".join(bare.replace("~", " ").replace("$", " ").replace("\\ ", " ").split()).strip(" .,;!")
    choice = CHOICE.fullmatch(bare)
    bare = choice[1] if choice else bare
    if not WORDS.fullmatch(bare) or bare.lower() in PLAIN_WORDS:
        return None
    parts = bare.split()
    is_known = bare.lower() in KNOWN_WORDS or (len(parts) > 1 and any(len(each) > 3 for each in {*parts} - FUNCTIONS))
    is_known = is_known or is_expected or (is_text and (len(bare) > 1 or "\\text" in text))
    return Words(bare.lower()) if is_known else None


def _with_places(shape: Shape, text: str) -> Shape:
    """Note how many places a single decimal number has."""
    if isinstance(shape, Formula) and (match := PLACES.match(text.strip(" $"))):
        return replace(shape, places=len(match["part"]) - int(match["power"] or 0))
    return shape


def read_tokens(tokens: list[str], policies: PolicyConfig) -> Shape:
    """Read tokens: lists first, then relations, sets, and brackets around all of it.

    Raises:
        UnreadableError: they are no formula.
    """
    while tokens and tokens[-1] in (".", ",", ";"):
        tokens = tokens[:-1]
    if not tokens:
        raise UnreadableError("nothing")
    if (rows := read_system(tokens)) is not None:
        return Listing(tuple(read_tokens(row, policies) for row in rows))
    for mark, name in (('"or', "or"), (";", ","), (",", ","), ('"and', "and")):
        parts = [part for part in split(tokens, mark) if part]
        if len(parts) > 1:
            parts = [part[1:] if part[0] in ('"and', '"or') and len(part) > 1 else part for part in parts]
            return _flat([read_tokens(part, policies) for part in parts], name)
    if (chain := _read_chain(tokens, policies)) is not None:
        return chain
    return _read_set(tokens, policies)


def _flat(items: list[Shape], name: str) -> Listing:
    """Join lists within a list, `1, 2 and 3`."""
    flat: list[Shape] = []
    for each in items:
        is_part = isinstance(each, Listing) and not each.brackets and (each.joined == "and" or each.joined == name)
        flat += each.items if is_part else [each]
    return Listing(tuple(flat), joined=name)


def _read_chain(tokens: list[str], policies: PolicyConfig) -> Chain | None:
    """Read formulas with relations between them; None: there is no relation."""
    sides: list[list[str]] = [[]]
    signs: list[str] = []
    depth = 0
    for token in tokens:
        if not depth and token in SIGNS:
            signs.append(SIGNS[token])
            sides.append([])
            continue
        depth += (token in CLOSERS) - (token in CLOSING)
        sides[-1].append(token)
    if not signs:
        return None
    if not all(sides):
        raise UnreadableError("a relation without a side")
    return Chain(tuple(_read_set(side, policies) for side in sides), tuple(signs))


def _read_set(tokens: list[str], policies: PolicyConfig) -> Shape:
    """Read a union and the like; without one, what is in brackets or a formula."""
    for sign in SET_SIGNS:
        parts = split(tokens, sign)
        if len(parts) > 1:
            if not all(parts):
                raise UnreadableError("a set is missing")
            shape = _read_set(parts[0], policies)
            for part in parts[1:]:
                shape = SetOperation(sign, shape, _read_set(part, policies))
            return shape
    if len(tokens) == 1 and tokens[0] in EMPTY:
        return NumberSet("empty")
    if tokens in (["\\mathbb", "{", "R", "}"], ["\\R"], ["\\Reals"], ["\\mathbb", "R"]):
        return NumberSet("reals")
    bracketed = _read_brackets(tokens, policies)
    return _formula(tokens, policies) if bracketed is None else bracketed


def _read_brackets(tokens: list[str], policies: PolicyConfig) -> Shape | None:
    """Read a set, tuple or interval; None: brackets that are part of a formula."""
    opening = tokens[0]
    if tokens[-2:] == ["^", "T"] or tokens[-4:] == ["^", "{", "T", "}"]:
        row = tokens[: tokens.index("^", len(tokens) - 4)]
        return _read_brackets(row, policies) if row else None
    if opening not in ("(", "[", "\\{", "{", "\\langle") or find_close(tokens, 0) != len(tokens) - 1:
        return None
    inside, closing = tokens[1:-1], tokens[-1]
    if opening == "{" and closing == "}":
        return read_tokens(inside, policies)
    if opening == "\\{":
        return _read_braces(inside, policies)
    parts = split(inside, ",") if len(split(inside, ",")) > 1 else split(inside, ";")
    if len(parts) == 1:
        if opening == "[" and closing == "]" and not any(token in SIGNS for token in inside):
            return None
        return read_tokens(inside, policies) if any(token in SIGNS for token in inside) else None
    if not all(parts):
        raise UnreadableError("an entry is missing")
    brackets = "()" if opening == "\\langle" else opening + closing
    items = tuple(read_tokens(part, policies) for part in parts)
    rows = [each.items for each in items if isinstance(each, Listing) and each.brackets == brackets == "[]"]
    if len(rows) == len(items):  # [[1, 2], [3, 4]]
        cells = [[cell for cell in row if isinstance(cell, Formula)] for row in rows]
        if [len(row) for row in cells] != [len(row) for row in rows]:
            raise UnreadableError("a list of lists")
        whole = building.matrix([[cell.value for cell in row] for row in cells])
        every = [cell for row in cells for cell in row]
        return Formula(whole, any(each.decimals for each in every), any(each.standing for each in every))
    return Listing(items, brackets)


def _read_braces(inside: list[str], policies: PolicyConfig) -> Shape:
    """Read a set in braces: its elements, or the condition of a set builder."""
    if not inside:
        return NumberSet("empty")
    for mark in ("|", ":"):
        parts = split(inside, mark)
        if len(parts) == 2 and parts[1] and len(parts[0]) in (1, 3, 6):
            return read_tokens(parts[1], policies)
    return Listing(tuple(read_tokens(part, policies) for part in split(inside, ",") if part), "{}")


def _formula(tokens: list[str], policies: PolicyConfig) -> Formula:
    """Read one formula."""
    value, is_standing = read_formula(tokens, policies)
    is_decimal = any("." in token and token[0] in ".0123456789" for token in tokens)
    return Formula(value, is_decimal, is_standing)


def name_of(shape: Shape) -> tuple[str | None, Shape]:
    """Return the name before an equals sign, or behind it, and what is left; None: it is no `x = 5`."""
    if not isinstance(shape, Chain) or set(shape.signs) - {"=", "~", "in"}:
        return None, shape
    first, last = shape.sides[0], shape.sides[-1]
    if (name := _name(first)) is not None:
        rest = shape.sides[1:]
        return name, rest[0] if len(rest) == 1 else Chain(rest, shape.signs[1:])
    if len(shape.sides) == 2 and (name := _name(last)) is not None:
        return name, first
    return None, shape


def _name(shape: Shape) -> str | None:
    """Return the name that a formula is; None: it is none."""
    if isinstance(shape, Listing) and shape.brackets == "()":
        names = [_name(item) for item in shape.items]
        return None if None in names else f"({','.join(names)})"  # (x, y) = (1, 2)
    if not isinstance(shape, Formula):
        return None
    value = shape.value
    is_name = isinstance(value, sympy.Symbol) and not value.name.startswith('"')
    is_applied = isinstance(value, sympy.core.function.AppliedUndef) and all(
        isinstance(each, sympy.Symbol) or each.is_number for each in value.args
    )
    return str(value) if is_name or is_applied else None
