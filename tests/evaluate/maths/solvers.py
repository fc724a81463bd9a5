"""Writers that say given texts, and small problems."""

from kdkit.alignment.templates import CHATML, CHATML_TOKENS
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.maths.problem import Problem
from kdkit.models.writer import Written


def equation(a, b, x, level=1, **fields):
    """Make the problem of a linear equation."""
    fields = {"domain": "algebra", "template": "linear_equation", "level": level, "facts": {"x": (str(x),)}} | fields
    steps = (f"${a}x = {a * x}$",)
    return Problem(f"{a},{b},{x}", f"Solve ${a}x + {b} = {a * x + b}$.", str(x), steps, answer_kind="values", **fields)


def solution(x, *steps):
    """Write a solution."""
    return "\n".join([*steps, rf"$\boxed{{{x}}}$"])


class Says:
    """A writer that says given texts: greedy ones, and samples of each problem."""

    context = None

    def __init__(self, greedy, samples=(), stopped=True):
        self.greedy, self.samples, self.stopped, self.asked = greedy, samples, stopped, []
        self.tokenizer = train_tokenizer(["Solve 3x + 4 = 10."] * 3, 300, CHATML_TOKENS)
        self.tokenizer.chat_template = CHATML

    def write(self, prompts, sampling, num_samples=1, first=0):
        self.asked.append((prompts, sampling, num_samples))
        texts = [[text] for text in self.greedy] if sampling.temperature == 0.0 else self.samples
        assert all(len(row) == num_samples for row in texts) and len(texts) == len(prompts)
        return [[Written(text, len(text.split()), self.stopped) for text in row] for row in texts]
