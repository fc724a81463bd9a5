"""First order: separable equations, linear ones with a constant coefficient, initial values."""

import random
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_integers
from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Name,
    Named,
    Number,
    Product,
    Quotient,
    add,
    exp,
    ln,
    multiply,
    polynomial,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero
from kdkit.maths.problems.calculus.integrals import integrate_power
from kdkit.maths.problems.differential_equations.equations import (
    PLAIN,
    C,
    derivatives_of,
    facts_of,
    find_equation,
    find_number,
    holds,
    left_side,
    prove_general,
)
from kdkit.maths.problems.relations import equal, usual_points
from kdkit.maths.problems.template import Parameters, Solved, Template

Y = Name("y")
GENERAL = (
    "Solve $<<equation>>$.",
    "Find the general solution of $<<equation>>$.",
    "Solve the differential equation $<<equation>>$.",
)
INITIAL = (
    "Solve $<<equation>>$ with $y(0) = <<start>>$.",
    "Solve the initial value problem $<<equation>>$, $y(0) = <<start>>$.",
    "Find the solution of $<<equation>>$ that satisfies $y(0) = <<start>>$.",
)


def integrate(coefficients: tuple[int, ...]) -> Formula:
    """Return the antiderivative of a polynomial, without a constant."""
    degree = len(coefficients) - 1
    return add(*(integrate_power(each, degree - k) for k, each in enumerate(coefficients) if each))


def draw_derivative(draws: random.Random, degree: int, size: int, terms: int) -> tuple[int, ...]:
    """Draw a polynomial whose antiderivative has whole coefficients; its lowest powers are absent."""
    wanted = [draw_nonzero(draws, size) for _ in range(terms)] + [0] * (degree + 1 - terms)
    return tuple(each * (degree + 1 - k) for k, each in enumerate(wanted[: degree + 1]))


class OdeSeparable(Template):
    """y' = g(x) h(y). Parameters: h (`y`, `square`, `exponential`: e^(-y)), coefficients of g."""

    name = "ode_separable"
    domain = "differential_equations"
    levels = (1, 2, 3, 4)
    wordings = GENERAL

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw y' = a x^n y up to level 2, other h from level 3 on, two terms in g at 2 and 4."""
        kind = "y" if level <= 2 else draws.choice(("square", "exponential"))
        degree = draws.randint(*((0, 4), (1, 3), (0, 3), (1, 3))[level - 1])
        return kind, *draw_derivative(draws, degree, (20, 9, 20, 9)[level - 1], 1 if level % 2 else 2)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        kind, *coefficients = parameters
        g, big = polynomial(tuple(coefficients)), integrate(tuple(coefficients))
        outer, y, separated, integrated, sides = _separate(kind, g, big)
        name, slope, _ = derivatives_of(y)
        steps = [
            f"Separate: {holds(separated(name, slope), g)}",
            f"Integrate: {holds(integrated(name), sides)}",
            f"So {holds(name, y)}",
        ]
        holds(slope, g * outer(name))
        prove_general(y, C)
        equation = f"y' = {write(g * outer(Y))}"
        facts = facts_of(y, 1)
        return Solved({"equation": equation}, tuple(steps), f"y = {write(y)}", "ode", equation, facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        equation = find_equation(text)
        if not equation or equation.initial:
            return None
        linear = equation.linear()
        if linear and linear["y'"] == Number(1) and linear["y''"] == linear[""] == Number(0):
            g = find_integers(-linear["y"])
            return ("y", *g) if g and any(g) else None
        if equation.left != Name("y'"):
            return None
        factors = equation.right.factors if isinstance(equation.right, Product) else (equation.right,)
        kinds = {write(Y**2): "square", write(exp(-Y)): "exponential"}
        found = [kinds[write(each)] for each in factors if write(each) in kinds]
        g = find_integers(multiply(*(each for each in factors if write(each) not in kinds), Number(1)))
        return (found[0], *g) if len(found) == 1 and g and any(g) else None


def _separate(kind: str, g: Formula, big: Formula) -> tuple:
    """Return h, the solution, the separated left side, its antiderivative, and the right one's."""
    if kind == "y":
        y = C * exp(big)
        return (
            lambda name: name,
            y,
            lambda name, slope: Quotient(slope, name),
            lambda name: Function("ln_abs", name),
            add(big, Function("ln_abs", C)),
        )
    if kind == "square":
        return (
            lambda name: name**2,
            Quotient(Number(-1), big + C),
            lambda name, slope: Quotient(slope, name**2),
            lambda name: Quotient(Number(-1), name),
            big + C,
        )
    return (
        lambda name: exp(-name),
        ln(big + C),
        lambda name, slope: Product((exp(name), slope)),
        lambda name: exp(name),
        big + C,
    )


class OdeLinear(Template):
    """y' + a y = f with f a polynomial or b e^(kx). Parameters: a, the kind of f, its numbers."""

    name = "ode_linear"
    domain = "differential_equations"
    levels = (2, 3, 4, 5)
    wordings = GENERAL

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a number on the right at level 2, b e^(kx) at 3, a line at 4, resonance (k = -a) or larger at 5."""
        a = draw_nonzero(draws, (9, 6, 4, 9)[level - 2])
        if level == 2:
            return a, "polynomial", a * draw_nonzero(draws, 9)
        if level == 4:
            return a, "polynomial", a * a * draw_nonzero(draws, 4), a * draws.randint(-6, 6)
        k = -a if level == 5 and draws.random() < 0.5 else draw_nonzero(draws, 6)
        b = draw_nonzero(draws, 9)
        return a, "exp", b * (a + k or 1) if level == 3 and a + k else b, k

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        a, kind, *numbers = parameters
        right = polynomial(tuple(numbers)) if kind == "polynomial" else numbers[0] * exp(numbers[1] * X)
        part = particular(a, kind, numbers)
        resonant = kind == "exp" and numbers[1] == -a
        y = (part + C) * exp(-a * X) if resonant else part + C * exp(-a * X)
        factor = exp(a * X)
        name, slope, _ = derivatives_of(y)
        mu = Named(r"\mu", factor)
        if resonant:
            inside, whole = Number(numbers[0]), part
        elif kind == "polynomial":
            inside, whole = right * factor, part * factor
        else:
            together = (numbers[1] + a) * X
            inside, whole = numbers[0] * exp(together), Fraction(numbers[0], numbers[1] + a) * exp(together)
        holds(left_side((name, slope), 0, a), right)
        prove_general(y, C)
        steps = [
            f"Integrating factor {holds(mu, factor)}",
            holds(Derivative(Product((mu, name)), "x"), inside),
            f"Integrate: {holds(Product((mu, name)), whole + C)}",
            f"So {holds(name, y)}",
        ]
        equation = f"{write(left_side(PLAIN[:2], 0, a))} = {write(right)}"
        facts = {r"\mu": (write(factor),), **facts_of(y, 1)}
        return Solved({"equation": equation}, tuple(steps), f"y = {write(y)}", "ode", equation, facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        equation = find_equation(text)
        linear = equation.linear() if equation and not equation.initial else None
        if not linear or linear["y''"] != Number(0) or linear["y'"] != Number(1):
            return None
        a, right = find_number(linear["y"]), -linear[""]
        numbers = find_integers(right)
        if not a or right == Number(0):
            return None
        if numbers:
            return (a, "polynomial", *numbers) if len(numbers) <= 2 else None
        factor, inner = part_factor(right)
        match inner:
            case Function("exp", argument):
                k, b = find_integers(argument), find_number(factor)
                return (a, "exp", b, k[0]) if b and k and len(k) == 2 and k[1] == 0 else None
        return None


def part_factor(formula: Formula) -> tuple[Formula, Formula]:
    """Part a number from what it multiplies."""
    if isinstance(formula, Product) and len(formula.factors) == 2:
        return formula.factors[0], formula.factors[1]
    return Number(1), formula


def particular(a: int, kind: str, numbers: list[int]) -> Formula:
    """Return a solution of y' + a y = f; in resonance what stands before e^(-ax)."""
    if kind == "exp":
        b, k = numbers
        return b * X if k == -a else Fraction(b, k + a) * exp(k * X)
    if len(numbers) == 1:
        return Number(Fraction(numbers[0], a))
    slope = Fraction(numbers[0], a)
    return polynomial((slope, (numbers[1] - slope) / a))


class OdeInitialValue(Template):
    """y' + a y = b, or y' = g(x) y, with y(0). Parameters: the kind (`linear`, `separable`), y(0), a and b, or g."""

    name = "ode_initial_value"
    domain = "differential_equations"
    levels = (1, 2, 3, 4)
    wordings = INITIAL

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw y' = k y at level 1, y' = a x^n y at 2, y' + a y = b at 3, with fractions or two terms at 4."""
        start = draw_nonzero(draws, 12)
        if level <= 2 or (level == 4 and draws.random() < 0.5):
            degree = 0 if level == 1 else draws.randint(1, 3)
            return "separable", start, *draw_derivative(draws, degree, 9, 2 if level == 4 else 1)
        while True:
            a, b, start = draw_nonzero(draws, 9), draw_nonzero(draws, 12), draws.randint(-12, 12)
            b = a * b if level == 3 else b
            if b != a * start:
                return "linear", start, a, b

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        kind, start, *numbers = parameters
        if kind == "separable":
            g = polynomial(tuple(numbers))
            rest, growth = Number(0), exp(integrate(tuple(numbers)))
            equation = f"y' = {write(g * Y)}"
        else:
            a, b = numbers
            rest, growth = Number(Fraction(b, a)), exp(-a * X)
            equation = f"{write(left_side(PLAIN[:2], 0, a))} = {b}"
        constant = Number(Fraction(start) - rest.number)
        general, y = rest + C * growth, rest + constant * growth
        name, slope, _ = derivatives_of(y)
        whole, whole_slope, _ = derivatives_of(general)
        right = polynomial(tuple(numbers)) * name if kind == "separable" else Number(numbers[1]) - numbers[0] * name
        above = polynomial(tuple(numbers)) * whole if kind == "separable" else Number(numbers[1]) - numbers[0] * whole
        holds(slope, right)
        holds(whole_slope, above)
        at_zero = tuple({**point, "x": Fraction(0), "C": constant.number} for point in usual_points())
        steps = [
            f"General solution {holds(Named('y', general), general)}",
            equal(Named("y(0)", y), rest + C, start, points=at_zero),
            f"So {holds(Named('C', constant), constant)}",
            holds(name, y),
        ]
        facts = {**facts_of(y, 1), "C": (write(constant),), "y(0)": (str(start),)}
        return Solved({"equation": equation, "start": str(start)}, tuple(steps), write(y), facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        equation = find_equation(text)
        linear = equation.linear() if equation and set(equation.initial) == {0} else None
        start = find_number(equation.initial[0]) if linear else None
        if start is None or linear["y''"] != Number(0) or linear["y'"] != Number(1):
            return None
        g, right = find_integers(-linear["y"]), find_number(-linear[""])
        if not g or not any(g) or right is None:
            return None
        if right == 0:
            return ("separable", start, *g) if start else None
        a = -g[0]
        return ("linear", start, a, right) if len(g) == 1 and Fraction(right, a) != start else None
