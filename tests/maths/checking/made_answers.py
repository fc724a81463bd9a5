"""Answers made by rule: right ones in other words, wrong constants, and text that is no answer. No checker in here.

A wrong constant is wrong by how it is made: something that is not zero is added, or a factor that is not one
multiplied, so nobody has to compare anything.
"""

import random
import re
from collections.abc import Iterator

from kdkit.maths.checking.pool import Job

LETTERS = "xytz"
PIECES = (
    r"\frac", "{", "}", "(", ")", "^", "_", r"\sqrt", r"\left", "=", ",", r"\begin{pmatrix}", "&", r"\\", "x", "9",
    r"\cup", r"\int", r"\lim_{x \to 0}", r"\sum_{k=1}^{9}", "!", "|", r"\text{", "'", "%", "\u00b0", "\u221e",
)  # fmt: skip
"""What mutated text is made of."""


def right_answers(count: int, seed: int) -> Iterator[Job]:
    """Yield gold answers with the same in other words, all different, of eleven kinds in turn."""
    draws = random.Random(seed)
    makers = (_fraction, _decimal, _polynomial, _product, _roots, _interval, _matrix, _complex, _antiderivative)
    makers += (_function, _ode)
    seen = set()
    while len(seen) < count:
        job = makers[len(seen) % len(makers)](draws)
        if job not in seen:
            seen.add(job)
            yield job


def wrong_answers(count: int, seed: int) -> Iterator[Job]:
    """Yield gold answers with one constant of theirs changed, all different."""
    draws = random.Random(seed)
    seen = set()
    for right in right_answers(10 * count, seed + 1):
        job = Job(right.gold, _spoil(right, draws), right.kind, right.against)
        if job not in seen:
            seen.add(job)
            yield job
        if len(seen) == count:
            return


def spoil_formula(gold: str, draws: random.Random) -> str:
    """Write a formula with a constant added or a factor before it."""
    number = draws.randint(2, 99)
    forms = (f"{gold} + {number}", f"{gold} - {number}", f"{number}({gold}) + 1", f"{gold} + \\frac{{1}}{{{number}}}")
    return draws.choice(forms)


def spoil_number(gold: str, draws: random.Random) -> str:
    """Write a number with another digit, sign or place of the point."""
    if draws.random() < 0.15:
        return gold[1:] if gold.startswith("-") else f"-{gold}"
    places = [match.start() for match in re.finditer(r"\d", gold)]
    place = draws.choice(places)
    digit = draws.choice([each for each in "123456789" if each != gold[place]])
    return gold[:place] + digit + gold[place + 1 :]


def _spoil(right: Job, draws: random.Random) -> str:
    """Change a constant of the right answer's other words."""
    if right.kind in ("values", "set", "matrix"):
        parts = list(re.finditer(r"\d+", right.answer))
        chosen = draws.choice(parts)
        other = int(chosen[0]) + draws.choice(
            [100, 200, 301]
        )  # larger than all numbers that are drawn: in no other role
        return right.answer[: chosen.start()] + str(other) + right.answer[chosen.end() :]
    if right.kind == "ode":
        return f"{right.answer} + {draws.randint(2, 9)}"
    if right.kind == "antiderivative":
        return f"{right.answer} + {draws.randint(2, 9)}x"
    return spoil_formula(right.answer, draws)


def _fraction(draws: random.Random) -> Job:
    above, below, factor = draws.randint(-99, 99), draws.randint(2, 99), draws.randint(2, 9)
    return Job(rf"\frac{{{above}}}{{{below}}}", rf"\dfrac{{{factor * above}}}{{{factor * below}}}")


def _decimal(draws: random.Random) -> Job:
    cents = draws.randint(101, 99999) * 2 + 1
    return Job(f"{cents / 100:.2f}", rf"\frac{{{cents}}}{{100}}")


def _polynomial(draws: random.Random) -> Job:
    a, b, c, letter = draws.randint(2, 99), draws.randint(1, 99), draws.randint(1, 99), draws.choice(LETTERS)
    return Job(f"{a}{letter}^{{2}} - {b}{letter} + {c}", f"{c} + {letter}({a}{letter} - {b})")


def _product(draws: random.Random) -> Job:
    a, b, letter = draws.randint(2, 99), draws.randint(2, 99), draws.choice(LETTERS)
    return Job(f"({letter} + {a})({letter} - {b})", f"{letter}^2 + {a - b}{letter} - {a * b}")


def _roots(draws: random.Random) -> Job:
    a, b = draws.sample(range(1, 99), 2)
    return Job(f"-{a}, {b}", rf"x = {b} \text{{ or }} x = -{a}", "values")


def _interval(draws: random.Random) -> Job:
    lower, upper = sorted(draws.sample(range(1, 99), 2))
    return Job(
        rf"[{lower}, {upper}) \cup ({upper + 1}, \infty)",
        rf"{lower} \le x < {upper} \text{{ or }} x > {upper + 1}",
        "set",
    )


def _matrix(draws: random.Random) -> Job:
    a, b, c, d = (draws.randint(2, 99) for _ in range(4))
    rows = rf"{a} & \frac{{{b}}}{{2}} \\ {c} & {d}"
    doubled = rf"{2 * a} & {b} \\ {2 * c} & {2 * d}"
    return Job(
        rf"\begin{{pmatrix}} {rows} \end{{pmatrix}}",
        rf"\frac{{1}}{{2}}\begin{{bmatrix}} {doubled} \end{{bmatrix}}",
        "matrix",
    )


def _complex(draws: random.Random) -> Job:
    a, b = draws.randint(2, 99), draws.randint(2, 99)
    return Job(f"{a * a - b * b} + {2 * a * b}i", f"({a} + {b}i)^{{2}}")


def _antiderivative(draws: random.Random) -> Job:
    a, b = draws.randint(1, 50), draws.randint(2, 30)
    return Job(f"{a}x^{{2}} + {b}e^{{x}} + C", f"{b}e^x + {a}x^2 + K", "antiderivative", f"{2 * a}x + {b}e^{{x}}")


def _function(draws: random.Random) -> Job:
    a, b = draws.randint(2, 99), draws.randint(2, 99)
    return Job(rf"{a}e^{{-{b}t}}\cos(2t)", rf"\frac{{{a}\cos 2t}}{{e^{{{b}t}}}}")


def _ode(draws: random.Random) -> Job:
    a, b = draws.sample(range(2, 40), 2)
    middle = f"+ {b - a}y'" if b > a else f"- {a - b}y'"
    equation = f"y'' {middle} - {a * b}y = 0"
    return Job(f"y = C_1e^{{{a}x}} + C_2e^{{-{b}x}}", f"y = Ae^{{-{b}x}} + Be^{{{a}x}}", "ode", equation)


def fuzzed_answers(count: int, seed: int) -> Iterator[Job]:
    """Yield text that somebody might send: mutated LaTeX, random bytes, deep nesting, large numbers.

    They are aimed at our own reader's limits and made when they are needed: nothing that troubles other software is
    kept in a file.
    """
    draws = random.Random(seed)
    sources = list(right_answers(200, seed))
    for number in range(count):
        source = draws.choice(sources)
        kind = number % 5
        if kind == 0:  # mutated
            letters = list(source.answer)
            for _ in range(draws.randint(1, 6)):
                place = draws.randrange(len(letters) + 1)
                letters[place : place + draws.randint(0, 2)] = [draws.choice(PIECES)]
            text = "".join(letters)
        elif kind == 1:
            text = "".join(draws.choice(PIECES) for _ in range(draws.randint(1, 40)))
        elif kind == 2:
            text = bytes(draws.randrange(256) for _ in range(draws.randint(1, 200))).decode("latin-1")
        elif kind == 3:  # nested
            depth = draws.randint(1, 300)
            opening, closing = draws.choice(
                [("(", ")"), (r"\frac{1}{1+", "}"), (r"\sqrt{", "}"), ("x^{", "}"), ("|", "|")]
            )
            text = opening * depth + "x" + closing * depth
        else:  # large
            base, top = draws.randint(2, 99), "9" * draws.randint(1, 30)
            tower = draws.choice(
                [f"{base}^{{{top}}}", f"x^{{{top}}}", f"{base}^{{{base}^{{{top}}}}}", f"{top}!", f"e^{{{top}}}"]
            )
            text = draws.choice(
                [tower, f"\\sin({tower})", f"{tower} + x", f"\\frac{{{tower}}}{{{tower}}}", top * draws.randint(1, 200)]
            )
        yield Job(source.gold, text, source.kind, source.against)
