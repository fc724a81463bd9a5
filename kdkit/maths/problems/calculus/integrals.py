r"""Indefinite integrals, with $+ C$. A step $\int u dx = v + C$ is proven by the slope of v."""

import random
from fractions import Fraction

from kdkit.maths.formulas.measured import Derivative
from kdkit.maths.formulas.reading import find_coefficients, find_integers
from kdkit.maths.formulas.tree import Formula, Function, Name, Named, Number, Product, Quotient, Sum, add, polynomial
from kdkit.maths.formulas.writing import write, write_integrand
from kdkit.maths.problems.calculus.derivatives import find_multiple
from kdkit.maths.problems.calculus.elementary import X, draw_nonzero, one_order
from kdkit.maths.problems.relations import prove_equal
from kdkit.maths.problems.statements import find_integral
from kdkit.maths.problems.template import Parameters, Solved, Template

C = Name("C")
WORDINGS = (
    r"Find $\int <<integrand>> \, dx$.",
    r"Compute the indefinite integral $\int <<integrand>> \, dx$.",
    "Find the antiderivative of $f(x) = <<function>>$.",
    "Integrate $<<function>>$ with respect to $x$.",
)


def write_integral(formula: Formula, name: str = "x") -> str:
    """Write an indefinite integral."""
    return rf"\int {write_integrand(formula)} \, d{name}"


def integrated(integrand: Formula, *members: Formula) -> str:
    r"""Write $\int u dx = v + C = w + C$, proven: the slope of v is u, and w is v."""
    for member in members:
        prove_equal(Derivative(member, "x"), integrand)
    texts = list(dict.fromkeys(write(member + C) for member in members))
    return f"${' = '.join([write_integral(integrand), *texts])}$"


def finish(integrand: Formula, steps: list[str], answer: Formula, facts: dict[str, tuple[str, ...]]) -> Solved:
    """Return the solution of an indefinite integral whose steps are written."""
    text = write(answer + C)
    words = {"integrand": write_integrand(integrand), "function": write(integrand)}
    facts = {"f(x)": (write(integrand),), write_integral(integrand): (text,), **facts}
    return Solved(words, tuple(steps), text, "antiderivative", write(integrand), facts)


def integrate_power(coefficient: int, exponent: int) -> Formula:
    """Power rule: the antiderivative of a x^n is a/(n+1) x^(n+1)."""
    return Fraction(coefficient, exponent + 1) * X ** (exponent + 1)


def integrate_function(factor: int, kind: str, k: int) -> Formula:
    """Return the antiderivative of a e^(kx), a sin(kx), a cos(kx) or a/x."""
    match kind:
        case "exp":
            return Fraction(factor, k) * Function("exp", k * X)
        case "sin":
            return Fraction(-factor, k) * Function("cos", k * X)
        case "cos":
            return Fraction(factor, k) * Function("sin", k * X)
    return factor * Function("ln_abs", X)


class IntegralPolynomial(Template):
    """Term by term with the power rule. Parameters: coefficients, the highest power's first."""

    name = "integral_polynomial"
    domain = "calculus"
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw one term at level 1, degrees 1 to 5; the antiderivative has whole coefficients up to level 3."""
        degree = draws.randint(*((0, 5), (1, 2), (2, 3), (2, 3), (3, 5))[level - 1])
        size = (20, 5, 5, 9, 12)[level - 1]
        spread = [1] * (degree + 1) if level > 3 else range(degree + 1, 0, -1)
        first, *rest = [draws.randint(-size, size) * each for each in spread]
        first = first or spread[0]
        return (first, *([0] * degree if level == 1 else rest))

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        degree, parts, steps, facts = len(parameters) - 1, [], [], {}
        for k, coefficient in enumerate(parameters):
            if coefficient == 0:
                continue
            exponent = degree - k
            term, result = coefficient * X**exponent, integrate_power(coefficient, exponent)
            raw = Product((Quotient(Number(coefficient), Number(exponent + 1)), X ** (exponent + 1)))
            between = [raw] if exponent and abs(coefficient) > 1 else []
            steps.append(integrated(term, *between, result))
            facts[write_integral(term)] = (write(result + C),)
            parts.append(result)
        integrand, answer = polynomial(parameters), add(*parts)
        if len(parts) > 1:
            steps.append("Together " + integrated(integrand, answer))
        return finish(integrand, steps, answer, facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integral(text)
        coefficients = find_integers(found[0]) if found and found[1] is None else None
        return coefficients if coefficients and len(coefficients) <= 12 and any(coefficients) else None


class IntegralFunctions(Template):
    """A sum of a sin(kx), a cos(kx), a e^(kx), a/x. Parameters: for each term a, the function, k (of a/x: 1)."""

    name = "integral_functions"
    domain = "calculus"
    wordings = WORDINGS

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw one term at level 1, two at 2 and 3, three at 4 and 5; k divides a up to level 3."""
        kinds = draws.sample(("exp", "sin", "cos", "reciprocal"), (1, 2, 2, 3, 3)[level - 1])
        size, inner = (15, 5, 9, 9, 15)[level - 1], (4, 3, 5, 5, 9)[level - 1]
        terms = []
        for kind in kinds:
            k = 1 if kind == "reciprocal" else draws.randint(1, inner)
            terms.append((draw_nonzero(draws, size) * (k if level <= 3 else 1), kind, k))
        return tuple(each for term in one_order(terms) for each in term)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        groups = list(zip(parameters[::3], parameters[1::3], parameters[2::3], strict=True))
        terms = [_make_term(*group) for group in groups]
        parts = [integrate_function(*group) for group in groups]
        pairs = list(zip(terms, parts, strict=True))
        steps = [integrated(term, part) for term, part in pairs]
        facts = {write_integral(term): (write(part + C),) for term, part in pairs}
        integrand, answer = add(*terms), add(*parts)
        if len(parts) > 1:
            steps.append("Together " + integrated(integrand, answer))
        return finish(integrand, steps, answer, facts)

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integral(text)
        if not found or found[1] is not None:
            return None
        terms = found[0].terms if isinstance(found[0], Sum) else (found[0],)
        groups = [find_term(term) for term in terms]
        return tuple(each for group in groups for each in group) if all(groups) else None


def _make_term(factor: int, kind: str, k: int) -> Formula:
    if kind == "reciprocal":
        return Quotient(Number(factor), X)
    return factor * Function(kind, k * X)


def find_term(term: Formula) -> tuple[int, str, int] | None:
    """Return (a, function, k) of a term; None: it is none of `IntegralFunctions`."""
    if isinstance(term, Quotient) and term.bottom == X:
        top = find_coefficients(term.top)
        return (top[0], "reciprocal", 1) if top and len(top) == 1 and isinstance(top[0], int) and top[0] else None
    found = find_multiple(term)
    return found if found and found[1] != "ln" and found[2] > 0 else None


class IntegralParts(Template):
    """(ax + b) times e^(kx), sin(kx), cos(kx), by parts. Parameters: the function, k, a, b."""

    name = "integral_parts"
    domain = "calculus"
    wordings = WORDINGS
    levels = (3, 4, 5)

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Draw a x at level 3, ax + b from 4 on; larger numbers at 5."""
        kind = draws.choice(("exp", "sin", "cos"))
        size, inner = (9, 5, 9)[level - 3], (3, 3, 6)[level - 3]
        k = draw_nonzero(draws, inner) if kind == "exp" else draws.randint(1, inner)
        return kind, k, draw_nonzero(draws, size), 0 if level == 3 else draw_nonzero(draws, size)

    def solve(self, parameters: Parameters) -> Solved:
        """See Template."""
        kind, k, *line = parameters
        u, dv = polynomial(tuple(line)), Function(kind, k * X)
        du, v = Number(line[0]), integrate_function(1, kind, k)
        again = _integrate_again(line[0], kind, k)
        integrand = u * dv
        names = Named("u", u), Named("v'", dv), Named("u'", Derivative(u, "x")), Named("v", v)
        product = Product((names[0], names[3]))
        answer = add(u * v, -again)
        for name, value in ((names[2], du), (names[1], Derivative(v, "x"))):
            prove_equal(name, value)
        text = write_integral(integrand)
        inner = r"\int u'v \, dx"
        prove_equal(Derivative(again, "x"), Product((names[2], names[3])))
        prove_equal(Derivative(answer, "x"), integrand)
        prove_equal(add(product, -again), answer)
        steps = [
            f"Parts with $u = {write(u)}$ and $v' = {write(dv)}$",
            f"$u' = {write(du)}$ and $v = {write(v)}$",
            f"${inner} = {write(again + C)}$",
            f"${text} = {write(add(product, -again, C))} = {write(answer + C)}$",
        ]
        facts = {"u": u, "v": v, "u'": du, "v'": dv, inner: again + C}
        return finish(integrand, steps, answer, {name: (write(each),) for name, each in facts.items()})

    def read(self, text: str) -> Parameters | None:
        """See Template."""
        found = find_integral(text)
        if not found or found[1] is not None or not isinstance(found[0], Product):
            return None
        *plain, last = found[0].factors
        if not isinstance(last, Function):
            return None
        line = find_integers(Product(tuple(plain))) if plain else None
        inner = find_integers(last.argument)
        if (
            not line
            or len(line) != 2
            or not inner
            or len(inner) != 2
            or inner[1]
            or last.name not in ("exp", "sin", "cos")
        ):
            return None
        return last.name, inner[0], *line


def _integrate_again(slope: int, kind: str, k: int) -> Formula:
    """Return the antiderivative of u' v."""
    if kind == "exp":
        return Fraction(slope, k * k) * Function("exp", k * X)
    return Fraction(-slope, k * k) * Function(kind, k * X)
