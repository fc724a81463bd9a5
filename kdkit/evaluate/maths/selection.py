"""What a choice among several solutions is worth: accuracy beside the compute that it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdkit.evaluate.maths.estimates import difference, powers_up_to, share
from kdkit.evaluate.maths.voting import Contradictions, Groups, majority, verified_vote, vote_by_steps, weighted_vote

WAYS = {
    "first": "the first one",
    "vote": "a vote",
    "steps": "a vote of those whose steps hold",
    "verified": "the same, of those whose answer holds in the statement",
    "verifier": "a vote weighted by the trained verifier",
}
"""How one of several samples is chosen."""


@dataclass(frozen=True)
class Samples:
    """Samples of a model, a list for every problem, and what speaks for each of them."""

    is_right: list[list[bool]]
    groups: list[Groups]
    contradictions: list[list[Contradictions]]
    tokens: list[list[int]]
    """Written, of each sample."""
    prompt_tokens: list[int]
    """Read once for all samples of a problem."""
    scores: list[list[float]] = field(default_factory=list)
    """Of the verifier; none: there is none."""

    @property
    def count(self) -> int:
        """Samples of every problem."""
        return min(map(len, self.is_right), default=0)

    def hits(self, way: str, count: int) -> list[bool]:
        """Return whether the chosen one of the first `count` samples is right, for every problem."""
        return [self.is_right[number][self._choose(way, number, count)] for number in range(len(self.is_right))]

    def token_count(self, way: str, count: int) -> float:
        """Return the mean number of tokens that a model reads or writes for it: a verifier reads all once more."""
        totals = []
        for prompt, written in zip(self.prompt_tokens, self.tokens, strict=True):
            again = sum(written[:count]) + count * prompt if way == "verifier" else 0
            totals.append(prompt + sum(written[:count]) + again)
        return sum(totals) / len(totals)

    def _choose(self, way: str, number: int, count: int) -> int:
        # a group is named by its first member, so that of the first samples it has the same name
        groups = self.groups[number][:count]
        if way == "first":
            return 0
        if way == "vote":
            return majority(groups)
        contradictions = self.contradictions[number][:count]
        if way == "steps":
            return vote_by_steps(groups, [each.steps for each in contradictions])
        if way == "verified":
            return verified_vote(groups, contradictions)
        return weighted_vote(groups, self.scores[number][:count])


@dataclass(frozen=True)
class Single:
    """The greedy answers of a model, one for every problem."""

    is_right: list[bool]
    tokens: list[int]
    """Read and written, of each."""
    parameters: int | None
    """None: not known."""

    @property
    def compute(self) -> float | None:
        """Tokens times parameters, a mean over problems."""
        return self.parameters * sum(self.tokens) / len(self.tokens) if self.parameters and self.tokens else None


def compare_selection(samples: Samples, student: Single, others: Mapping[str, Single]) -> dict[str, Any]:
    """Compare ways of choosing among samples of the student with single answers.

    Args:
        student: its own greedy answers.
        others: of the teacher, and of other models.

    Returns:
        `ways`: a row per way and number of samples, with `accuracy`, `interval_95`, `compute` (tokens times parameters
        of a problem), `times_greedy` (that, by the compute of the student's greedy answer) and `difference`: to the
        student's greedy answer, in pairs of one problem. `single`: per model the same of its greedy answer.
        `equal_compute`: per larger model the most samples that cost no more than its one answer, and per way the
        difference to it. What the checker computes is counted nowhere: no model reads anything for it.
    """
    ways = [way for way in WAYS if way != "verifier" or samples.scores]
    rows = []
    for count in powers_up_to(samples.count):
        for way in ways:
            if (count == 1) != (way == "first"):
                continue  # of one sample there is nothing to choose
            hits = samples.hits(way, count)
            compute = student.parameters and student.parameters * samples.token_count(way, count)
            rows.append(
                {
                    "way": way,
                    "samples": count,
                    **share(hits),
                    "compute": compute,
                    "times_greedy": compute / student.compute if compute and student.compute else None,
                    "difference": difference(hits, student.is_right),
                }
            )
    return {
        "ways": rows,
        "single": {
            name: share(each.is_right) | {"compute": each.compute}
            for name, each in {"student": student, **others}.items()
        },
        "equal_compute": {
            name: found
            for name, each in others.items()
            if (found := _at_equal_compute(samples, ways, student, each)) is not None
        },
    }


def _at_equal_compute(samples: Samples, ways: Sequence[str], student: Single, other: Single) -> dict[str, Any] | None:
    """Compare with one answer of a larger model; None where it is no larger, or nobody knows."""
    if not student.parameters or not other.parameters or other.parameters <= student.parameters:
        return None
    assert other.compute is not None
    found = {}
    for way in ways:
        fitting = [
            count
            for count in range(1, samples.count + 1)
            if student.parameters * samples.token_count(way, count) <= other.compute
        ]
        if way == "first" or not fitting:
            continue
        count = max(fitting)
        hits = samples.hits(way, count)
        found[way] = {
            "samples": count,
            "compute": student.parameters * samples.token_count(way, count),
            **share(hits),
            "difference": difference(hits, other.is_right),
        }
    return {"compute": other.compute, **share(other.is_right), "ways": found}
