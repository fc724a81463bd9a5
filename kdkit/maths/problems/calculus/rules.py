"""Derivatives by the product, quotient and chain rules."""

import random
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_coefficients, find_integers
from kdkit.maths.formulas.rules import derive, derive_function
from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Named,
    Number,
    Power,
    Product,
    Quotient,
    Sum,
    add,
    multiply,
    polynomial,
)
from kdkit.maths.formulas.writing import write
from kdkit.maths.problems.calculus.derivatives import WORDINGS, finish
from kdkit.maths.problems.calculus.elementary import (
    draw_nonzero,
    draw_polynomial,
    find_word,
    make,
    one_order,
    read_word,
    word_polynomial,
)
from kdkit.maths.problems.relations import equal
from kdkit.maths.problems.statements import find_derivative
from kdkit.maths.problems.template import Parameters, Solved, Template


def tidy(formula: Formula) -> Formula:
    """Expand a formula that is a polynomial; others stay."""
    found = find_coefficients(formula)
    return formula if found is None else polynomial(found)


def part_product(formula: Formula | None) -> tuple[Formula, Formula] | None:
    """Part a product of two functions; powers and numbers that stand together are one of them."""
    if not isinstance(formula, Product):
        return None
    plain = [each for each in formula.factors if find_coefficients(each) is not None]
    others = [each for each in formula.factors if find_coefficients(each) is None]
    if len(others) == 1 and plain:
        return multiply(*plain), others[0]
    if len(others) == 2 and not plain:
        return others[0], others[1]
    return (plain[0], plain[1]) if len(plain) == 2 and not others and all(isinstance(p, Sum) for p in plain) else None


class DerivativeProduct(Template):
    """u v with the product rule. Parameters: words of the two functions, see `elementary`."""

    name = "derivative_product"
    domain = "calculus"
    wordings = WORDINGS
    levels = (2, 3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a power or two lines at level 2, a polynomial at 3 and 4, two functions at level 5."""
        size = (5, 6, 9, 9)[level - 2]
        if level == 2 and draws.random() < 0.5:
            lines = [(draw_nonzero(draws, size), draw_nonzero(draws, size)) for _ in range(2)]
            return tuple(one_order(word_polynomial(line) for line in lines))
        kind = draws.choice(("exp", "sin", "cos"))
        word = f"{kind} {draws.randint(1, size)}"
        if level == 5:
            other = draws.choice([each for each in ("exp", "sin", "cos") if each != kind])
            k = draw_nonzero(draws, size) if other == "exp" else draws.randint(1, size)
            return tuple(one_order((f"{other} {k}", word)))
        if level == 2:
            return word_polynomial((draw_nonzero(draws, size), *[0] * draws.randint(1, 3))), draws.choice((word, "ln"))
        return word_polynomial((*draw_polynomial(draws, level - 2, size)[:-1], draw_nonzero(draws, size))), word

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        u, v = make(parameters[0]), make(parameters[1])
        function, left, right = u * v, derive(u), derive(v)
        second = over_x(parameters[0]) if parameters[1] == "ln" else tidy(u * right)
        answer = tidy(add(tidy(left * v), second))
        names = Named("u", u), Named("v", v), Named("u'", Derivative(u, "x")), Named("v'", Derivative(v, "x"))
        rule = Sum((Product((names[2], names[1])), Product((names[0], names[3]))))
        steps = [
            f"Product rule with {equal(names[0], u)} and {equal(names[1], v)}",
            f"{equal(names[2], left)} and {equal(names[3], right)}",
            equal(Named("f'(x)", Derivative(function, "x")), rule, Sum((left * v, u * right)), answer),
        ]
        facts = {"u": u, "v": v, "u'": left, "v'": right}
        return finish(function, steps, answer, {name: (write(each),) for name, each in facts.items()})

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        parts = part_product(find_derivative(text))
        words = [find_word(each) for each in parts] if parts else [None]
        if None in words or any(kind == "polynomial" and len(rest) == 1 for kind, rest in map(read_word, words)):
            return None
        if words[1] == "ln" and any(read_word(words[0])[1][1:]):
            return None
        return tuple(words)


def over_x(word: str | int) -> Formula:
    """Return a x^n / x."""
    return polynomial(read_word(word)[1][:-1])


class DerivativeQuotient(Template):
    """u / v with the quotient rule, v a polynomial. Parameters: words of the two functions, see `elementary`."""

    name = "derivative_quotient"
    domain = "calculus"
    wordings = WORDINGS
    levels = (2, 3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a number or line over a line, then a square, then a function over them."""
        size = (5, 9, 9, 9)[level - 2]
        bottom = (draws.randint(1, size), draw_nonzero(draws, size))
        if level == 5:
            kind = draws.choice(("exp", "sin", "cos"))
            return f"{kind} {draws.randint(1, 5)}", word_polynomial(bottom)
        while True:
            top = draw_polynomial(draws, (1, 1, 2)[level - 2], size)
            if level == 3:
                bottom = (1, 0, draw_nonzero(draws, size))
            if top[0] * bottom[-1] != top[-1] * bottom[0]:
                return word_polynomial(top), word_polynomial(bottom)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        u, v = make(parameters[0]), make(parameters[1])
        function, left, right = Quotient(u, v), derive(u), derive(v)
        top = tidy(left * v - u * right)
        answer = Quotient(top, v**2)
        names = Named("u", u), Named("v", v), Named("u'", Derivative(u, "x")), Named("v'", Derivative(v, "x"))
        over = Sum((Product((names[2], names[1])), Product((Number(-1), names[0], names[3]))))
        steps = [
            f"Quotient rule with {equal(names[0], u)} and {equal(names[1], v)}",
            f"{equal(names[2], left)} and {equal(names[3], right)}",
            equal(over, Sum((Product((left, v)), multiply(Number(-1), right, u))), top),
            equal(Named("f'(x)", Derivative(function, "x")), Quotient(over, names[1] ** 2), answer),
        ]
        facts = {"u": u, "v": v, "u'": left, "v'": right}
        return finish(function, steps, answer, {name: (write(each),) for name, each in facts.items()})

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        function = find_derivative(text)
        if not isinstance(function, Quotient):
            return None
        words = find_word(function.top), find_word(function.bottom)
        if None in words or read_word(words[1])[0] != "polynomial" or len(read_word(words[1])[1]) < 2:
            return None
        return words


class DerivativeChain(Template):
    """g(u) with u a polynomial. Parameters: the outer function (`power 5`, `exp`, `ln`, ...), coefficients of u."""

    name = "derivative_chain"
    domain = "calculus"
    wordings = WORDINGS
    levels = (2, 3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a line inside a power at level 2, any function at 3, a square inside it at 4, a cubic at 5."""
        size = (5, 9, 9, 9)[level - 2]
        outer = "power" if level == 2 else draws.choice(("power", "exp", "sin", "cos", "ln", "sqrt"))
        if outer == "power":
            outer = f"power {draws.randint(2, (6, 6, 5, 5)[level - 2])}"
        first, *rest = draw_polynomial(draws, (1, 1, 2, 3)[level - 2], size)
        inner = (abs(first), *rest[:-1], draw_nonzero(draws, size))
        return (outer, *(map(abs, inner) if outer in ("ln", "sqrt") else inner))

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        kind, numbers = read_word(parameters[0])
        u = polynomial(parameters[1:])
        name, slope = Named("u", u), derive(u)
        derived = Named("u'", Derivative(u, "x"))
        if kind == "power":
            function, by_u = u ** numbers[0], numbers[0] * name ** (numbers[0] - 1)
            answer = _gather(numbers[0], slope, u ** (numbers[0] - 1))
        else:
            function, by_u = Function(kind, u), derive_function(kind, name)
            answer = _outside(kind, slope, u)
        rule = Product((*(by_u.factors if isinstance(by_u, Product) else (by_u,)), derived))
        steps = [
            f"Chain rule with {equal(name, u)}",
            equal(derived, slope),
            equal(Named("f'(x)", Derivative(function, "x")), rule, answer),
        ]
        return finish(function, steps, answer, {"u": (write(u),), "u'": (write(slope),)})

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        match find_derivative(text):
            case Power(base, Number(exponent)) if isinstance(exponent, int) and 2 <= exponent <= 12:
                outer, inner = f"power {exponent}", find_integers(base)
            case Function("exp" | "sin" | "cos" | "ln" | "sqrt" as outer, argument):
                inner = find_integers(argument)
            case _:
                return None
        return (outer, *inner) if inner and len(inner) > 1 and any(inner[1:]) else None


def _gather(number: int, slope: Formula, rest: Formula) -> Formula:
    """Multiply a number into the slope: 5 (6x - 4) (...)^4 is (30x - 20) (...)^4."""
    return multiply(polynomial(tuple(number * each for each in find_coefficients(slope))), rest)


def _outside(kind: str, slope: Formula, u: Formula) -> Formula:
    """Return g'(u) u' as one writes it."""
    if kind == "ln":
        return Quotient(slope, u)
    if kind == "sqrt":
        halves = polynomial(tuple(Fraction(each) / 2 for each in find_coefficients(slope)))
        is_whole = all(Fraction(each).denominator == 1 for each in find_coefficients(halves))
        root = Function("sqrt", u)
        return Quotient(halves, root) if is_whole else Quotient(slope, 2 * root)
    if kind == "cos":
        return multiply(polynomial(tuple(-each for each in find_coefficients(slope))), -derive_function(kind, u))
    return multiply(slope, derive_function(kind, u))
