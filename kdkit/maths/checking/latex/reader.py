r"""LaTeX of one formula into sympy: a reader by precedence.

Written because latex2sympy2_extended takes 20 to 100 ms for a formula and loses primes, the letters' case (within
math-verify) and the imaginary unit. This one takes a fraction of a millisecond, keeps all three, and refuses what
would grow.
"""

from collections.abc import Callable

import sympy
from sympy import Basic, Function, Integer, MatrixBase, Symbol

from kdkit.config.maths.settings import PolicyConfig
from kdkit.maths.checking.latex import building, marks, pieces
from kdkit.maths.checking.latex.tokens import UnreadableError
from kdkit.maths.checking.latex.units import read_unit

DEEPEST = 60
"""Brackets within brackets."""


class Reader:
    """Reads the tokens of one formula from left to right."""

    def __init__(self, tokens: list[str], policies: PolicyConfig, depth: int = 0) -> None:
        """Keep the tokens.

        Raises:
            UnreadableError: brackets are nested too deeply.
        """
        if depth > DEEPEST:
            raise UnreadableError("brackets too deep")
        self.tokens, self.policies, self.depth = tokens, policies, depth
        self.at = 0
        self.bars = 0
        """Bars `|` that are open."""
        self.is_standing = False
        """Whether a determinant, integral, derivative, limit, sum or product was read."""

    def read(self) -> Basic:
        """Read all tokens as one formula.

        Raises:
            UnreadableError: they are none.
        """
        value = self._sum()
        if self.at < len(self.tokens):
            raise UnreadableError(f"unexpected {self.tokens[self.at]}")
        return value

    @property
    def _next(self) -> str:
        """The token that comes next; empty: there is none."""
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _part(self, tokens: list[str]) -> Basic:
        """Read a part of the formula that stands in brackets."""
        inner = type(self)(tokens, self.policies, self.depth + 1)
        value = inner.read()
        self.is_standing |= inner.is_standing
        return value

    def _group(self) -> list[str]:
        """Take the tokens of the bracket that comes next."""
        end = marks.find_close(self.tokens, self.at)
        inside = self.tokens[self.at + 1 : end]
        self.at = end + 1
        return inside

    def _argument(self) -> list[str]:
        """Take what a command is applied to: a group in braces, one digit, or one token."""
        token = self._next
        if token == "{":
            return self._group()
        if not token:
            raise UnreadableError("the formula ends too early")
        if token[0].isdigit() and len(token) > 1:  # \frac12
            self.tokens = [*self.tokens[: self.at], *token, *self.tokens[self.at + 1 :]]
        self.at += 1
        return [self.tokens[self.at - 1]]

    def _sum(self) -> Basic:
        value = self._product()
        while self._next in ("+", "-"):
            sign = self._next
            self.at += 1
            right = self._product()
            value = building.add(value, right if sign == "+" else building.multiply(Integer(-1), right))
        return value

    def _product(self, stop: Callable[[str], bool] = lambda token: False) -> Basic:
        """Read factors up to the next sum, relation or end."""
        value = self._signed()
        while token := self._next:
            if token in marks.TIMES:
                self.at += 1
                value = building.multiply(value, self._signed())
            elif token in marks.OVER:
                self.at += 1
                value = building.divide(value, self._signed())
            elif not stop(token) and self._starts_factor(token):
                value = building.multiply(value, self._factor())
            else:
                break
        return value

    def _starts_factor(self, token: str) -> bool:
        """Return whether a token begins another factor."""
        if token == "|":
            return not self.bars
        return token not in marks.CLOSING and token not in (
            "+",
            "-",
            ",",
            ";",
            "=",
            "<",
            ">",
            "^",
            "_",
            "!",
            "'",
            "&",
            ":",
        )

    def _signed(self) -> Basic:
        """Read a factor that may have a sign."""
        if self._next in ("+", "-"):
            sign = self._next
            self.at += 1
            value = self._signed()
            return value if sign == "+" else building.multiply(Integer(-1), value)
        return self._factor()

    def _factor(self) -> Basic:
        """Read a base with its exponents and factorials."""
        value = self._base()
        while True:
            if self._next == "^":
                self.at += 1
                value = building.power(value, self._exponent())
            elif self._next == "!":
                self.at += 1
                value = building.factorial(value)
            else:
                return value

    def _exponent(self) -> Basic:
        """Read what stands behind `^`."""
        token = self._next
        if token == "{":
            return self._part(self._group())
        if token in ("+", "-"):
            self.at += 1
            value = self._exponent()
            return value if token == "+" else building.multiply(Integer(-1), value)
        if token == "*" or not token:
            raise UnreadableError("an exponent is missing")
        return self._base()

    def _base(self) -> Basic:
        """Read a number, name, bracket, or command with what it is applied to."""
        token = self._next
        self.at += 1
        if not token:
            raise UnreadableError("the formula ends too early")
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self._number(token)
        if token[0] == '"':
            return self._unit(token[1:])
        if token in marks.CLOSERS and token != "\\{":
            self.at -= 1
            return self._bracket(token)
        if token == "|":
            self.bars += 1
            value = self._sum()
            self.bars -= 1
            if self._next != "|":
                raise UnreadableError("a bar is not closed")
            self.at += 1
            return self._size(value)
        if marks.is_function(token):
            return self._function(token)
        return self._command(token)

    def _command(self, token: str) -> Basic:
        """Read a command that is no function, or a name."""
        if token == "\\frac":
            return self._fraction(self._argument(), self._argument())
        if token == "\\sqrt":
            index = self._part(self._group()) if self._next == "[" else Integer(2)
            argument = self._group() if self._next == "(" else self._argument()
            return building.root(self._part(argument), index)
        if token == "\\binom":
            above, below = self._part(self._argument()), self._part(self._argument())
            return building.binomial(above, below)
        if token == "\\pi":
            return sympy.pi
        if token == "\\infty":
            return sympy.oo
        return self._name(token)

    def _fraction(self, above: list[str], below: list[str]) -> Basic:
        """Read a fraction from the tokens of its halves."""
        return building.divide(self._part(above), self._part(below))

    def _unit(self, text: str) -> Basic:
        """Read a unit; words that are none we know may stand at the end alone."""
        value = read_unit(text)
        if value is None:
            if self.at < len(self.tokens) or self.at == 1:
                raise UnreadableError(f"words: {text}")
            value = building.unit(text.lower().rstrip(".").removesuffix("s"))
        return value

    def _number(self, token: str) -> Basic:
        """Read a number, and the fraction of a mixed one."""
        value = building.number(token)
        if self._next == "\\frac" and value.is_Integer and token.isdigit():
            start = self.at
            self.at += 1
            above, below = self._argument(), self._argument()
            if len(above) == len(below) == 1 and above[0].isdigit() and below[0].isdigit():
                return building.add(value, building.divide(building.number(above[0]), building.number(below[0])))
            self.at = start
        if self._next[:1].isdigit():
            whole = [token, *self.tokens[self.at : self.at + 3]]
            if len(whole) != 4 or whole[2] != "/" or not all(whole[place].isdigit() for place in (0, 1, 3)):
                raise UnreadableError("two numbers side by side")
            self.at += 3  # 3 1/2
            return building.add(value, building.divide(building.number(whole[1]), building.number(whole[3])))
        return value

    def _bracket(self, token: str) -> Basic:
        """Read what stands in brackets; a matrix where it is one."""
        if token == "\\begin":
            return self._environment()
        inside = self._group()
        if self.tokens[self.at - 1] != marks.CLOSERS[token]:
            raise UnreadableError("brackets of two kinds")
        if token == "\\lfloor":
            return sympy.floor(self._part(inside))
        if token == "\\lceil":
            return sympy.ceiling(self._part(inside))
        value = self._part(inside)
        return self._size(value) if token in ("\\lvert", "\\lVert") else value

    def _size(self, value: Basic) -> Basic:
        """Return the absolute value, or the determinant of a matrix."""
        if isinstance(value, MatrixBase):
            self.is_standing = True
            return building.call("det", value, "e")
        return sympy.Abs(value)

    def _environment(self) -> Basic:
        """Read a matrix, or a function in pieces."""
        name, *body = self._group()
        if name == '"cases':
            return pieces.read_cases(body, self._part)
        if not name.endswith("matrix") and name != '"array':
            raise UnreadableError(name)
        if name == '"array' and body[:1] == ["{"]:  # how its columns are aligned
            body = body[marks.find_close(body, 0) + 1 :]
        value = building.matrix(
            [[self._part(cell) for cell in marks.split(row, "&")] for row in marks.split(body, "\\cr") if row]
        )
        return self._size(value) if name == '"vmatrix' else value

    def _function(self, token: str) -> Basic:
        """Read a function: its exponent or base, and its argument with or without brackets."""
        name, exponent, base = token[1:], None, None
        while self._next in ("^", "_"):
            mark = self._next
            self.at += 1
            part = self._part(self._argument())
            exponent, base = (part, base) if mark == "^" else (exponent, part)
        if name in marks.OF_MATRICES:
            self.is_standing = True
        argument = self._function_argument()
        if base is not None:
            if name != "log":
                raise UnreadableError(f"{name} with an index")
            value = building.divide(sympy.log(argument), sympy.log(base))
        elif exponent == -1 and f"arc{name}" in building.CALLS:
            return building.call(f"arc{name}", argument, "e")
        else:
            value = building.call(name, argument, self.policies.log_base)
        return value if exponent is None else building.power(value, exponent)

    def _function_argument(self) -> Basic:
        r"""Read what a function is applied to: brackets, or the letters and numbers that follow, as in `\sin 2x`."""
        if self._next == "\\{":
            return self._part(self._group())
        if self._next in ("(", "{", "[", "\\lvert", "|", "\\begin"):
            return self._base()
        if marks.is_function(self._next) or self._next == "-":
            return self._signed()
        before = self.at
        ends = ("e", "\\int", "\\sum", "\\sqrt", "|", "\\frac")
        return self._product(
            lambda token: self.at > before and (marks.is_function(token) or token in marks.CLOSERS or token in ends)
        )

    def _name(self, token: str) -> Basic:
        """Read a letter with index, primes and bracket: a constant, a symbol, or a function of something."""
        name = token
        if token in marks.ACCENTS or token in marks.DOTS or token in ("\\overline", "\\bar"):
            inside = self._argument()
            if token in ("\\overline", "\\bar"):
                return sympy.conjugate(self._part(inside))
            name = (
                "".join(inside) + marks.DOTS[token]
                if token in marks.DOTS
                else f"{marks.ACCENTS[token]} {''.join(inside)}"
            )
        elif not (token.isalpha() or token[1:] in marks.GREEK or token in ("\\ell", "\\partial")):
            raise UnreadableError(token)
        if self._next == "_":
            self.at += 1
            name += f"_{{{''.join(self._argument()).replace(chr(34), '')}}}"
        primes, self.at = marks.count_primes(self.tokens, self.at)
        name += "'" * primes
        if constant := self._constant(name):
            return constant
        if self._next == "(" and (arguments := self._arguments(token)) is not None:
            return Function(name)(*arguments)
        return Symbol(name)

    def _constant(self, name: str) -> Basic | None:
        """Return Euler's number or the imaginary unit, where the name is one of them."""
        if name == "e":
            return sympy.E
        if name == self.policies.imaginary_unit:
            return sympy.I
        return None

    def _arguments(self, token: str) -> list[Basic] | None:
        """Read the brackets behind a name; None: they are a factor."""
        end = marks.find_close(self.tokens, self.at)
        inside = self.tokens[self.at + 1 : end]
        is_single = len(inside) == 1 and (inside[0][0].isdigit() or inside[0].isalpha() or inside[0][1:] in marks.GREEK)
        is_own = self.tokens[self.at - 1] == "'"
        if not (is_single and inside[0] != token) and not is_own and token not in marks.APPLIED:
            return None
        arguments = [self._part(part) for part in marks.split(inside, ",")]
        self.at = end + 1
        return arguments
