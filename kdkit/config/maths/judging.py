"""Settings of how models that solve problems are judged, and how one of several solutions is picked."""

from typing import Annotated

from pydantic import Field

from kdkit.config.types import Count, Positive, Section


class JudgingConfig(Section):
    """What notebook 04 measures of models that solve problems: those of `data.path: kdkit-maths`, or of `path`."""

    path: str | None = None
    """Problems of your own to judge on: a .json or .jsonl file with `problem` and `answer`, or of GSM8K's or MATH's
    shape; null: those that the data hold out, and none where the data are no problems."""
    max_problems: Count = 200
    """Problems of each held-out set, spread evenly over it; the verifier learns from as many training problems."""
    num_samples: Annotated[int, Field(ge=0)] = 4
    """Solutions that every model samples of each problem, for pass@k, votes and selection; 0: only the greedy one."""
    temperature: Positive = 0.7
    """Of the samples."""
    max_answer_tokens: Count = 256
    """Tokens of a solution at most."""
    verifier: bool = False
    """Also train a verifier: a logistic head on the student's hidden states, from verdicts on its samples of training
    problems."""
