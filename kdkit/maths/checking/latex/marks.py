"""Commands and brackets of LaTeX, and what lies between them."""

from kdkit.maths.checking.latex import building
from kdkit.maths.checking.latex.tokens import UnreadableError

GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "Gamma",
    "Delta", "Theta", "Lambda", "Xi", "Sigma", "Upsilon", "Phi", "Psi", "Omega", "hbar", "ell", "nabla",
}  # fmt: skip
ACCENTS = {"\\hat": "hat", "\\vec": "vec", "\\tilde": "tilde", "\\widehat": "hat", "\\overrightarrow": "vec"}
DOTS = {"\\dot": "'", "\\ddot": "''", "\\dddot": "'''"}
OF_MATRICES = ("det", "rank", "tr", "trace", "adj")
APPLIED = {"f", "g", "h", "F", "G", "H", "\\phi", "\\psi", "\\delta", "\\varphi"}
"""Names before a bracket that are functions, whatever stands in it; others only where one letter or number does."""
CLOSERS = {
    "(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\lvert": "\\rvert", "\\lVert": "\\rVert", "\\lfloor": "\\rfloor",
    "\\lceil": "\\rceil", "\\langle": "\\rangle", "\\begin": "\\end",
}  # fmt: skip
CLOSING = {")", "]", "}", "\\}", "\\rvert", "\\rVert", "\\rfloor", "\\rceil", "\\rangle", "\\end"}
TIMES = {"*", "\\cdot", "\\times", "\\ast"}
OVER = {"/", "\\div"}
BETWEEN = {"+", "-", ",", ";", "=", "<", ">", "^", "_", "!", "'", "&", ":"}
"""What begins no factor."""


def find_close(tokens: list[str], start: int) -> int:
    """Find the bracket that closes the one at `start`; an interval's may be of another kind."""
    depth = 0
    for position in range(start, len(tokens)):
        token = tokens[position]
        if token in CLOSERS:
            depth += 1
        elif token in CLOSING:
            depth -= 1
            if not depth:
                return position
    raise UnreadableError("a bracket is not closed")


def is_function(token: str) -> bool:
    """Return whether a command is a function of what follows it."""
    return (
        token[:1] == "\\" and token != "\\sqrt" and (token[1:] in building.CALLS or token[1:] in (*OF_MATRICES, "lg"))
    )


def split(tokens: list[str], mark: str) -> list[list[str]]:
    """Split tokens at a mark outside all brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        if token == mark and not depth:
            parts.append([])
            continue
        depth += (token in CLOSERS) - (token in CLOSING)
        parts[-1].append(token)
    return parts


def count_primes(tokens: list[str], start: int) -> tuple[int, int]:
    r"""Count the primes behind a name, `''` or `^{\prime\prime}`.

    Returns:
        Their number, and the place behind them.
    """
    count = 0
    while True:
        if tokens[start : start + 1] == ["'"]:
            count, start = count + 1, start + 1
        elif tokens[start : start + 2] == ["^", "\\prime"]:
            count, start = count + 1, start + 2
        elif tokens[start : start + 3] == ["^", "{", "\\prime"]:
            end = find_close(tokens, start + 1)
            if set(tokens[start + 2 : end]) != {"\\prime"}:
                raise UnreadableError("a prime beside an exponent")
            count, start = count + end - start - 2, end + 1
        elif tokens[start : start + 3] == ["^", "{", "("] and tokens[start + 4 : start + 6] == [")", "}"]:
            if not tokens[start + 3].isdigit() or int(tokens[start + 3]) > 9:
                return count, start
            count, start = count + int(tokens[start + 3]), start + 6  # f^{(4)}
        else:
            return count, start
