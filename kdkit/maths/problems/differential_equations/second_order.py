"""Second order with constant coefficients: real, double and complex roots, initial values, a right side."""

import random
from abc import abstractmethod
from fractions import Fraction

from kdkit.maths.formulas.rules import derive
from kdkit.maths.formulas.tree import (
    Formula,
    Name,
    Named,
    Number,
    add,
    cos,
    exp,
    multiply,
    polynomial,
    sin,
    sqrt,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero
from kdkit.maths.problems.complex_analysis.numbers import I
from kdkit.maths.problems.differential_equations.equations import (
    C1,
    C2,
    PLAIN,
    derivatives_of,
    facts_of,
    find_equation,
    find_number,
    holds,
    prove_general,
)
from kdkit.maths.problems.differential_equations.first_order import GENERAL
from kdkit.maths.problems.relations import equal, usual_points
from kdkit.maths.problems.template import Parameters, Solved, Template

R = Name("r")
INITIAL = (
    "Solve $<<equation>>$ with $y(0) = <<start>>$ and $y'(0) = <<slope>>$.",
    "Solve the initial value problem $<<equation>>$, $y(0) = <<start>>$, $y'(0) = <<slope>>$.",
)


Coefficients = tuple[int, int, int]
"""a > 0, b, c of a y'' + b y' + c y."""


def discriminant(coefficients: Coefficients) -> int:
    """Return b^2 - 4ac."""
    a, b, c = coefficients
    return b * b - 4 * a * c


def characteristic_roots(coefficients: Coefficients) -> tuple[Formula, Formula]:
    """Return the two solutions of a r^2 + b r + c = 0, the smaller first; both the same where they are double."""
    a, b, _ = coefficients
    inside, centre = discriminant(coefficients), Fraction(-b, 2 * a)
    step = Fraction(1, 2 * a) * sqrt(abs(inside)) if inside else Number(0)
    if inside < 0:
        return Number(centre) + step * I, Number(centre) - step * I
    if isinstance(step, Number):
        return Number(centre - step.number), Number(centre + step.number)
    return Number(centre) - step, Number(centre) + step


def solution(coefficients: Coefficients, first: Formula = C1, second: Formula = C2) -> Formula:
    """Return the general solution of the homogeneous equation, or the one with these factors."""
    a, b, _ = coefficients
    inside, roots = discriminant(coefficients), characteristic_roots(coefficients)
    if inside == 0:
        return (first + second * X) * exp(roots[0] * X)
    if inside > 0:
        return first * exp(roots[0] * X) + second * exp(roots[1] * X)
    turn = Fraction(1, 2 * a) * sqrt(-inside) * X
    wave = first * cos(turn) + second * sin(turn)
    return exp(Number(Fraction(-b, 2 * a)) * X) * wave if b else wave


def prove_solution(y: Formula, coefficients: Coefficients, right: Formula) -> None:
    """Prove that y solves the equation: y'' is what the equation says, and y' is what the rules say.

    Raises:
        UnprovenStepError: it does not.
    """
    a, b, c = coefficients
    name, slope, curve = derivatives_of(y)
    holds(slope, derive(y))
    holds(a * curve, right - b * slope - c * name)


def root_steps(coefficients: Coefficients) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Write the characteristic equation and its roots."""
    a, b, c = coefficients
    roots = characteristic_roots(coefficients)
    function = polynomial(coefficients, "r")
    steps = [f"Characteristic equation {equal(function, 0, points=tuple({'r': _value(root)} for root in roots))}"]
    if roots[0] == roots[1]:
        steps.append(f"Double root {equal(Named('r', roots[0]), roots[0])}")
        equal(function, a * (R - roots[0]) ** 2)
        return steps, {"r": (write(roots[0]),)}
    names = [Named(f"r_{{{k}}}", root) for k, root in enumerate(roots, 1)]
    if all(isinstance(root, Number) for root in roots):
        steps.append(equal(function, multiply(Number(a), *(R - root for root in roots))))
    steps.append(" and ".join(equal(name, root) for name, root in zip(names, roots, strict=True)))
    holds(a * add(*names), Number(-b))
    holds(a * multiply(*names), Number(c))
    texts = tuple(write(root) for root in roots)
    return steps, {"r": texts, "r_{1}": texts[:1], "r_{2}": texts[1:]}


def _value(root: Formula) -> Fraction | complex:
    value = root.value({})
    return value if isinstance(value, Fraction) else complex(value)


def write_equation(coefficients: Coefficients, right: Formula) -> str:
    """Write a y'' + b y' + c y = f."""
    a, b, c = coefficients
    return f"{write(add(a * PLAIN[2], b * PLAIN[1], c * PLAIN[0]))} = {write(right)}"


def read_constants(text: str, num_initial: int) -> tuple[Coefficients, Formula, dict[int, Formula]] | None:
    """Return the coefficients, the right side and the initial values of a y'' + b y' + c y = f; None: it is none."""
    equation = find_equation(text)
    linear = equation.linear() if equation and len(equation.initial) == num_initial else None
    if not linear:
        return None
    found = [find_number(linear[name]) for name in ("y''", "y'", "y")]
    if None in found or found[0] <= 0:
        return None
    return (found[0], found[1], found[2]), -linear[""], equation.initial


class OdeHomogeneous(Template):
    """a y'' + b y' + c y = 0. Parameters: a > 0, b, c."""

    domain = "differential_equations"
    wordings = GENERAL

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        y = solution(parameters)
        prove_solution(y, parameters, Number(0))
        prove_general(y, C1, C2)
        steps, facts = root_steps(parameters)
        steps.append(f"So {holds(Named('y', y), y)}")
        equation = write_equation(parameters, Number(0))
        facts = {**facts, **facts_of(y, 2)}
        return Solved({"equation": equation}, tuple(steps), f"y = {write(y)}", "ode", equation, facts)

    @abstractmethod
    def fits(self, inside: int) -> bool:
        """Whether the discriminant is of this kind."""

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = read_constants(text, 0)
        return found[0] if found and found[1] == Number(0) and self.fits(discriminant(found[0])) else None


class OdeRealRoots(OdeHomogeneous):
    """Two real roots."""

    name = "ode_real_roots"
    levels = (2, 3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw whole roots, with a factor before all at level 3, rational ones at level 4, irrational ones at 5."""
        while True:
            if level == 5:
                coefficients = 1, 2 * draws.randint(-8, 8), draws.randint(-20, 20)
            else:
                first, second = draws.sample(range(-9, 10), 2)
                factor, under = (1, 1) if level == 2 else (draws.randint(2, 5), draws.randint(2, 5))
                if level < 4:
                    coefficients = factor, -factor * (first + second), factor * first * second
                else:
                    coefficients = under, -first - under * second, first * second
            is_whole = isinstance(characteristic_roots(coefficients)[0], Number)
            if discriminant(coefficients) > 0 and is_whole == (level < 5):
                return coefficients

    def fits(self, inside: int) -> bool:
        """See OdeHomogeneous."""
        return inside > 0


class OdeDoubleRoot(OdeHomogeneous):
    """One double root."""

    name = "ode_double_root"
    levels = (2, 3, 4)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a whole root with a factor before all, up to 6 at level 2, up to 15 at 3, a fraction at level 4."""
        root = draw_nonzero(draws, 12)
        if level == 4:
            under = draws.randint(2, 9)
            return under * under, -2 * under * root, root * root
        factor = draws.randint(1, 6 if level == 2 else 15)
        return factor, -2 * factor * root, factor * root * root

    def fits(self, inside: int) -> bool:
        """See OdeHomogeneous."""
        return inside == 0


class OdeComplexRoots(OdeHomogeneous):
    """Two complex roots."""

    name = "ode_complex_roots"
    levels = (3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw whole parts up to level 4, roots in the imaginary part at level 5."""
        if level < 5:
            size = 9 if level == 3 else 12
            real, turn = draws.randint(-size, size), draws.randint(1, size + 3)
            factor = 1 if level == 3 else draws.randint(1, 5)
            return factor, -2 * factor * real, factor * (real * real + turn * turn)
        while True:
            coefficients = 1, draws.randint(-12, 12), draws.randint(1, 50)
            inside = discriminant(coefficients)
            if inside < 0 and not isinstance(sqrt(-inside), Number):
                return coefficients

    def fits(self, inside: int) -> bool:
        """See OdeHomogeneous."""
        return inside < 0


class OdeSecondInitial(Template):
    """y'' + p y' + q y = 0 with y(0) and y'(0), rational roots or parts. Parameters: p, q, y(0), y'(0)."""

    name = "ode_second_initial"
    domain = "differential_equations"
    levels = (3, 4, 5)
    wordings = INITIAL

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw two real roots at level 3, a double one at 4, complex ones at 5; the factors are whole."""
        first, second = draw_nonzero(draws, 6), draw_nonzero(draws, 6)
        if level == 3:
            a, b = sorted(draws.sample(range(-5, 6), 2))
            return -a - b, a * b, first + second, a * first + b * second
        if level == 4:
            root = draw_nonzero(draws, 6)
            return -2 * root, root * root, first, root * first + second
        real, turn = draws.randint(-4, 4), draws.randint(1, 6)
        return -2 * real, real * real + turn * turn, first, real * first + turn * second

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        p, q, start, slope = parameters
        coefficients = 1, p, q
        values, general = _constants(coefficients, start, slope), solution(coefficients)
        y = solution(coefficients, *(Number(each) for each in values))
        at_zero, slope_at_zero = _conditions(coefficients)
        prove_solution(y, coefficients, Number(0))
        steps, facts = root_steps(coefficients)
        points = tuple(
            {**point, "x": Fraction(0), "C_{1}": Fraction(values[0]), "C_{2}": Fraction(values[1])}
            for point in usual_points()
        )
        constants = [Named(f"C_{{{k}}}", Number(value)) for k, value in enumerate(values, 1)]
        steps += [
            f"So {holds(Named('y', general), general)}",
            equal(Named("y(0)", y), at_zero, start, points=points[:1]),
            equal(Named("y'(0)", derive(y)), slope_at_zero, slope, points=points[:1]),
            " and ".join(equal(name, name.formula) for name in constants),
        ]
        equal(y, general, points=tuple({**each, "x": Fraction(3, 7)} for each in points[:1]))
        facts = {**facts, **facts_of(y, 2), "y(0)": (str(start),), "y'(0)": (str(slope),)}
        facts |= {name.name: (write(name.formula),) for name in constants}
        words = {"equation": write_equation(coefficients, Number(0)), "start": str(start), "slope": str(slope)}
        return Solved(words, tuple(steps), write(y), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = read_constants(text, 2)
        if not found or found[1] != Number(0) or found[0][0] != 1:
            return None
        inside, initial = discriminant(found[0]), [find_number(found[2].get(order)) for order in (0, 1)]
        is_exact = inside == 0 or isinstance(sqrt(abs(inside)), Number)
        return (*found[0][1:], *initial) if is_exact and None not in initial and any(initial) else None


def _conditions(coefficients: Coefficients) -> tuple[Formula, Formula]:
    """Return y(0) and y'(0) of the general solution."""
    roots, inside = characteristic_roots(coefficients), discriminant(coefficients)
    if inside > 0:
        return C1 + C2, roots[0] * C1 + roots[1] * C2
    real = Number(Fraction(-coefficients[1], 2))
    turn = Number(1) if inside == 0 else Fraction(1, 2) * sqrt(-inside)
    return C1, real * C1 + turn * C2


def _constants(coefficients: Coefficients, start: int, slope: int) -> tuple[Fraction, Fraction]:
    """Solve for the factors."""
    roots, inside = characteristic_roots(coefficients), discriminant(coefficients)
    if inside > 0:
        second = (slope - roots[0].number * start) / Fraction(roots[1].number - roots[0].number)
        return start - second, second
    turn = Fraction(1) if inside == 0 else Fraction(sqrt(-inside).number) / 2
    return Fraction(start), (slope + Fraction(coefficients[1], 2) * start) / turn
