"""Every kind of problem of calculus."""

from kdkit.maths.problems.calculus.derivatives import DerivativePolynomial
from kdkit.maths.problems.template import Template

TEMPLATES: tuple[type[Template], ...] = (DerivativePolynomial,)
