"""What `evaluation.json` holds of solved problems, as the judge writes it."""

from kdkit.config.maths.judging import JudgingConfig
from kdkit.evaluate.maths.describe import describe_model, differences_to
from kdkit.evaluate.maths.selection import Samples, Single, compare_selection
from kdkit.evaluate.maths.solutions import Solution
from kdkit.evaluate.maths.solving import Solved
from kdkit.evaluate.maths.voting import Contradictions
from kdkit.maths.checking.steps import StepVerdict
from kdkit.maths.checking.verdicts import Verdict
from kdkit.maths.problem import Problem

RIGHT, WRONG = StepVerdict.RIGHT, StepVerdict.WRONG
PROBLEMS = [
    Problem(str(i), "Solve $x = 1$.", "1", domain=("algebra", "calculus")[i % 2], template="t", level=1 + i // 4)
    for i in range(8)
]


def written(is_right, *steps):
    """Make a solution."""
    return Solution("text", "1" if is_right else "2", Verdict.RIGHT if is_right else Verdict.WRONG, steps, 10, True)


def solved(num_right, num_samples=2):
    """Make what a model wrote: the first greedy answers are right, the first sample of each is, the others are not."""
    greedy = [written(i < num_right, RIGHT, RIGHT if i < num_right else WRONG) for i in range(len(PROBLEMS))]
    samples = [[written(n == 0, RIGHT) for n in range(num_samples)] for _ in PROBLEMS]
    groups = [list(range(num_samples)) for _ in PROBLEMS]
    return Solved(greedy, samples, groups, [5] * len(PROBLEMS), 0)


def maths_results(num_samples=2, contamination=None):
    """Return the entry `maths` of an evaluation with one set of problems."""
    models = {name: solved(right, num_samples) for name, right in {"teacher": 8, "student": 6, "baseline": 1}.items()}
    own = models["student"]
    singles = {
        name: Single([each.is_right for each in model.greedy], [15] * 8, 400 if name == "teacher" else 100)
        for name, model in models.items()
    }
    found = {
        "num_problems": len(PROBLEMS),
        "models": {name: describe_model(PROBLEMS, each) for name, each in models.items()},
        "differences": differences_to("student", models),
        "contamination": contamination
        or {"training_texts": 100, "same_text": 0.0, "same_numbers": 0.125, "near_copies": 0.0, "ngrams": None},
    }
    if num_samples:
        rights = [[each.is_right for each in row] for row in own.samples]
        tokens = [[each.num_tokens for each in row] for row in own.samples]
        found_none = [[Contradictions(0, 0)] * num_samples for _ in PROBLEMS]
        samples = Samples(rights, own.groups, found_none, tokens, own.prompt_tokens)
        student = singles.pop("student")
        found["selection"] = compare_selection(samples, student, singles)
    return JudgingConfig(num_samples=num_samples).model_dump() | {"verifier": None, "sets": {"held_out": found}}
