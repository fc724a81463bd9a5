"""Limits: by putting in, by a common factor, at infinity, by L'Hopital's rule."""

import random
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative, Limit
from kdkit.maths.formulas.reading import find_integers
from kdkit.maths.formulas.rules import derive, times
from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Named,
    Number,
    Product,
    Quotient,
    Sum,
    add,
    cos,
    exp,
    ln,
    polynomial,
    sin,
)
from kdkit.maths.formulas.writing import write, write_integrand
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero, draw_polynomial
from kdkit.maths.problems.proofs import value_at
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.statements import find_limit
from kdkit.maths.problems.template import Parameters, Solved, Template

WORDINGS = (
    r"Find $\lim_{x \to <<target>>} <<inside>>$.",
    r"Compute $\lim_{x \to <<target>>} <<inside>>$.",
    r"Evaluate the limit of $<<function>>$ as $x \to <<target>>$.",
)
INFINITY = r"\infty"


def finish(function: Formula, target: str, steps: list[str], answer: Formula) -> Solved:
    """Return the solution of a limit whose steps are written."""
    words = {"target": target, "inside": write_integrand(function), "function": write(function)}
    return Solved(words, tuple(steps), write(answer))


class LimitSubstitution(Template):
    """Of a polynomial, where it is continuous. Parameters: the number x goes to, coefficients."""

    name = "limit_substitution"
    domain = "calculus"
    wordings = WORDINGS
    levels = (1, 2)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a line at level 1, a square or cubic at level 2."""
        degree, size = (1, 9) if level == 1 else (draws.randint(2, 3), 6)
        return draws.randint(-5, 5), *draw_polynomial(draws, degree, size)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        target, *coefficients = parameters
        function, degree = polynomial(tuple(coefficients)), len(coefficients) - 1
        put_in = [_put_in(each, target, degree - k) for k, each in enumerate(coefficients) if each]
        values = [each * target ** (degree - k) for k, each in enumerate(coefficients) if each]
        value = Number(sum(values))
        chain = [Sum(tuple(each)) if len(each) > 1 else each[0] for each in (put_in, [Number(v) for v in values])]
        step = f"Put in ${target}$ for $x$: {equal(Limit(function, target), *chain, value)}"
        return finish(function, str(target), [step], value)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_limit(text)
        coefficients = find_integers(found[0]) if found and isinstance(found[1], int) else None
        return (found[1], *coefficients) if coefficients and len(coefficients) > 1 else None


def _put_in(coefficient: int, value: int, exponent: int) -> Formula:
    """Return 3 times 2 to the second, as one writes it before one works it out."""
    if exponent == 0:
        return Number(coefficient)
    power = Number(value) if exponent == 1 else Named(f"{write_factor(value)}^{{{exponent}}}", Number(value**exponent))
    return power if coefficient == 1 else Product((Number(coefficient), power))


def write_factor(value: int) -> str:
    """Write a whole number, a negative one in brackets."""
    return f"({value})" if value < 0 else str(value)


class LimitFactor(Template):
    """Of a quotient of polynomials that are both zero there. Parameters: the zero a, the other factors' coefficients.

    As text each: top and bottom without (x - a), `1 2` is x + 2.
    """

    name = "limit_factor"
    domain = "calculus"
    wordings = WORDINGS
    levels = (2, 3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw (x - a)(x - b) over x - a at level 2, over a square from 3 on, leading numbers at 4, a cubic at 5."""
        size = (12, 6, 6, 9)[level - 2]
        while True:
            target = draws.randint(-size, size)
            leads = (1, 1) if level < 4 else (draws.randint(1, 4), draws.randint(1, 4))
            top = (leads[0], *(draws.randint(-size, size) for _ in range(2 if level == 5 else 1)))
            bottom = (1,) if level == 2 else (leads[1], draws.randint(-size, size))
            if value_at(bottom, target) and value_at(top, target):
                return target, " ".join(map(str, top)), " ".join(map(str, bottom))

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        target = parameters[0]
        top, bottom = (tuple(map(int, str(each).split())) for each in parameters[1:])
        root = (1, -target)
        over, under = (polynomial(times(root, each)) for each in (top, bottom))
        function, rest = Quotient(over, under), _over(polynomial(top), polynomial(bottom))
        value = Number(Fraction(value_at(top, target)) / value_at(bottom, target))
        steps = [equal(over, Product((polynomial(root), polynomial(top))))]
        if len(bottom) > 1:
            steps.append(equal(under, Product((polynomial(root), polynomial(bottom)))))
        steps.append(
            f"Cancel ${write(polynomial(root))}$: {equal(Limit(function, target), Limit(rest, target), value)}"
        )
        return finish(function, str(target), steps, value)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_limit(text)
        if not found or not isinstance(found[1], int) or not isinstance(found[0], Quotient):
            return None
        sides = [_divide(find_integers(side), found[1]) for side in (found[0].top, found[0].bottom)]
        if None in sides or not value_at(sides[1], found[1]):
            return None
        return found[1], *(" ".join(map(str, side)) for side in sides)


def _over(top: Formula, bottom: Formula) -> Formula:
    return top if bottom == Number(1) else Quotient(top, bottom)


def _divide(coefficients: tuple[int, ...] | None, root: int) -> list[int] | None:
    """Divide a polynomial by x - root (Horner); None where it does not come out even."""
    if not coefficients or len(coefficients) < 2:
        return None
    values = [0]
    for each in coefficients:
        values.append(values[-1] * root + each)
    return values[1:-1] if values[-1] == 0 else None


class LimitInfinity(Template):
    """Of a quotient of polynomials for large x. Parameters: both polynomials' coefficients as text."""

    name = "limit_infinity"
    domain = "calculus"
    wordings = WORDINGS
    levels = (2, 3, 4)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw lines at level 2, squares and cubics over higher or equal powers later."""
        under = (1, 2, 3)[level - 2]
        over = under if level == 2 or draws.random() < 0.7 else under - 1
        size = (9, 9, 12)[level - 2]
        bottom = draw_polynomial(draws, under, size)
        top = draw_polynomial(draws, over, size)
        return " ".join(map(str, top)), " ".join(map(str, (abs(bottom[0]), *bottom[1:])))

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        top, bottom = (tuple(map(int, str(each).split())) for each in parameters)
        degree = len(bottom) - 1
        function = Quotient(polynomial(top), polynomial(bottom))
        divided = Quotient(_divide_by_power(top, degree), _divide_by_power(bottom, degree))
        value = Number(Fraction(top[0], bottom[0]) if len(top) == len(bottom) else 0)
        steps = [
            f"Divide by ${write(X**degree)}$: {equal(function, divided)}",
            f"What stands over $x$ goes to $0$: {equal(Limit(function, None), value)}",
        ]
        return finish(function, INFINITY, steps, value)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_limit(text)
        if not found or found[1] is not None or not isinstance(found[0], Quotient):
            return None
        sides = [find_integers(side) for side in (found[0].top, found[0].bottom)]
        if None in sides or len(sides[0]) > len(sides[1]) or len(sides[1]) < 2:
            return None
        return tuple(" ".join(map(str, side)) for side in sides)


def _divide_by_power(coefficients: tuple[int, ...], degree: int) -> Formula:
    terms = []
    for k, each in enumerate(coefficients):
        below = degree - (len(coefficients) - 1 - k)
        terms.append(Quotient(Number(each), X**below) if below and each else Number(each))
    return add(*terms)


class LimitHopital(Template):
    """Of 0/0 at 0, by the derivatives. Parameters: the top's kind, a of its ax, b of b x or b x^2 below."""

    name = "limit_hopital"
    domain = "calculus"
    wordings = WORDINGS
    levels = (3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw one derivative at levels 3 and 4, two at level 5."""
        kinds = ("cos", "exp_line") if level == 5 else ("sin", "exp", "ln")
        size = (6, 12, 9)[level - 3]
        kind = draws.choice(kinds)
        a = draws.randint(1, size) if kind in ("sin", "cos") else draw_nonzero(draws, size)
        return kind, a, draws.randint(1, 9)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        kind, a, b = parameters
        top, bottom = _make_top(kind, a), b * X ** (2 if kind in ("cos", "exp_line") else 1)
        steps, chain = [], [Limit(Quotient(top, bottom), 0)]
        while bottom.value({"x": Fraction(0)}) == 0:
            above, below = derive(top), derive(bottom)
            steps.append(f"{equal(Derivative(top, 'x'), above)} and {equal(Derivative(bottom, 'x'), below)}")
            top, bottom = above, below
            chain.append(Limit(Quotient(top, bottom), 0))
        value = Number(Fraction(_LEADING[kind](a)) / b)
        function = chain[0].formula
        steps.append(f"L'Hopital's rule: {equal(*chain, value)}")
        return finish(function, "0", steps, value)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_limit(text)
        if not found or found[1] != 0 or not isinstance(found[0], Quotient):
            return None
        bottom = find_integers(found[0].bottom)
        if not bottom or len(bottom) not in (2, 3) or any(bottom[1:]):
            return None
        for kind in _LEADING:
            for a in _numbers_in(found[0].top):
                if (len(bottom) == 3) == (kind in ("cos", "exp_line")) and _is_same(_make_top(kind, a), found[0].top):
                    return kind, a, bottom[0]
        return None


_LEADING = {
    "sin": lambda a: a,
    "exp": lambda a: a,
    "ln": lambda a: a,
    "cos": lambda a: Fraction(a * a, 2),
    "exp_line": lambda a: Fraction(a * a, 2),
}


def _make_top(kind: str, a: int) -> Formula:
    line = a * X
    match kind:
        case "sin":
            return sin(line)
        case "exp":
            return exp(line) - 1
        case "ln":
            return ln(1 + line)
        case "cos":
            return 1 - cos(line)
    return exp(line) - 1 - line


def _numbers_in(formula: Formula) -> set[int]:
    """Return the whole numbers that stand in a formula, with 1 and -1."""
    match formula:
        case Number(number):
            return {number} if isinstance(number, int) and number else set()
        case Sum(parts) | Product(parts):
            return set().union(*(_numbers_in(part) for part in parts), {1, -1})
        case Function(_, argument):
            return _numbers_in(argument) | {1, -1}
    return set()


def _is_same(one: Formula, other: Formula) -> bool:
    """Whether two formulas have the same terms, in any order."""
    if isinstance(one, Sum) and isinstance(other, Sum):
        return sorted(map(write, one.terms)) == sorted(map(write, other.terms))
    if isinstance(one, Function) and isinstance(other, Function) and one.name == other.name:
        return _is_same(one.argument, other.argument)
    return one == other
