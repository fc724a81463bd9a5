"""Generators of problems in six domains: statement, steps and answer, each proven before it is given away."""
