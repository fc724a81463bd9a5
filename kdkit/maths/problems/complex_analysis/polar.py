"""Numbers with angles that are multiples of pi/6 and pi/4: argument, polar form, powers, roots."""

import math
import random
import re
from fractions import Fraction

from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Named,
    Number,
    Power,
    Product,
    Quotient,
    add,
    pi_times,
    sqrt,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.complex_analysis.numbers import WORDS, I, find_single
from kdkit.maths.problems.relations import agree, equal
from kdkit.maths.problems.template import Parameters, Solved, Template, UnprovenStepError

ANGLES = (0, 2, 3, 4, 6, 8, 9, 10, 12, 14, 15, 16, 18, 20, 21, 22)
"""In 24ths of a turn: the multiples of pi/6 and pi/4 (twelfths of pi)."""
THETA = r"\theta"
TINY = 1e-9


def cosine(twelfths: int) -> Formula:
    r"""Return the cosine of a multiple of pi/12 that is one of `ANGLES`, $\frac{\sqrt{3}}{2}$."""
    turned = min(twelfths % 24, -twelfths % 24)
    size = {0: (2, 1), 2: (1, 3), 3: (1, 2), 4: (1, 1), 6: (0, 1)}[min(turned, 12 - turned)]
    factor = Fraction(size[0], 2) * (-1 if turned > 6 else 1)
    return factor * sqrt(size[1])


def sine(twelfths: int) -> Formula:
    """Return the sine of such an angle."""
    return cosine(twelfths - 6)


def split_radius(twelfths: int) -> int:
    """Return the square of the radius at which both parts are free of fractions: sqrt(2) on diagonals, 2, 1 on axes."""
    if twelfths % 6 == 0:
        return 1
    return 2 if twelfths % 3 == 0 else 4


def cartesian(radius: Formula, twelfths: int) -> Formula:
    """Return r (cos t + i sin t) as a + b i with exact a and b."""
    return add(_times(radius, cosine(twelfths)), _times(radius, sine(twelfths)) * I)


def _times(left: Formula, right: Formula) -> Formula:
    """Multiply two numbers that are rational multiples of roots."""
    (a, p), (b, q) = _part_root(left), _part_root(right)
    return a * b * sqrt(p * q)


def _part_root(formula: Formula) -> tuple[int | Fraction, int]:
    factor: int | Fraction = 1
    if isinstance(formula, Product) and isinstance(formula.factors[0], Number):
        factor, formula = formula.factors[0].number, formula.factors[1]
    if isinstance(formula, Number):
        return factor * formula.number, 1
    return factor, formula.argument.number


def angle(twelfths: int) -> Formula:
    """Return the principal angle, above -pi and up to pi."""
    turned = twelfths % 24
    return pi_times(Fraction(turned if turned <= 12 else turned - 24, 12))


def euler(radius: Formula, twelfths: int) -> Formula:
    r"""Return $r e^{i\theta}$ as one writes it; the angle as it is, not reduced."""
    turn = pi_times(Fraction(twelfths, 12))
    exponent = Quotient(turn.top * I, turn.bottom) if isinstance(turn, Quotient) else turn * I
    return radius * Function("exp", exponent) if twelfths else radius


def make_number(factor: int, twelfths: int) -> tuple[Formula, Formula]:
    """Return the number and its modulus: `factor` times the smallest with whole or root parts at this angle."""
    radius = factor * sqrt(split_radius(twelfths))
    return cartesian(radius, twelfths), radius


def find_polar(formula: Formula | None) -> tuple[int, int] | None:
    """Return (factor, angle in twelfths of pi) of a number of `make_number`."""
    if formula is None:
        return None
    try:
        value = complex(formula.value({}))
    except (KeyError, ArithmeticError):
        return None
    for twelfths in ANGLES:
        number = make_number(1, twelfths)[0]
        ratio = value / complex(number.value({}))
        factor = round(ratio.real)
        if factor > 0 and agree(ratio, factor):
            return factor, twelfths
    return None


class ComplexArgument(Template):
    """The principal argument. Parameters: a factor, the angle in twelfths of pi."""

    name = "complex_argument"
    domain = "complex_analysis"
    levels = (2, 3)
    wordings = (
        r"Find the principal argument of $z = <<number>>$.",
        r"Find the argument of the complex number $<<number>>$ in $(-\pi, \pi]$.",
        r"Compute $\arg(<<number>>)$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw diagonals and axes at level 2, all angles at level 3."""
        angles = [each for each in ANGLES if each % 3 == 0] if level == 2 else ANGLES
        return draws.randint(1, 50), draws.choice(angles)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        steps, number, _ = polar_steps(*parameters)
        answer = angle(parameters[1])
        facts = {"z": (write(number),), THETA: (write(answer),)}
        return Solved({"number": write(number)}, tuple(steps), write(answer), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        text = re.sub(r"(in|between|interval)?\s*\$?\(-\s*\\pi,\s*\\pi\s*\]\$?", "", text)
        text, num_commands = re.subn(r"\\?\barg\s*(?=\()", "", text)
        return find_polar(find_single(text, f"{WORDS} argument principal angle", "" if num_commands else "argument"))


def polar_steps(factor: int, twelfths: int) -> tuple[list[str], Formula, Formula]:
    """Write modulus and angle of a number; return the steps, the number and its modulus."""
    number, radius = make_number(factor, twelfths)
    name, theta = Named("z", number), Named(THETA, angle(twelfths))
    parts = _times(radius, cosine(twelfths)), _times(radius, sine(twelfths))
    if not -math.pi < complex(angle(twelfths).value({})).real < math.pi + TINY:
        raise UnprovenStepError(f"{write(angle(twelfths))} is no principal angle")
    ratios = [
        equal(Function(kind, theta), Quotient(part, radius), ratio)
        for kind, part, ratio in zip(("cos", "sin"), parts, (cosine(twelfths), sine(twelfths)), strict=True)
    ]
    steps = [
        equal(Function("abs", name), radius),
        " and ".join(ratios),
        f"So {equal(theta, angle(twelfths))}",
    ]
    return steps, number, radius


class ComplexPolar(Template):
    """The polar form. Parameters: a factor, the angle in twelfths of pi."""

    name = "complex_polar"
    domain = "complex_analysis"
    levels = (2, 3)
    wordings = (
        r"Write $z = <<number>>$ in polar form $re^{i\theta}$.",
        r"Find the polar form of $<<number>>$.",
        r"Express the complex number $<<number>>$ in exponential form.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw diagonals at level 2, all angles but zero at level 3."""
        angles = [each for each in ANGLES[1:] if each % 3 == 0] if level == 2 else ANGLES[1:]
        return draws.randint(1, 50), draws.choice(angles)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        factor, twelfths = parameters
        steps, number, radius = polar_steps(factor, twelfths)
        answer = euler(radius, twelfths if twelfths <= 12 else twelfths - 24)
        steps.append(equal(Named("z", number), answer))
        facts = {"z": (write(number),), THETA: (write(angle(twelfths)),)}
        return Solved({"number": write(number)}, tuple(steps), write(answer), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        text = re.sub(r"\$?re\^\{i\s*\\theta\s*\}\$?", "", text)
        formula = find_single(text, f"{WORDS} polar exponential express", "polar exponential")
        found = None if isinstance(formula, Power) else find_polar(formula)
        return found if found and found[1] else None


class ComplexPower(Template):
    """z^n by the polar form. Parameters: a factor, the angle in twelfths of pi, the exponent."""

    name = "complex_power"
    domain = "complex_analysis"
    levels = (3, 4)
    wordings = (
        "Compute $(<<number>>)^{<<exponent>>}$.",
        "Simplify $(<<number>>)^{<<exponent>>}$.",
        "Find $(<<number>>)^{<<exponent>>}$ with the polar form.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw diagonals at level 3, all angles off the axes at level 4."""
        angles = [each for each in ANGLES if each % 6 and (level == 4 or each % 3 == 0)]
        return draws.randint(1, 5 if level == 3 else 3), draws.choice(angles), draws.randint(3, 10 if level == 3 else 8)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        factor, twelfths, exponent = parameters
        number, radius = make_number(factor, twelfths)
        name, turned = Named("z", number), twelfths if twelfths <= 12 else twelfths - 24
        squared = factor * factor * split_radius(twelfths)
        length = squared ** (exponent // 2) * (radius if exponent % 2 else Number(1))
        answer = cartesian(length, turned * exponent)
        powered = Product((Power(radius, Number(exponent)), euler(Number(1), turned * exponent)))
        steps = [
            f"Polar form {equal(name, euler(radius, turned))}",
            equal(name**exponent, powered, euler(length, turned * exponent)),
            equal(name**exponent, answer),
        ]
        words = {"number": write(number), "exponent": str(exponent)}
        return Solved(words, tuple(steps), write(answer), facts={"z": (write(number),)})

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        formula = find_single(text, f"{WORDS} polar moivre theorem")
        if not isinstance(formula, Power) or not isinstance(formula.exponent, Number):
            return None
        found, exponent = find_polar(formula.base), formula.exponent.number
        usable = found and found[1] % 6 and isinstance(exponent, int) and 2 <= exponent <= 16
        return (*found, exponent) if usable else None
