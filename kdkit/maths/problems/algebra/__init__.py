"""Algebra: equations, systems, inequalities, polynomials, proofs by induction."""
