"""Proofs by induction: sums of powers and geometric sums."""

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

from kdkit.maths.latex import Exact, fraction, join, number, polynomial, power, term
from kdkit.maths.problems.algebra.polynomials import draw_nonzero
from kdkit.maths.problems.proofs import plus, proven, quotient, shifted, value_at
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import as_parameters, read_coefficients, read_statement

SUM_WORDS = "sum formula closed form prove show proof induction mathematical natural positive integer integers whole it"
POWER_SUMS: tuple[list[Exact], ...] = (
    [1, 0],
    [Fraction(1, 2), Fraction(1, 2), 0],
    [Fraction(1, 3), Fraction(1, 2), Fraction(1, 6), 0],
    [Fraction(1, 4), Fraction(1, 2), Fraction(1, 4), 0, 0],
)
"""The sum of k^p over k from 1 to n as a polynomial in n."""
POWER_SUM_NAMES = ("n", r"\frac{n(n + 1)}{2}", r"\frac{n(n + 1)(2n + 1)}{6}", r"\frac{n^{2}(n + 1)^{2}}{4}")
EVERY = "So it holds for every $n$."


def write_over(coefficients: Sequence[Exact], variable: str = "n") -> str:
    r"""Write a polynomial with fractions over one denominator: `\frac{3n^{2} + 5n}{2}`."""
    under = lcm(*(Fraction(each).denominator for each in coefficients))
    return fraction(polynomial([quotient(each * under, 1) for each in coefficients], variable), number(under))


def write_factored(coefficients: Sequence[Exact], variable: str = "n") -> str:
    r"""Write a polynomial over one denominator with what linear factors it has: `\frac{n(n + 1)(2n + 1)}{6}`."""
    under = lcm(*(Fraction(each).denominator for each in coefficients))
    rest = [int(each * under) for each in coefficients]
    content = gcd(*rest)
    rest = [each // content for each in rest]
    factors = []
    for over, below in ((0, 1), (-1, 1), (-1, 2), (1, 2), (-2, 1), (1, 1), (-3, 2)):
        while len(rest) > 1 and value_at(rest, Fraction(over, below)) == 0:
            rest = _divide(rest, [below, -over])
            factors.append(variable if over == 0 else f"({polynomial([below, -over], variable)})")
    texts = [power(each, factors.count(each)) for each in dict.fromkeys(factors)]
    if len(rest) > 1:
        texts.append(f"({polynomial(rest, variable)})")
        rest = [1]
    if len(texts) == 1 and not texts[0].endswith("}") and content * rest[0] == 1:
        texts[0] = texts[0].removeprefix("(").removesuffix(")")
    return fraction(term(content * rest[0], "".join(texts)), number(under))


def _divide(over: Sequence[int], linear: Sequence[int]) -> list[int]:
    """Divide a polynomial by a linear factor that it has."""
    result: list[int] = []
    carried = 0
    for coefficient in over[:-1]:
        result.append((coefficient - carried) // linear[0])
        carried = result[-1] * linear[1]
    return result


def follow(text: str) -> str:
    """Write a sum's next terms: ` - 3x`, ` + 3x`."""
    return f" - {text[1:]}" if text.startswith("-") else f" + {text}"


class InductionSum(Template):
    r"""`\sum_{k=1}^{n} p(k)` for a polynomial p. Parameters: its coefficients."""

    name = "induction_sum"
    domain = "algebra"
    wordings = (
        "Find a formula for $S_{n} = \\sum_{k=1}^{n} <<term>>$ and prove it by induction.",
        "Find a closed form of $S_{n} = \\sum_{k=1}^{n} <<term>>$ and prove it by induction.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1, 2 linear terms, small and larger; 3 multiples of k^2 and a number; 4 quadratics; 5 cubes."""
        size = {1: 6, 2: 20, 3: 9, 4: 6, 5: 5}[level]
        first, last = draws.randint(1, size), draws.randint(-size, size)
        if level < 3:
            return first, last
        if level == 3:
            return first, 0, last
        return (first, draw_nonzero(draws, size), last) if level == 4 else (first, 0, draws.randint(-size, size), last)

    def solve(self, parameters: Parameters) -> Solved:
        """Add the known sums of powers; then start at 1, and go from n to n + 1."""
        degree = len(parameters) - 1
        total: list[Exact] = [0]
        parts = []
        for i, coefficient in enumerate(parameters):
            if coefficient:
                total = plus(total, [coefficient * each for each in POWER_SUMS[degree - i]])
                name = POWER_SUM_NAMES[degree - i]
                dot = r" \cdot " if name.startswith("\\") and abs(coefficient) != 1 else ""
                parts.append(f"{number(coefficient)}{dot}{name}" if dot else term(coefficient, name))
        answer = write_factored(total)
        following = shifted(parameters)
        both = plus(total, following)
        first = value_at(parameters, 1)
        # what is added from n to n + 1 is the next term, and the empty sum is 0
        is_formula = value_at(total, 0) == 0 and shifted(total) == both
        same = "" if answer == join(parts) else f" = {answer}"
        next_term = polynomial(parameters, "(n + 1)")
        step = f"${write_over(total)}{follow(next_term)} = {write_over(both)}$"
        steps = [
            proven(f"The sums of powers give $S_{{n}} = {join(parts)}{same}$.", is_formula),
            proven(f"Start at $1$: $S_{{1}} = {number(first)}$, as the formula says.", value_at(total, 1) == first),
            proven(f"From $n$ to $n + 1$: {step}.", value_at(both, 1) == value_at(total, 1) + value_at(parameters, 2)),
            proven(f"This is the formula at $n + 1$. {EVERY}", shifted(total) == both),
        ]
        shown = polynomial(parameters, "k")
        words = {"term": f"({shown})" if " " in shown else shown}
        facts = {"S_{n}": (answer,), "S_{1}": (number(first),)}
        return Solved(words, tuple(steps), answer, facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read a sum over a polynomial in k from 1 to n."""
        statement = read_statement(text)
        sums = [formula for formula in statement.formulas if r"\sum" in formula]
        form = len(sums) == 1 and re.search(r"\\sum_\{k\s*=\s*1\}\^\{n\}(.*)", sums[0])
        if not form or not statement.fits(SUM_WORDS, "formula closed induction"):
            return None
        coefficients = read_coefficients(form[1].split("=")[0], "k")
        numbers = as_parameters(coefficients) if coefficients else []
        is_whole = all(isinstance(each, int) for each in numbers) and 1 <= len(numbers) <= len(POWER_SUMS)
        return tuple(numbers) if is_whole and numbers[0] > 0 else None


class InductionGeometricSum(Template):
    r"""`\sum_{k=0}^{n} a r^k`. Parameters: a and r."""

    name = "induction_geometric_sum"
    domain = "algebra"
    levels = (2, 3, 4)
    wordings = (
        "Find a formula for $S_{n} = \\sum_{k=0}^{n} <<term>>$ and prove it by induction.",
        "Find a closed form of $S_{n} = \\sum_{k=0}^{n} <<term>>$ and prove it by induction.",
    )

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 2 to 4, ever larger numbers."""
        size = {2: 5, 3: 9, 4: 15}[level]
        return draw_nonzero(draws, size), draws.randint(2, size)

    def solve(self, parameters: Parameters) -> Solved:
        """State the formula; start at 0, and go from n to n + 1."""
        a, r = parameters
        scale = quotient(a, r - 1)
        answer = _scaled(scale, f"({r}^{{n + 1}} - 1)")
        following = _scaled(scale, f"({r}^{{n + 2}} - 1)")
        last = term(a, f"{r}^{{n + 1}}")
        starts = scale * (r - 1) == a
        # in units of r^n both sides of the step are scale r + a r and scale r^2, less the same number
        goes_on = scale * r + a * r == scale * r * r
        steps = [
            proven(f"Claim: $S_{{n}} = {answer}$.", starts, goes_on),
            proven(f"Start at $0$: ${_scaled(scale, f'({r} - 1)')} = {a}$, the first term.", starts),
            proven(f"From $n$ to $n + 1$: ${answer}{follow(last)} = {following}$.", goes_on),
            proven(EVERY, starts, goes_on),
        ]
        words = {"term": f"({term(a, f'{r}^{{k}}')})" if a < 0 else term(a, f"{r}^{{k}}")}
        return Solved(words, tuple(steps), answer, facts={"S_{n}": (answer,)})

    def read(self, text: str) -> Parameters | None:
        """Read such a sum."""
        statement = read_statement(text)
        sums = [re.sub(r"[ ()]", "", formula) for formula in statement.formulas if r"\sum" in formula]
        pattern = r"(?:S_\{n\}=)?\\sum_\{k=0\}\^\{n\}(?:(-|-?\d+)(?:\\cdot|\*)?)??(\d+)\^\{k\}(?:=.*)?"
        form = len(sums) == 1 and re.fullmatch(pattern, sums[0])
        if not form or not statement.fits(SUM_WORDS, "formula closed induction"):
            return None
        a = int({"": "1", "-": "-1"}.get(form[1] or "", form[1] or "1"))
        return (a, int(form[2])) if 2 <= int(form[2]) <= 1000 and 0 < abs(a) <= 1000 else None


def _scaled(scale: Exact, bracket: str) -> str:
    r"""Write a number times a bracket: `3(...)`, `\frac{3(...)}{2}`."""
    scale = Fraction(scale)
    if scale.denominator == 1:
        return term(scale, bracket) if abs(scale) != 1 or scale < 0 else bracket[1:-1]
    shown = term(scale.numerator, bracket)
    return fraction(shown[1:-1] if shown == bracket else shown, number(scale.denominator))


TEMPLATES = (InductionSum, InductionGeometricSum)
