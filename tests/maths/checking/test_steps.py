"""Steps of solutions, as our templates and as students write them."""

import pytest

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.steps import check_steps

ROOTS = {"x": ("2", "3")}
PARABOLA = {"f(x)": ("x^{3} - 3x",), "f'(x)": ("3x^{2} - 3",), "x": ("-1", "1")}
PARTS = {"u": ("-4x + 4",), "v": (r"-\frac{1}{2}e^{-2x}",)}
MATRIX = {"A": (r"\begin{pmatrix} 3 & -7 \\ -1 & 3 \end{pmatrix}",)}
PLANE = {"x": ("4",), "y": ("5",), "f(x, y)": ("4x^{2} + 5y",)}
RESIDUE = {
    r"\operatorname{Res}(f, 1)": (r"-\frac{7}{5}",),
    r"\oint_{|z| = 5} f(z) \, dz": (r"-\frac{14\pi i}{5}",),
}
LAGRANGE = {"x": ("27",), "y": ("3",), r"\lambda": ("-18",)}


@pytest.mark.parametrize(
    ("line", "facts", "verdict"),
    [
        ("Expand: $x^{2} - 5x + 6 = 0$.", ROOTS, "right"),
        ("Factor: $(x - 2)(x - 3) = 0$.", ROOTS, "right"),
        ("Factor: $(x - 2)(x + 3) = 0$.", ROOTS, "wrong"),
        ("Expand: $x^{2} - 5x + 5 = 0$.", ROOTS, "wrong"),
        ("So $x = 2$ or $x = 3$.", ROOTS, "right"),
        (r"So $x = 2 \text{ or } x = 3$.", ROOTS, "right"),
        ("So $x = 2$ or $x = 4$.", ROOTS, "wrong"),
        ("So $x = 2$ or $x = 2$.", ROOTS, "wrong"),
        ("One of them is $x = 2$.", ROOTS, "right"),
        ("One of them is $x = 5$.", ROOTS, "wrong"),
        ("Take roots: $x - 2.5 = 0.5$ or $x - 2.5 = -0.5$", ROOTS, "right"),
        (r"So $x = \frac{5 - \sqrt{1}}{2} = 2$ or $x = \frac{5 + \sqrt{1}}{2} = 3$.", ROOTS, "right"),
        (r"So $x = \frac{5 - \sqrt{1}}{2} = 3$ or $x = \frac{5 + \sqrt{1}}{2} = 3$.", ROOTS, "wrong"),
        ("$x^{2} - 5x + 6 = (x - 2)(x - 3)$", ROOTS, "right"),
        (r"$\boxed{2, 3}$", ROOTS, "unchecked"),
        (r"$\boxed{x = 2}$", ROOTS, "right"),
        ("Both sides are divided by $2$.", ROOTS, "unchecked"),
        ("Words only.", ROOTS, "unchecked"),
        ("", ROOTS, "unchecked"),
        (r"$x = \frac{$", ROOTS, "unchecked"),
        (r"Right $x = 2$ but unreadable $\foo = 3$", ROOTS, "unchecked"),
        ("$1 < x$ and $x < 4$", ROOTS, "right"),
        ("$1 < x < 3$", ROOTS, "wrong"),
        ("2x = 4", {"x": ("2",)}, "right"),
        ("So x = 3.", {"x": ("2",)}, "wrong"),
        # functions and derivatives
        (r"$\frac{d}{dx} x^{3} = 3x^{2}$", {}, "right"),
        (r"$\frac{d}{dx} x^{3} = 2x^{2}$", {}, "wrong"),
        (r"$\frac{d}{dx}(4\cos(2x)) = -8\sin(2x)$", {}, "right"),
        (r"$\frac{d^{2}}{dx^{2}} x^{3} = 6x$", {}, "right"),
        ("$f'(x) = 3x^{2} - 3$", PARABOLA, "right"),
        ("$f'(x) = 5x^{2} - 5$", PARABOLA, "wrong"),
        ("$f'(x) = 3(x - 1)(x + 1)$", PARABOLA, "right"),
        ("$f'(x) = 0$ where $x = -1$ or $x = 1$", PARABOLA, "right"),
        ("$f''(x) = 6x$", PARABOLA, "right"),
        ("$f''(1) = 6 > 0$", PARABOLA, "right"),
        ("$f''(1) = 6 < 0$", PARABOLA, "wrong"),
        ("$f(1) = 1 - 3 = -2$", PARABOLA, "right"),
        ("$f(1) = 1 + 3 = 4$", PARABOLA, "wrong"),
        ("$3x^{2} - 3 = 3(x - 1)(x + 2)$", PARABOLA, "wrong"),
        ("$u' = -4$ and $v' = e^{-2x}$", PARTS, "right"),
        ("$u' = -4$ and $v' = -e^{-2x}$", PARTS, "wrong"),
        ("$(uv)' = 0$", {}, "unchecked"),
        ("$f(x, y) = 4x^{2} + 5y$ and $f(4, 5) = 64 + 25 = 89$", PLANE, "right"),
        # integrals, limits, sums
        (r"$\int x^{2} \, dx = \frac{x^{3}}{3} + C$", {}, "right"),
        (r"$\int x^{2} \, dx = \frac{x^{3}}{2} + C$", {}, "wrong"),
        (r"$\int u'v \, dx = -e^{-2x} + C$", PARTS, "right"),
        (r"$\int (-4x + 4)e^{-2x} \, dx = uv - \int u'v \, dx$", PARTS, "right"),
        (r"$\int (-4x + 4)e^{-2x} \, dx = uv + \int u'v \, dx$", PARTS, "wrong"),
        (r"$\int 2x e^{x^{2}} \, dx = \int e^{u} \, du = e^{u} + C$", {"u": ("x^{2}",)}, "right"),
        (r"$\int 2x e^{x^{2}} \, dx = \int 2e^{u} \, du$", {"u": ("x^{2}",)}, "wrong"),
        (r"$\int \frac{1}{x} \, dx = \ln|x| + C$", {}, "right"),
        (r"$\int_{0}^{1} x^{2} \, dx = \frac{1}{3}$", {}, "right"),
        (r"$\int_{0}^{1} x^{2} \, dx = \frac{1}{2}$", {}, "wrong"),
        (r"$\int_{-1}^{0} (12x^{2} + 4x - 2) \, dx = 0$", {}, "right"),
        (r"$\lim_{x \to 0} \frac{\sin(10x)}{2x} = \lim_{x \to 0} \frac{10\cos(10x)}{2} = 5$", {}, "right"),
        (r"$\lim_{x \to \infty} \frac{8x + 9}{9x - 5} = \frac{8}{9}$", {}, "right"),
        (r"$\lim_{x \to \infty} \frac{8x + 9}{9x - 5} = \frac{9}{8}$", {}, "wrong"),
        (r"$\sum_{k=1}^{4} k = 10$", {}, "right"),
        (r"$\sum_{k=1}^{n} k = \frac{n(n + 1)}{2}$", {}, "right"),
        (r"$\sum_{k=1}^{n} k = \frac{n(n - 1)}{2}$", {}, "wrong"),
        # matrices and systems
        (r"$\det A = 3 \cdot 3 - (-7) \cdot (-1) = 2$", MATRIX, "right"),
        (r"$\det A = 3 \cdot 3 + 7 = 16$", MATRIX, "wrong"),
        (r"$A^{-1} = \frac{1}{2}\begin{pmatrix} 3 & 7 \\ 1 & 3 \end{pmatrix}$", MATRIX, "right"),
        (r"$A^{-1} = \frac{1}{3}\begin{pmatrix} 3 & 7 \\ 1 & 3 \end{pmatrix}$", MATRIX, "wrong"),
        (r"$A A = \begin{pmatrix} 16 & -42 \\ -6 & 16 \end{pmatrix}$", MATRIX, "right"),
        (r"$\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix} = -2$", {}, "right"),
        (r"$\begin{cases} x + y = 30 \\ x - y = 24 \end{cases}$", LAGRANGE, "right"),
        (r"$\begin{cases} x + y = 30 \\ x - y = 25 \end{cases}$", LAGRANGE, "wrong"),
        (r"Set $2x = -3\lambda$ and $6y = -\lambda$.", LAGRANGE, "right"),
        (r"Set $2x = 3\lambda$ and $6y = -\lambda$.", LAGRANGE, "wrong"),
        (r"\begin{aligned} (x+1)^2 &= x^2 + 2x + 1 \\ &= x(x + 2) + 1 \end{aligned}", {}, "right"),
        ("$(x, y) = (27, 3)$", LAGRANGE, "right"),
        ("$(x, y) = (3, 27)$", LAGRANGE, "wrong"),
        # what only the facts can say, and constants with values
        (r"$\operatorname{Res}(f, 1) = -\frac{7}{5}$", RESIDUE, "right"),
        (r"$\oint_{|z| = 5} f(z) \, dz = 2\pi i\operatorname{Res}(f, 1) = -\frac{14\pi i}{5}$", RESIDUE, "right"),
        (r"$\oint_{|z| = 5} f(z) \, dz = \pi i\operatorname{Res}(f, 1)$", RESIDUE, "wrong"),
        ("General solution $y = Ce^{-6x}$", {"y": ("-10e^{-6x}",), "C": ("-10",)}, "right"),
        ("General solution $y = Ce^{-5x}$", {"y": ("-10e^{-6x}",), "C": ("-10",)}, "wrong"),
        # plain arithmetic
        ("Natalia sold 48/2 = <<48/2=24>>24 clips in May.", {}, "right"),
        ("Natalia sold 48/2 = <<48/2=25>>25 clips in May.", {}, "wrong"),
        (r"$\sqrt{2} \approx 1.414$", {}, "right"),
        (r"$\sqrt{2} \approx 1.5$", {}, "wrong"),
        (r"$(4x - 7)^{2} = 16x^{2} - 56x + 49$", {}, "right"),
        (r"$(4x - 7)^{2} = 16x^{2} - 49$", {}, "wrong"),
        ("$x^{2} + 1 > 0$", {}, "right"),
        ("$x^{2} - 1 > 0$", {}, "wrong"),
        ("$i^{2} = -1$", {}, "right"),
        (r"$e^{i\pi} = 1$", {}, "wrong"),
    ],
)
def test_a_line_is_right_where_its_relations_are_true(line, facts, verdict):
    assert check_steps(line, facts, PolicyConfig()) == ([verdict] if line else [])


def test_a_solution_may_define_names_and_use_them():
    lines = ["Let $u = x^{2} + 1$.", "Then $u' = 2x$.", "So $u - 1 = x^{2}$.", "But $u' = 3x$."]
    assert check_steps("\n".join(lines), {}, PolicyConfig()) == ["unchecked", "right", "right", "wrong"]


def test_each_line_has_a_verdict():
    verdicts = check_steps("$1 = 1$\n\n$1 = 2$\nwords", {}, PolicyConfig())
    assert verdicts == ["right", "unchecked", "wrong", "unchecked"]
