"""Systems of linear equations with one solution, by elimination."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, lcm

from kdkit.maths.latex import Exact, bracketed, number, point, total
from kdkit.maths.problems.proofs import determinant, proven, quotient
from kdkit.maths.problems.template import Parameters, Solved, Template
from kdkit.maths.reading import MAX_NUMBER, letters_of, read_polynomial, read_statement

WORDS = (
    "system systems equations linear simultaneous simultaneously solution solutions unknowns variables equation"
    " both satisfies satisfy elimination"
)
ORDINALS = ("the first", "the second", "the third")


@dataclass(frozen=True)
class Row:
    """A linear equation and how a step calls it."""

    numbers: tuple[int, ...]
    """Before the unknowns, and what they add up to."""
    label: str

    def latex(self, names: Sequence[str]) -> str:
        """Write it: `2x - 3y = 4`."""
        return f"{total(zip(self.numbers[:-1], names, strict=True))} = {self.numbers[-1]}"

    def holds(self, solution: Sequence[Exact]) -> bool:
        """Return whether a solution satisfies it."""
        return sum(a * x for a, x in zip(self.numbers[:-1], solution, strict=True)) == self.numbers[-1]


def eliminate(first: Row, second: Row, unknown: int) -> tuple[Row, str]:
    """Return a multiple of the second plus one of the first, without an unknown; and the words for it."""
    common = gcd(first.numbers[unknown], second.numbers[unknown])
    k, m = first.numbers[unknown] // common, -second.numbers[unknown] // common
    if k < 0:
        k, m = -k, -m
    numbers = tuple(k * b + m * a for a, b in zip(first.numbers, second.numbers, strict=True))
    one = second.label if k == 1 else f"${k}$ times {second.label}"
    other = first.label if abs(m) == 1 else f"${abs(m)}$ times {first.label}"
    return Row(numbers, f"the new {second.label.split()[-1]}"), f"{one} {'plus' if m > 0 else 'minus'} {other}"


def put_in(row: Row, names: Sequence[str], unknown: int, solution: Sequence[Exact]) -> str:
    r"""Write a row with the values of the other unknowns: `2x + 3 \cdot 4 = 5`."""
    shown = total([(row.numbers[unknown], names[unknown])])
    for i, value in enumerate(solution):
        size = abs(row.numbers[i])
        if i != unknown and size:
            product = bracketed(number(value)) if size == 1 else rf"{size} \cdot {bracketed(number(value))}"
            shown += f" {'-' if row.numbers[i] < 0 else '+'} {product}"
    return f"{shown} = {row.numbers[-1]}"


def triangle(rows: Sequence[Row], names: Sequence[str]) -> tuple[list[Row], list[tuple[str, Row]]]:
    """Eliminate downwards; return the rows that are left, one for each unknown, and the steps with their rows."""
    rows, steps = list(rows), []
    for unknown in range(len(rows) - 1):
        pivot = next(i for i in range(unknown, len(rows)) if rows[i].numbers[unknown])
        rows[unknown], rows[pivot] = rows[pivot], rows[unknown]
        for i in range(unknown + 1, len(rows)):
            if rows[i].numbers[unknown]:
                rows[i], words = eliminate(rows[unknown], rows[i], unknown)
                steps.append((f"Eliminate ${names[unknown]}$, {words}: ${rows[i].latex(names)}$.", rows[i]))
    return rows, steps


class _LinearSystem(Template):
    """Both sizes."""

    domain = "algebra"
    wordings = (
        "Solve the system $<<system>>$.",
        "Solve $<<system>>$ for $<<unknowns>>$.",
        "Find $<<unknowns>>$ such that $<<system>>$.",
    )
    names: tuple[str, ...]

    def solve(self, parameters: Parameters) -> Solved:
        """Eliminate one unknown after the other, then put the values in."""
        size = len(self.names)
        width = size + 1
        rows = [Row(tuple(parameters[i * width : (i + 1) * width]), ORDINALS[i]) for i in range(size)]
        reduced, made = triangle(rows, self.names)
        solution: list[Exact] = [0] * size
        for unknown in reversed(range(size)):
            *before, right = reduced[unknown].numbers
            rest = sum(a * x for a, x in zip(before, solution, strict=True)) - before[unknown] * solution[unknown]
            solution[unknown] = quotient(right - rest, before[unknown])
        is_solution = all(row.holds(solution) for row in rows)
        steps = [proven(step, is_solution, row.holds(solution)) for step, row in made]
        for unknown in reversed(range(size)):
            row, value = reduced[unknown], f"{self.names[unknown]} = {number(solution[unknown])}"
            shown = put_in(row, self.names, unknown, solution)
            if shown != value:
                what = "Divide" if unknown == size - 1 else f"Put into {row.label}: ${shown}$, so"
                steps.append(proven(f"{what}{':' if what == 'Divide' else ''} ${value}$.", row.holds(solution)))
        lines = r" \\ ".join(row.latex(self.names) for row in rows)
        words = {"system": rf"\begin{{cases}} {lines} \end{{cases}}", "unknowns": ", ".join(self.names)}
        facts = {name: (number(value),) for name, value in zip(self.names, solution, strict=True)}
        return Solved(words, tuple(steps), point(solution), "tuple", facts=facts)

    def read(self, text: str) -> Parameters | None:
        """Read as many linear equations in x, y (and z) that have one solution."""
        rows = _read_rows(text, self.names)
        if rows is None or not determinant([row[:-1] for row in rows]):
            return None
        return tuple(value for row in rows for value in row)


def _read_rows(text: str, names: Sequence[str]) -> list[tuple[int, ...]] | None:
    """Read the equations of a statement, as many as names, in whole numbers."""
    statement = read_statement(text)
    equations = [formula for formula in statement.formulas if "=" in formula]
    others = "".join(formula for formula in statement.formulas if formula not in equations)
    is_such = statement.fits(WORDS) and len(equations) == len(names) and not set(others) - {*names, *"(), "}
    if not is_such or letters_of(" ".join(equations)) != list(names):
        return None
    rows = []
    for equation in equations:
        sides = [read_polynomial(side, "".join(names)) for side in equation.split("=")]
        if len(sides) != 2 or any(side is None for side in sides):
            return None
        moved = sides[0] - sides[1]
        if any(sum(powers) > 1 for powers in moved):
            return None
        found = [moved.coeff(name) for name in moved.ring.gens] + [-moved.coeff(1)]
        common = lcm(*(int(each.denominator) for each in found))
        rows.append(tuple(int(each * common) for each in found))
    return rows if max(abs(value) for row in rows for value in row) <= MAX_NUMBER else None


class LinearSystem2(_LinearSystem):
    """Two equations, two unknowns."""

    name = "linear_system_2"
    names = ("x", "y")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 1 x + y and x - y alike; 2 to 4 ever larger numbers; 5 the solution may be a fraction."""
        size = {1: 1, 2: 3, 3: 5, 4: 9, 5: 6}[level]
        x, y = (draws.randint(-3 * size - 6, 3 * size + 6) for _ in range(2))
        while True:
            a, b, c, d = (draws.choice([n for n in range(-size, size + 1) if n]) for _ in range(4))
            if a * d != b * c and (level > 1 or a == c == 1):
                break
        if level == 5:
            return a, b, draws.randint(-20, 20), c, d, draws.randint(-20, 20)
        return a, b, a * x + b * y, c, d, c * x + d * y


class LinearSystem3(_LinearSystem):
    """Three equations, three unknowns."""

    name = "linear_system_3"
    levels = (3, 4, 5)
    names = ("x", "y", "z")

    def draw(self, draws: random.Random, level: int) -> Parameters:
        """Levels: 3 to 5, ever larger numbers."""
        size = {3: 2, 4: 4, 5: 6}[level]
        solution = [draws.randint(-2 * size, 2 * size) for _ in range(3)]
        while True:
            rows = [[draws.choice([n for n in range(-size, size + 1) if n]) for _ in range(3)] for _ in range(3)]
            if determinant(rows):
                break
        return tuple(value for row in rows for value in (*row, sum(k * x for k, x in zip(row, solution, strict=True))))


TEMPLATES = (LinearSystem2, LinearSystem3)
