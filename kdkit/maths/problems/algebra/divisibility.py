"""Proofs by induction that a number divides an expression for every n, and counterexamples."""

import random
import re

from kdkit.maths.latex import bracketed, join, number, polynomial, polynomial_at, term
from kdkit.maths.problems.algebra.induction import follow
from kdkit.maths.problems.proofs import plus, proven, quotient, shifted, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import as_parameters, read_coefficients, read_statement

WORDS = "prove show proof induction mathematical natural positive integer integers whole always refute yes no it or"
YES, NO = r"\text{yes}", r"\text{no}"
MAX_DIVISOR = 1000
QUESTION = (
    r"Is $<<expression>>$ divisible by $<<divisor>>$ for every $n \geq <<start>>$? Prove it by induction or refute it."
    " Answer yes or no.",
    r"Prove by induction or refute: $<<divisor>>$ divides $<<expression>>$ for every $n \geq <<start>>$."
    " Answer yes or no.",
)


def refute(words: dict[str, str], at: int, put: str, value: int, d: int) -> Solved:
    """Write the counterexample."""
    share, rest = divmod(value, d)
    shown = put if put == str(value) else f"{put} = {value}"
    line = rf"Put ${at}$ for $n$: ${shown} = {d} \cdot {bracketed(number(share))} + {rest}$."
    steps = proven(line, value == d * share + rest), proven(f"So ${d}$ does not divide it.", 0 < rest < d)
    return Solved(words, steps, NO, "statement")


def multiple(value: int, d: int) -> str:
    r"""Write a number as a multiple: `12 = 4 \cdot 3`."""
    return rf"{value} = {d} \cdot {bracketed(number(value // d))}"


def read_claim(text: str) -> tuple[int, str] | None:
    """Read a divisor and what it is said to divide, from a claim with `is divisible by` or `divides`."""
    statement = read_statement(text)
    if not statement.fits(WORDS, "divisible divides multiple"):
        return None
    formulas = [each for each in statement.formulas if each != "n" and not re.search(r"\\geq|>|\\in", each)]
    divisors = [int(each) for each in formulas if each.isdigit() and len(each) < 6]
    others = [each for each in formulas if not each.isdigit()]
    is_such = len(divisors) == len(others) == 1 and 1 < divisors[0] < MAX_DIVISOR
    return (divisors[0], others[0]) if is_such else None


class InductionDivisibility(Template):
    """Does d divide `a^n + k n + c` for every n from 1 on? Parameters: d, a, k, c."""

    name = "induction_divisibility"
    domain = "algebra"
    wordings = QUESTION

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Half of them are true. Levels: 1 a^n - 1; 2, 3 a^n + c; 4, 5 a^n + k n + c."""
        size = {1: 15, 2: 12, 3: 25, 4: 9, 5: 16}[level]
        is_true = draws.random() < 0.5
        while True:
            a = draws.randint(3, size)
            square = (a - 1) ** (1 if level < 4 else 2)
            d = draws.choice([n for n in range(2, 40) if square % n == 0 or not is_true])
            k = draws.randint(1, 2 * d) if level > 3 else 0
            c = -1 if level == 1 else draws.choice([n for n in range(-2 * d, 2 * d + 1) if n])
            if _proof_works(d, a, k, c) if is_true else _counterexample(d, a, k, c):
                return d, a, k, c

    def solve(self, parameters: Parameters) -> Solved:
        """From n to n + 1: a times the expression, and a rest that d divides; or a counterexample."""
        d, a, k, c = parameters
        shown = join([f"{a}^{{n}}", term(k, "n"), number(c)])
        words = {"expression": shown, "divisor": number(d), "start": "1"}
        at = _counterexample(d, a, k, c)
        if at:
            put = join([f"{a}^{{{at}}}", rf"{k} \cdot {at}" if k else "0", number(c)])
            return refute(words, at, put, a**at + k * at + c, d)
        first = a + k + c
        rest = [(1 - a) * k, k + c - a * c]
        shares = [quotient(each, d) for each in rest]
        following = join([f"{a}^{{n + 1}}", term(k, "(n + 1)"), number(c)])
        rest_shown, share_shown = polynomial(rest, "n"), polynomial(shares, "n")
        over = f"{a}({shown}){follow(rest_shown) if any(rest) else ''}"
        put = join([f"{a}^{{1}}", number(k), number(c)])
        # a (a^n + k n + c) has the same a^(n+1); what is beside it is compared as polynomials in n
        is_step = plus([a * k, a * c], rest) == [k, k + c]
        steps = [
            proven(f"Start at $1$: ${put} = {multiple(first, d)}$.", first % d == 0),
            proven(f"From $n$ to $n + 1$: ${following} = {over}$.", is_step),
        ]
        if any(rest):
            divides = [d * each for each in shares] == rest and all(isinstance(each, int) for each in shares)
            steps.append(proven(rf"${rest_shown} = {d} \cdot {bracketed(share_shown)}$.", divides))
        steps.append(proven(f"So ${d}$ divides the next one too, and all of them.", _proof_works(d, a, k, c)))
        return Solved(words, tuple(steps), YES, "statement")

    def read(self, text: str) -> Parameters | None:
        """Read such a claim."""
        claim = read_claim(text)
        form = claim and re.fullmatch(r"(\d{1,3})\^\{n\}(.*)", claim[1].replace(" ", ""))
        others = form and read_coefficients(form[2] or "0", "n")
        numbers = as_parameters(others) if others else []
        if not 1 <= len(numbers) <= 2 or not all(isinstance(each, int) for each in numbers) or int(form[1]) < 2:
            return None
        k, c = [0, *numbers][-2:]
        parameters = claim[0], int(form[1]), k, c
        return parameters if k >= 0 and (_proof_works(*parameters) or _counterexample(*parameters)) else None


def _proof_works(d: int, a: int, k: int, c: int) -> bool:
    """Return whether d divides the first value, and what is added to a times a value."""
    return (a + k + c) % d == ((1 - a) * k) % d == (k + c - a * c) % d == 0


def _counterexample(d: int, a: int, k: int, c: int) -> int | None:
    """Return the first n up to 4 that refutes it."""
    return next((n for n in range(1, 5) if (a**n + k * n + c) % d), None)


class InductionPolynomialDivisibility(Template):
    """Does d divide a polynomial in n for every n from 0 on? Parameters: d and the coefficients."""

    name = "induction_polynomial_divisibility"
    domain = "algebra"
    levels = (2, 3, 4, 5)
    wordings = QUESTION

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Half of them are true. Levels: 2 by 2; 3, 4 by 3; 5 by 5; each a multiple of n^d - n, and multiples of d."""
        d = {2: 2, 3: 3, 4: 3, 5: 5}[level]
        size = {2: 6, 3: 4, 4: 12, 5: 6}[level]
        while True:
            scale = draws.randint(1, size)
            added = [d * draws.randint(-size, size), d * draws.randint(-2, 2)]
            coefficients = plus([scale, *[0] * (d - 2), -scale, 0], added)
            if draws.random() < 0.5:
                return d, *coefficients
            coefficients[draws.choice((-1, -2))] += draws.randint(1, d - 1)
            if any(value_at(coefficients, n) % d for n in range(d)):
                return d, *coefficients

    def solve(self, parameters: Parameters) -> Solved:
        """The difference of neighbours is a multiple of d; or a counterexample."""
        d, *coefficients = parameters
        shown = polynomial(coefficients, "n")
        words = {"expression": shown, "divisor": number(d), "start": "0"}
        at = next((n for n in range(d) if value_at(coefficients, n) % d), None)
        if at is not None:
            return refute(words, at, polynomial_at(coefficients, at), value_at(coefficients, at), d)
        following = shifted(coefficients)
        difference = [one - other for one, other in zip(following, coefficients, strict=True)][1:]
        share = [quotient(each, d) for each in difference]
        start = coefficients[-1]
        is_whole = all(isinstance(each, int) for each in share)
        shown_difference = polynomial(difference, "n")
        step = f"{polynomial(coefficients, '(n + 1)')} - ({shown}) = {shown_difference}"
        steps = [
            proven(f"Start at $0$: ${multiple(start, d)}$.", start % d == 0),
            proven(f"From $n$ to $n + 1$: ${step}$.", plus(coefficients, difference) == following),
            proven(f"${shown_difference} = {d}({polynomial(share, 'n')})$.", is_whole),
            proven(f"So ${d}$ divides the next one too, and all of them.", is_whole, start % d == 0),
        ]
        return Solved(words, tuple(steps), YES, "statement")

    def read(self, text: str) -> Parameters | None:
        """Read such a claim."""
        claim = read_claim(text)
        coefficients = claim and read_coefficients(claim[1], "n")
        numbers = as_parameters(coefficients) if coefficients else []
        if not 2 <= len(numbers) <= 6 or not all(isinstance(each, int) for each in numbers):
            return None
        d = claim[0]
        difference = [one - other for one, other in zip(shifted(numbers), numbers, strict=True)]
        is_proof = all(each % d == 0 for each in (*difference, numbers[-1]))
        return (d, *numbers) if is_proof or any(value_at(numbers, n) % d for n in range(d)) else None


TEMPLATES = (InductionDivisibility, InductionPolynomialDivisibility)
