"""Every kind of differential equation. What is read first stands first."""

from kdkit.maths.problems.differential_equations.first_order import OdeInitialValue, OdeLinear, OdeSeparable
from kdkit.maths.problems.differential_equations.forced import OdeForced
from kdkit.maths.problems.differential_equations.second_order import (
    OdeComplexRoots,
    OdeDoubleRoot,
    OdeRealRoots,
    OdeSecondInitial,
)
from kdkit.maths.problems.template import Template

TEMPLATES: tuple[type[Template], ...] = (
    OdeSeparable,
    OdeInitialValue,
    OdeLinear,
    OdeRealRoots,
    OdeDoubleRoot,
    OdeComplexRoots,
    OdeSecondInitial,
    OdeForced,
)
