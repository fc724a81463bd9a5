#!/usr/bin/env bash
# math-verify marks (2, 1) right where the gold answer is x = 1, y = 2.
#
# Versions: math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14.0 (seen in November 2026).
# Behaviour: x = 1, y = 2 is read as a set of equations. Against a tuple the names are dropped and the two sides are sorted,
#   so every order of the values is right: the point (5, 4, 3) solves x = 3, y = 4, z = 5. The other way round, gold
#   (2, 1) and answer x = 1, y = 2, is wrong; and with names on both sides the swapped one is wrong, as it should be.
# Expected from memory: a tuple gives the values in the order of the names, or the two forms cannot be compared.
# Seen: (1, 2) True | (2, 1) True | (5, 4, 3) True | {1, 2} True | x = 2, y = 1 False | the other way round False
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
    ("x = 1, y = 2", "(1, 2)"): True,
    ("x = 1, y = 2", "(2, 1)"): True,
    ("x = 3, y = 4, z = 5", "(5, 4, 3)"): True,
    ("x = 1, y = 2", r"\{1, 2\}"): True,
    ("x = 1, y = 2", "x = 2, y = 1"): False,
    ("(2, 1)", "x = 1, y = 2"): False,
}
seen = {pair: verify(parse(f"${pair[0]}$"), parse(f"${pair[1]}$")) for pair in PAIRS}
for (gold, answer), verdict in seen.items():
    print(f"{gold:22} {answer:14} {verdict}")
assert seen == PAIRS, "the behaviour has changed: correct this finding"
PYTHON
