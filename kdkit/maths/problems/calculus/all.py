"""Every kind of problem of calculus. What is read first stands first: a product of lines is no plain polynomial."""

from kdkit.maths.problems.calculus.definite import DefiniteFunction, DefinitePolynomial
from kdkit.maths.problems.calculus.derivatives import DerivativeFunctions, DerivativePolynomial
from kdkit.maths.problems.calculus.integrals import IntegralFunctions, IntegralParts, IntegralPolynomial
from kdkit.maths.problems.calculus.limits import LimitFactor, LimitHopital, LimitInfinity, LimitSubstitution
from kdkit.maths.problems.calculus.rules import DerivativeChain, DerivativeProduct, DerivativeQuotient
from kdkit.maths.problems.calculus.series import TaylorPolynomial
from kdkit.maths.problems.calculus.substitution import IntegralSubstitution
from kdkit.maths.problems.template import Template

TEMPLATES: tuple[type[Template], ...] = (
    DerivativeProduct,
    DerivativeQuotient,
    DerivativeChain,
    DerivativeFunctions,
    DerivativePolynomial,
    IntegralFunctions,
    IntegralParts,
    IntegralSubstitution,
    IntegralPolynomial,
    DefinitePolynomial,
    DefiniteFunction,
    LimitSubstitution,
    LimitFactor,
    LimitInfinity,
    LimitHopital,
    TaylorPolynomial,
)
