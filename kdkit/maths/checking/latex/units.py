"""Units are positive factors: `10 m` is ten times the symbol of a metre; comparing converts or drops them."""

import re
from functools import cache

import sympy
from sympy import Basic, Expr, Integer, Rational, Symbol

DERIVED = {
    "m": "1 m", "s": "1 s", "A": "1 A", "K": "1 K", "mol": "1 mol", "g": "0.001 kg", "Hz": "1 s-1", "N": "1 kg m s-2",
    "J": "1 kg m2 s-2", "W": "1 kg m2 s-3", "Pa": "1 kg m-1 s-2", "V": "1 kg m2 s-3 A-1", "C": "1 A s",
    "eV": "1.602176634e-19 kg m2 s-2", "L": "0.001 m3", "l": "0.001 m3",
}  # fmt: skip
"""Units that take a prefix, in base units."""
PREFIXES = {
    "G": "1e9",
    "M": "1e6",
    "k": "1e3",
    "d": "0.1",
    "c": "0.01",
    "m": "1e-3",
    "µ": "1e-6",
    "n": "1e-9",
    "p": "1e-12",
}
OTHERS = {
    "min": "60 s", "minute": "60 s", "h": "3600 s", "hr": "3600 s", "hour": "3600 s", "second": "1 s", "sec": "1 s",
    "day": "86400 s", "week": "604800 s", "in": "0.0254 m", "inch": "0.0254 m", "inche": "0.0254 m", "ft": "0.3048 m",
    "foot": "0.3048 m", "feet": "0.3048 m", "yd": "0.9144 m", "yard": "0.9144 m", "mi": "1609.344 m",
    "mile": "1609.344 m", "metre": "1 m", "meter": "1 m", "kilometer": "1000 m", "kilometre": "1000 m",
    "centimeter": "0.01 m", "centimetre": "0.01 m", "gram": "0.001 kg", "kilogram": "1 kg", "liter": "0.001 m3",
    "litre": "0.001 m3", "lb": "0.45359237 kg", "pound": "0.45359237 kg", "t": "1000 kg", "erg": "1e-7 kg m2 s-2",
    "mph": "0.44704 m s-1", "rad": "1", "radian": "1", "%": "0.01", "$": "1 dollar", "dollar": "1 dollar",
    "cent": "0.01 dollar", "€": "1 euro", "euro": "1 euro",
}  # fmt: skip
"""In base units; radians and percent are numbers."""
DEGREES = {"°", "deg", "degree"}
BASE = re.compile(r"([A-Za-z]+)(-?\d+)?")
PART = re.compile(r"(?P<over>/|\bper\b)|(?P<name>[A-Za-zµ°%$€]+)\s*(?:\^?\s*\{?(?P<power>-?\d+)\}?)?|[\s·*.~]+")
PLAIN = re.compile(r"(?P<value>\\?\$?\s*[-+]?[\d.,/]+)\s+(?P<unit>[A-Za-z°µ][A-Za-z°µ /^0-9-]*?)\.?")
"""A number and a unit in plain letters."""
WORD = re.compile(r"[A-Za-z]+")


def mark_plain_unit(text: str, letters: bool = False) -> str:
    r"""Write the unit of `10 cm` or `72 apples` as a text, `10 \text{cm}`.

    Args:
        text: of an answer.
        letters: take single letters for units as well, `10 m`; they may be names.
    """
    match = PLAIN.fullmatch(text.strip().replace("\\ ", " "))
    if not match:
        return text
    words = WORD.findall(match["unit"])
    is_known = read_unit(match["unit"]) is not None
    if (is_known and (letters or max(map(len, words)) > 1)) or all(len(word) > 2 for word in words):
        return rf"{match['value']} \text{{{match['unit'].replace('^', '')}}}"
    return text


@cache
def find_scale(name: str) -> Expr | None:
    """Return what a unit is in base units; None: we do not know it."""
    name = name.replace("\\", "")
    for each in (name, name.removesuffix("s")):
        if each in DEGREES:
            return sympy.pi / 180
        if each in DERIVED or each in OTHERS:
            return _in_base_units(DERIVED.get(each) or OTHERS[each])
        if len(each) > 1 and each[0] in PREFIXES and each[1:] in DERIVED:
            return Rational(PREFIXES[each[0]]) * _in_base_units(DERIVED[each[1:]])
    return None


def _in_base_units(text: str) -> Expr:
    """Make `0.001 m3` a formula."""
    number, *units = text.split()
    value = Rational(number)
    for match in map(BASE.fullmatch, units):
        value *= Symbol(f'"{match[1]}', positive=True) ** int(match[2] or 1)
    return value


def read_unit(text: str) -> Expr | None:
    """Read a unit such as `cm`, `m/s^2`, `km per hour`, as symbols of the units within; None: it is none we know."""
    value, position, is_below = Integer(1), 0, False
    text = text.strip()
    dimension = 2 if text.startswith("square ") else 3 if text.startswith("cubic ") else 1
    text = text.removeprefix("square ").removeprefix("cubic ")
    while position < len(text):
        match = PART.match(text, position)
        if not match or not match[0]:
            return None
        position = match.end()
        if match["over"]:
            is_below = True
        elif name := match["name"]:
            if find_scale(name) is None:
                return None
            power, dimension = int(match["power"] or 1) * dimension, 1
            value *= Symbol(f'"{name}', positive=True) ** (-power if is_below else power)
    return None if value == 1 else value


def units_of(value: Basic) -> set[Symbol]:
    """Return the symbols of units within."""
    return {each for each in value.free_symbols if each.name.startswith('"')}


def convert(value: Basic) -> Basic:
    """Write every unit that we know in base units."""
    scales = {each: find_scale(each.name[1:]) for each in units_of(value)}
    known = {each: scale for each, scale in scales.items() if scale is not None}
    return value.subs(known, simultaneous=True) if known else value


def drop(value: Expr) -> Expr | None:
    """Return the number before a unit; None: the unit is no factor of the whole."""
    numbers = [each for each in sympy.Mul.make_args(value) if not _is_power_of_unit(each)]
    bare = sympy.Mul(*numbers)
    return None if units_of(bare) else bare


def _is_power_of_unit(factor: Expr) -> bool:
    base = factor.as_base_exp()[0]
    return isinstance(base, Symbol) and base.name.startswith('"')
