"""Every kind of problem of calculus. What is read first stands first: a product of lines is no plain polynomial."""

from kdkit.maths.problems.calculus.derivatives import DerivativeFunctions, DerivativePolynomial
from kdkit.maths.problems.calculus.rules import DerivativeChain, DerivativeProduct, DerivativeQuotient
from kdkit.maths.problems.template import Template

TEMPLATES: tuple[type[Template], ...] = (
    DerivativeProduct,
    DerivativeQuotient,
    DerivativeChain,
    DerivativeFunctions,
    DerivativePolynomial,
)
