"""Rules of differentiation and small rewritings. What they say is proven elsewhere, by numbers."""

from fractions import Fraction

from kdkit.maths.formulas.tree import (
    Formula,
    Function,
    Name,
    Number,
    Power,
    Product,
    Quotient,
    Sum,
    add,
    cos,
    exp,
    multiply,
    sin,
)


def derive(formula: Formula, name: str = "x") -> Formula:
    """Differentiate by the rules; whatever has no rule here is refused with a TypeError."""
    match formula:
        case Number():
            return Number(0)
        case Name(letter):
            return Number(1 if letter == name else 0)
        case Sum(terms):
            return add(*(derive(term, name) for term in terms))
        case Product(factors):
            return add(*(_with_one_derived(factors, k, name) for k in range(len(factors))))
        case Quotient(top, bottom):
            return (derive(top, name) * bottom - top * derive(bottom, name)) / bottom**2
        case Power(base, Number(exponent)):
            return exponent * base ** (exponent - 1) * derive(base, name)
        case Function(function, argument):
            return derive(argument, name) * derive_function(function, argument)
    raise TypeError(f"no rule for a {type(formula).__name__}")


def derive_function(name: str, argument: Formula) -> Formula:
    """Return a function's derivative by its argument."""
    match name:
        case "exp":
            return exp(argument)
        case "sin":
            return cos(argument)
        case "cos":
            return -sin(argument)
        case "ln" | "ln_abs":
            return 1 / argument
        case "sqrt":
            return 1 / (2 * Function("sqrt", argument))
    raise TypeError(f"no rule for {name}")


def _with_one_derived(factors: tuple[Formula, ...], k: int, name: str) -> Formula:
    if isinstance(factors[k], Number):
        return Number(0)
    return multiply(*factors[:k], derive(factors[k], name), *factors[k + 1 :])


def times(left: tuple[int | Fraction, ...], right: tuple[int | Fraction, ...]) -> tuple[int | Fraction, ...]:
    """Multiply two polynomials, given by their coefficients from the highest power down."""
    product = [0] * (len(left) + len(right) - 1)
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            product[i + j] += a * b
    return tuple(product)
