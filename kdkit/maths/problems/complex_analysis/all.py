"""Every kind of problem of complex analysis. What is read first stands first."""

from kdkit.maths.problems.complex_analysis.harmonic import CauchyRiemann, HarmonicConjugate
from kdkit.maths.problems.complex_analysis.numbers import ComplexModulus, ComplexProduct, ComplexQuotient
from kdkit.maths.problems.complex_analysis.polar import ComplexArgument, ComplexPolar, ComplexPower
from kdkit.maths.problems.complex_analysis.residues import (
    ContourIntegral,
    ResidueDouble,
    ResidueExponential,
    ResidueSimple,
)
from kdkit.maths.problems.complex_analysis.roots import ComplexQuadratic, ComplexRoots, ComplexSquareRoots
from kdkit.maths.problems.template import Template

TEMPLATES: tuple[type[Template], ...] = (
    ComplexProduct,
    ComplexQuotient,
    ComplexModulus,
    ComplexArgument,
    ComplexPolar,
    ComplexPower,
    ComplexSquareRoots,
    ComplexRoots,
    ComplexQuadratic,
    CauchyRiemann,
    HarmonicConjugate,
    ResidueSimple,
    ResidueDouble,
    ResidueExponential,
    ContourIntegral,
)
