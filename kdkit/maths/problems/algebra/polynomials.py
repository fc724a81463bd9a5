"""Polynomials: products, factors, remainders, identities, coefficients that are looked for."""

import random
import re

from kdkit.maths.latex import Exact, bracketed, factor, join, number, polynomial, polynomial_at, power, product, term
from kdkit.maths.problems.algebra.quadratic_equations import linear_factors, rational_roots
from kdkit.maths.problems.proofs import plus, proven, quotient, times, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import as_parameters, letters_of, read_coefficients, read_statement


def monomial(coefficient: Exact, degree: int) -> list[Exact]:
    """Return the coefficients of a monomial."""
    return [coefficient] + [0] * degree


def draw_nonzero(draws: random.Random, size: int) -> int:
    """Draw a whole number other than 0."""
    return draws.choice([n for n in range(-size, size + 1) if n])


def read_formula(text: str, words: str, needs: str) -> tuple[str, str] | None:
    """Read a statement with one formula without a relation, and its only letter."""
    statement = read_statement(text)
    if not statement.fits(words, needs) or len(statement.formulas) != 1:
        return None
    letters = letters_of(statement.formulas[0])
    return (statement.formulas[0], letters[0]) if len(letters) == 1 else None


FACTOR_PRODUCT = re.compile(r"(-?\d*[a-z]?|)\(([^()]*)\)(?:\*|\\cdot)?\(([^()]*)\)")


class ExpandProduct(Template):
    """`(a x + b)(c x + d)`, at higher levels of a quadratic and a linear polynomial. Parameters: the two numbers of
    coefficients, then these.
    """

    name = "expand_product"
    domain = "algebra"
    wordings = ("Expand $<<product>>$.", "Multiply out $<<product>>$.", "Write $<<product>>$ without brackets.")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 (x + b)(x + d); 2, 3 with leading numbers; 4 quadratic times linear; 5 two quadratics."""
        size = {1: 9, 2: 5, 3: 9, 4: 6, 5: 5}[level]
        widths = (2 if level < 4 else 3, 3 if level == 5 else 2)
        factors = [[draw_nonzero(draws, size) for _ in range(width)] for width in widths]
        for each in factors:
            each[0] = 1 if level == 1 else abs(each[0])
        if len(set(widths)) == 1:
            factors.sort()  # one order, so that what is held out is not trained on the other way round
        return *widths, *factors[0], *factors[1], "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Multiply each term with each, then collect."""
        first, second = list(parameters[2 : 2 + parameters[0]]), list(parameters[2 + parameters[0] : -1])
        variable = parameters[-1]
        result = times(first, second)
        partial = [
            (a * b, len(first) + len(second) - 2 - i - j)
            for i, a in enumerate(first)
            for j, b in enumerate(second)
            if a * b
        ]
        summed: list[Exact] = [0]
        for coefficient, degree in partial:
            summed = plus(summed, monomial(coefficient, degree))
        shown = f"({polynomial(first, variable)})({polynomial(second, variable)})"
        spread = join(term(coefficient, power(variable, degree) if degree else "") for coefficient, degree in partial)
        answer = polynomial(result, variable)
        is_product = all(value_at(first, x) * value_at(second, x) == value_at(summed, x) for x in range(-3, 4))
        steps = [
            proven(f"Multiply each term with each: ${shown} = {spread}$.", is_product),
            proven(f"Collect: ${spread} = {answer}$.", summed == result),
        ]
        return Solved({"product": shown}, tuple(steps), answer, check_against=shown)

    def read(self, text: str) -> Parameters | None:
        """Read a product of two polynomials with whole coefficients, of degree 1 or 2."""
        found = read_formula(text, "product brackets expression without", "expand multiply brackets simplify")
        form = found and FACTOR_PRODUCT.fullmatch(found[0].replace(" ", ""))
        if not form or form[1]:
            return None
        factors = [read_coefficients(form[i], found[1]) for i in (2, 3)]
        if None in factors or not all(len(each) in (2, 3) for each in factors):
            return None
        numbers = as_parameters([*factors[0], *factors[1]])
        is_whole = all(isinstance(each, int) for each in numbers)
        return (len(factors[0]), len(factors[1]), *numbers, found[1]) if is_whole else None


class ExpandPower(Template):
    """`(a x + b)^n` for n from 2 to 4."""

    name = "expand_power"
    domain = "algebra"
    wordings = ("Expand $<<power>>$.", "Multiply out $<<power>>$.", "Write $<<power>>$ without brackets.")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 (x + b)^2; 2 (a x + b)^2; 3 (x + b)^3; 4 (a x + b)^3; 5 the fourth power."""
        exponent = {1: 2, 2: 2, 3: 3, 4: 3, 5: 4}[level]
        size = {1: 15, 2: 9, 3: 9, 4: 5, 5: 4}[level]
        leading = draws.randint(2, size) if level in (2, 4) or (level == 5 and draws.random() < 0.5) else 1
        return leading, draw_nonzero(draws, size), exponent, "x"

    def solve(self, parameters: Parameters) -> Solved:
        """The binomial formula, or one factor after the other from the third power on."""
        a, b, exponent, variable = parameters
        linear = [a, b]
        base = f"({polynomial(linear, variable)})"
        if exponent == 2:
            spread = f"{power(_monomial(a, variable), 2)} {'-' if b < 0 else '+'} "
            spread += rf"2 \cdot {term(a, variable)} \cdot {abs(b)} + {abs(b)}^{{2}}"
            result = times(linear, linear)
            line = f"Use the binomial formula: ${base}^{{2}} = {spread} = {polynomial(result, variable)}$."
            steps = [proven(line, result == [a * a, 2 * a * b, b * b])]
        else:
            result, steps = times(linear, linear), []
            steps.append(
                proven(f"${base}^{{2}} = {polynomial(result, variable)}$.", result == [a * a, 2 * a * b, b * b])
            )
            for n in range(3, exponent + 1):
                before, result = result, times(result, linear)
                holds = all(value_at(result, x) == (a * x + b) ** n for x in range(-2, n))
                parts = f"({polynomial(before, variable)}){base}"
                steps.append(proven(f"${base}^{{{n}}} = {parts} = {polynomial(result, variable)}$.", holds))
        given = f"{base}^{{{exponent}}}"
        return Solved({"power": given}, tuple(steps), polynomial(result, variable), check_against=given)

    def read(self, text: str) -> Parameters | None:
        """Read a power of a linear polynomial with whole coefficients."""
        found = read_formula(text, "power brackets expression without", "expand multiply brackets simplify")
        form = found and re.fullmatch(r"\(([^()]*)\)\^\{([234])\}", found[0].replace(" ", ""))
        linear = form and read_coefficients(form[1], found[1])
        if not linear or len(linear) != 2:
            return None
        a, b = as_parameters(linear)
        is_such = isinstance(a, int) and isinstance(b, int) and a > 0 and b
        return (a, b, int(form[2]), found[1]) if is_such else None


def _monomial(coefficient: int, variable: str) -> str:
    """Write a monomial so that an exponent can follow."""
    return variable if coefficient == 1 else f"({term(coefficient, variable)})"


class FactorQuadratic(Template):
    """`a x^2 + b x + c` with rational zeros, into linear factors with whole numbers."""

    name = "factor_quadratic"
    domain = "algebra"
    wordings = ("Factor $<<quadratic>>$.", "Write $<<quadratic>>$ as a product of linear factors.")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 small, positive; 2 any sign; 3 larger; 4 a leading number; 5 larger, two leading numbers."""
        size = {1: 9, 2: 9, 3: 15, 4: 7, 5: 7}[level]
        first, last = ([1, draws.randint(1, size) if level == 1 else draw_nonzero(draws, size)] for _ in range(2))
        if level > 3:
            first[0] = draws.choice((2, 3, 5))
        if level > 4:
            last[0] = draws.choice((2, 3))
        return *times(first, last), "x"

    def solve(self, parameters: Parameters) -> Solved:
        """Split the middle term into two whose coefficients have the product a c."""
        *coefficients, variable = parameters
        a, b, c = coefficients
        roots = rational_roots(coefficients)
        answer, is_product = linear_factors(coefficients, roots, variable)
        # the two numbers with sum b and product a c
        first, last = sorted(quotient(-a * each, 1) for each in (roots[0], roots[-1]))
        quadratic = polynomial(coefficients, variable)
        sums = f"{number(first)} + {bracketed(number(last))} = {number(b)}"
        steps = [
            proven(
                f"${sums}$ and ${product([first, last])} = {number(a * c)}$.", first + last == b, first * last == a * c
            )
        ]
        spread = join([term(a, f"{variable}^{{2}}"), term(first, variable), term(last, variable), number(c)])
        between = "" if a == 1 or len(roots) == 1 else f" = {spread}"
        steps.append(proven(f"So ${quadratic}{between} = {answer}$.", is_product, first + last == b))
        return Solved({"quadratic": quadratic}, tuple(steps), answer, check_against=quadratic)

    def read(self, text: str) -> Parameters | None:
        """Read a quadratic with whole coefficients and rational zeros."""
        found = read_formula(
            text, "quadratic polynomial product linear expression into completely", "factor factorise factorize factors"
        )
        coefficients = found and "(" not in found[0] and read_coefficients(found[0], found[1])
        numbers = as_parameters(coefficients) if coefficients else []
        if len(numbers) != 3 or not all(isinstance(each, int) for each in numbers):
            return None
        a, b, c = numbers
        discriminant = b * b - 4 * a * c
        is_rational = a > 0 and discriminant >= 0 and value_at(numbers, rational_roots(numbers)[0]) == 0
        return (a, b, c, found[1]) if is_rational else None


class PolynomialRemainder(Template):
    """A polynomial divided by `x - r`. Parameters: r, then the coefficients."""

    name = "polynomial_remainder"
    domain = "algebra"
    wordings = (
        "Find the remainder when $<<polynomial>>$ is divided by $<<divisor>>$.",
        "What is the remainder of $<<polynomial>>$ divided by $<<divisor>>$?",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1, 2 quadratics; 3, 4 cubics; 5 fourth degree."""
        degree, size = {1: (2, 5), 2: (2, 9), 3: (3, 5), 4: (3, 9), 5: (4, 9)}[level]
        root = draw_nonzero(draws, 2 if level == 1 else 4)
        return root, 1 if level < 4 else draws.randint(1, 5), *(draws.randint(-size, size) for _ in range(degree)), "x"

    def solve(self, parameters: Parameters) -> Solved:
        """By the remainder theorem it is the polynomial's value at r."""
        r, *coefficients, variable = parameters
        degree = len(coefficients) - 1
        value = value_at(coefficients, r)
        put = polynomial_at(coefficients, r)
        terms = [coefficient * r ** (degree - i) for i, coefficient in enumerate(coefficients)]
        summed = join(number(each) for each in terms)
        quotients: list[Exact] = []
        for coefficient in coefficients:
            quotients.append(coefficient + (quotients[-1] * r if quotients else 0))
        remainder = quotients.pop()
        is_division = plus(times(quotients, [1, -r]), [remainder]) == coefficients
        steps = [
            proven(f"By the remainder theorem it is the value at ${r}$.", is_division, remainder == value),
            proven(f"${put} = {summed} = {value}$.", sum(terms) == value),
        ]
        words = {"polynomial": polynomial(coefficients, variable), "divisor": factor(r, variable)[1:-1]}
        return Solved(words, tuple(steps), number(value))

    def read(self, text: str) -> Parameters | None:
        """Read such a division with whole numbers."""
        statement = read_statement(text)
        if not statement.fits("when divided division polynomial", "remainder") or len(statement.formulas) != 2:
            return None
        letters = letters_of(" ".join(statement.formulas))
        if len(letters) != 1:
            return None
        over, under = (read_coefficients(formula, letters[0]) for formula in statement.formulas)
        if not over or not under or len(under) != 2 or under[0] != 1 or not under[1] or len(over) < 3 or len(over) > 7:
            return None
        numbers = as_parameters([-under[1], *over])
        return (*numbers, letters[0]) if all(isinstance(each, int) for each in numbers) else None


TEMPLATES = (ExpandPower, ExpandProduct, FactorQuadratic, PolynomialRemainder)
