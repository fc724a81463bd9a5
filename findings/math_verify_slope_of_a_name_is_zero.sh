#!/usr/bin/env bash
# math-verify compares differential equations as if dy/dx were zero: y' = y and y' = -y are the same to it.
#
# Versions: math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14.0 (seen in November 2026).
# Behaviour: \frac{dy}{dx} is read as sympy's Derivative(y, x) of two independent symbols. Comparing evaluates it, and the
#   derivative of one symbol by another is 0. So all equations of first order whose right sides have the same zeros are
#   equal: growth is decay, dP/dt = kP is dP/dt = kP^2, and dy/dx + y = x is the straight line y = x.
# Expected from memory: two equations are equal where one is a multiple of the other.
# Seen: dy/dx = y and dy/dx = -y True | kP and kP^2 True | 2x and x True | with and without dy/dx True | 2x and 3x^2 False
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "math-verify[antlr4_9_3]==0.9.0" latex2sympy2_extended==1.11.0 sympy==1.14.0
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify

PAIRS = {
    (r"\frac{dy}{dx} = y", r"\frac{dy}{dx} = -y"): True,
    (r"\frac{dP}{dt} = kP", r"\frac{dP}{dt} = kP^2"): True,
    (r"\frac{dy}{dx} = 2x", r"\frac{dy}{dx} = x"): True,
    (r"\frac{dy}{dx} + y = x", "y = x"): True,
    (r"m\frac{dv}{dt} + bv = f", "bv = f"): True,
    (r"\frac{dy}{dx} = 2x", r"\frac{dy}{dx} = 3x^2"): False,
}
seen = {pair: verify(parse(f"${pair[0]}$"), parse(f"${pair[1]}$")) for pair in PAIRS}
for (gold, answer), verdict in seen.items():
    print(f"{gold:28} {answer:28} {verdict}")
assert seen == PAIRS, "the behaviour has changed: correct this finding"
PYTHON
