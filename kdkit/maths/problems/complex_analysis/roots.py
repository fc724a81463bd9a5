"""Equations whose solutions are complex: square roots of numbers, quadratic equations."""

import random
from fractions import Fraction

from kdkit.maths.formulas.reading import find_formula, find_integers
from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Name,
    Named,
    Number,
    Power,
    Quotient,
    Sum,
    add,
    polynomial,
    sqrt,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.elementary import draw_nonzero
from kdkit.maths.problems.complex_analysis.numbers import (
    I,
    complex_number,
    find_gaussian,
    multiply_gaussian,
)
from kdkit.maths.problems.complex_analysis.polar import cartesian, euler, find_polar
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.template import Parameters, Solved, Template, UnprovenStepError
from kdkit.maths.reading import read_statement

Z = Name("z")
WORDS = "complex solutions over roots numbers equation square quadratic"


class ComplexSquareRoots(Template):
    """z^2 = w whose roots are p + qi with whole p, q. Parameters: p > 0, q."""

    name = "complex_square_roots"
    domain = "complex_analysis"
    levels = (3, 4)
    wordings = (
        "Solve $z^{2} = <<number>>$ over the complex numbers.",
        "Find all complex numbers $z$ with $z^{2} = <<number>>$.",
        "Find the square roots of $<<number>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw larger parts at level 4."""
        size = 12 if level == 3 else 25
        while True:
            p, q = draws.randint(1, size), draw_nonzero(draws, size)
            if p != abs(q):
                return p, q

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        p, q = parameters
        real, imaginary = multiply_gaussian((p, q), (p, q))
        number, root = complex_number(real, imaginary), complex_number(p, q)
        x, y = Named("x", Number(p)), Named("y", Number(q))
        steps = [
            f"With {equal(Named('z', root), x + y * I)}: {equal(x**2 - y**2, real)} and {equal(2 * x * y, imaginary)}",
            equal(x**2 + y**2, Function("abs", number), p * p + q * q),
            f"So {equal(x**2, p * p)} and {equal(y**2, q * q)}",
            f"{equal(Named('z', root), root)} or {equal(Named('z', -root), -root)}",
        ]
        equal(root**2, number)
        facts = {"z": (write(root), write(-root)), "x": (str(p), str(-p)), "y": (str(q), str(-q))}
        return Solved({"number": write(number)}, tuple(steps), f"{write(root)}, {write(-root)}", "values", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        formulas = [each for each in statement.formulas if each != "z"]
        if not statement.fits(WORDS) or len(formulas) != 1:
            return None
        sides = formulas[0].split("=")
        squared = len(sides) == 2 and find_formula(sides[0]) == Z**2
        named = len(sides) == 1 and {"square", "roots"} <= statement.words
        return find_root(find_gaussian(find_formula(sides[-1]))) if squared or named else None


def find_root(number: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the whole p > 0 and q with (p + qi)^2 a given number; None: there are none."""
    if not number or not number[1]:
        return None
    length = round((number[0] ** 2 + number[1] ** 2) ** 0.5)
    p = round(((length + number[0]) / 2) ** 0.5)
    if p and number[1] % (2 * p) == 0:
        q = number[1] // (2 * p)
        return (p, q) if multiply_gaussian((p, q), (p, q)) == number else None
    return None


class ComplexRoots(Template):
    """(z - p)^n = c with c on an axis. Parameters: n, the modulus of the roots of c, quarter turns of c, p."""

    name = "complex_roots"
    domain = "complex_analysis"
    levels = (4, 5)
    wordings = (
        "Solve $<<power>> = <<number>>$ over the complex numbers.",
        "Find all complex solutions of $<<power>> = <<number>>$.",
        "Find all complex numbers $z$ with $<<power>> = <<number>>$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw second and fourth roots at level 4, third and sixth roots at level 5; p is often zero."""
        exponent = draws.choice((2, 4) if level == 4 else (3, 6))
        quarters = draws.choice({2: (1, 2, 3), 3: (0, 1, 2, 3), 4: (0, 2), 6: (0, 2)}[exponent])
        shift = draws.randint(-9, 9) if draws.random() < 0.6 else 0
        return exponent, draws.randint(1, {2: 20, 3: 9, 4: 6, 6: 4}[exponent]), quarters, shift

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        exponent, radius, quarters, shift = parameters
        size = radius**exponent
        number = (Number(size), size * I, Number(-size), -size * I)[quarters]
        power = (Z - shift) ** exponent
        as_power = equal(Power(Number(radius), Number(exponent)), size)
        steps = [f"The modulus of each ${write(Z - shift)}$ is ${radius}$: {as_power}"]
        if quarters:
            steps.insert(0, f"Polar form {equal(number, euler(Number(size), 6 * quarters))}")
        roots = []
        for k in range(exponent):
            twelfths = (6 * quarters + 24 * k) // exponent
            turned = cartesian(Number(radius), twelfths)
            root = add_shift(turned, shift)
            shifted = euler(Number(radius), twelfths)
            steps.append(equal(Named(f"z_{{{k + 1}}}", root), shift + shifted if shift else shifted, root))
            equal(power, number, points=({"z": complex(root.value({}))},))
            roots.append(root)
        texts = tuple(write(root) for root in roots)
        if len(set(texts)) != exponent:
            raise UnprovenStepError(f"{exponent} roots of {write(number)} are not distinct")
        facts = {"z": texts, **{f"z_{{{k}}}": (text,) for k, text in enumerate(texts, 1)}}
        words = {"power": write(power), "number": write(number)}
        return Solved(words, tuple(steps), ", ".join(texts), "values", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        equations = [each for each in statement.formulas if "=" in each]
        if not statement.fits(WORDS) or len(equations) != 1 or equations[0].count("=") != 1:
            return None
        left, right = (find_formula(side) for side in equations[0].split("="))
        if not isinstance(left, Power) or not isinstance(left.exponent, Number):
            return None
        line, found, exponent = find_integers(left.base, "z"), find_polar(right), left.exponent.number
        if not line or len(line) != 2 or line[0] != 1 or not found or found[1] % 6 or exponent not in (2, 3, 4, 6):
            return None
        radius = round(found[0] ** (1 / exponent))
        possible = radius**exponent == found[0] and (exponent in (2, 3) or found[1] % 12 == 0)
        return (exponent, radius, found[1] // 6, -line[1]) if possible else None


def add_shift(number: Formula, shift: int) -> Formula:
    """Return number + shift, real parts joined where they are whole."""
    real, *rest = number.terms if isinstance(number, Sum) else (number,)
    if isinstance(real, Number):
        return add(Number(real.number + shift), *rest)
    return add(Number(shift), number)


class ComplexQuadratic(Template):
    """a z^2 + b z + c = 0 without real solutions. Parameters: a, b, c."""

    name = "complex_quadratic"
    domain = "complex_analysis"
    levels = (2, 3, 4)
    wordings = (
        "Solve $<<polynomial>> = 0$ over the complex numbers.",
        "Find the complex solutions of $<<polynomial>> = 0$.",
        "Find all complex numbers $z$ with $<<polynomial>> = 0$.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw solutions p + qi with whole p, q at level 2, roots in them at 3, a leading number at 4."""
        if level == 2:
            p, q = draws.randint(-12, 12), draws.randint(1, 12)
            return 1, -2 * p, p * p + q * q
        while True:
            a = 1 if level == 3 else draws.randint(2, 5)
            b, c = draws.randint(-12, 12), draws.randint(1, 30)
            if b * b < 4 * a * c:
                return a, b, c

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        a, b, c = parameters
        discriminant = b * b - 4 * a * c
        function = polynomial((a, b, c), "z")
        half = sqrt(-discriminant)
        roots = [add(Number(Fraction(-b, 2 * a)), _scale(sign * half, 2 * a)) for sign in (1, -1)]
        names = [Named(f"z_{{{k}}}", root) for k, root in enumerate(roots, 1)]
        quotients = [Quotient(add(Number(-b), sign * half * I), Number(2 * a)) for sign in (1, -1)]
        squared = Named(f"{'(' if b < 0 else ''}{b}{')' if b < 0 else ''}^{{2}}", Number(b * b))
        letter = Named("D", Number(discriminant))
        for root in roots:
            equal(Number(0), polynomial((a, b, c), "z"), points=({"z": complex(root.value({}))},))
        steps = [equal(letter, add(squared, Number(-4 * a * c)) if b else Number(-4 * a * c), discriminant)]
        steps += [equal(*each) for each in zip(names, quotients, roots, strict=True)]
        texts = tuple(write(root) for root in roots)
        facts = {"D": (str(discriminant),), "z": texts, **{name.name: (write(name.formula),) for name in names}}
        return Solved({"polynomial": write(function)}, tuple(steps), ", ".join(texts), "values", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        statement = read_statement(text)
        formulas = [each for each in statement.formulas if each != "z"]
        if not statement.fits(WORDS) or len(formulas) != 1 or formulas[0].count("=") != 1:
            return None
        left, right = (find_formula(side) for side in formulas[0].split("="))
        found = find_integers(left - right, "z") if left is not None and right is not None else None
        if not found or len(found) != 3:
            return None
        a, b, c = found if found[0] > 0 else tuple(-each for each in found)
        return (a, b, c) if b * b < 4 * a * c and right == Number(0) else None


def _scale(length: Formula, divisor: int) -> Formula:
    """Return length / divisor times i."""
    return Fraction(1, divisor) * length * I
