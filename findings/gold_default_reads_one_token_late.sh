#!/usr/bin/env bash
# TRL's GOLD: with its default way of merging tokens a perfect student is punished, and one that stutters has loss 0.
#
# Versions: trl 1.16.0 (trl.experimental.gold), transformers 5.24.0, torch 2.13.0 (seen in November 2026).
# Behaviour: uld_token_merge_strategy is "observed" unless one asks for "bayesian". It takes the logits AT the tokens of the
#   answer, which predict the tokens after them, and multiplies the distribution of a group's first position by what its
#   later positions give to the group's own tokens: by the probability that each of them is said twice.
#   So wherever one teacher token is two of the student's, a student that is right gets (nearly) no mass, however
#   confident its teacher is; a student that says the second one again gets all of it.
# Expected from its description: "the scalar conditional probabilities of the actual later tokens"; loss 0 where student and
#   teacher are both certain of the same text.
# Seen: observed: right 0.5, stutters 0.0 | bayesian: right 0.0, stutters 0.0 (sorted probabilities do not know which token)
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.24.0 torch==2.13.0
TRL_EXPERIMENTAL_SILENCE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import torch
from trl.experimental.gold import GOLDConfig
from trl.experimental.gold.gold_trainer import ULDLoss

# the answer "abcabc": the student reads a, b, c and the end (0 to 3), the teacher ab, c and the end (0 to 2); prompt "c"
STUDENT, TEACHER = [2, 0, 1, 2, 0, 1, 2, 3], [1, 0, 1, 0, 1, 2]
STUDENT_BYTES = [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6], [6, 6]]
TEACHER_BYTES = [[0, 0], [0, 2], [2, 3], [3, 5], [5, 6], [6, 6]]


def certain(next_ids: list[int], size: int) -> torch.Tensor:
    """Logits of a model that is certain of what comes next at every position."""
    return 100.0 * torch.nn.functional.one_hot(torch.tensor([next_ids]), size)


def labels(ids: list[int]) -> torch.Tensor:
    return torch.tensor([[-100, *ids[1:]]])


def loss(strategy: str, student_says: list[int]) -> float:
    config = GOLDConfig(output_dir=sys.argv[1], use_uld_loss=True, use_cpu=True, bf16=False, report_to="none")
    assert config.uld_token_merge_strategy == "observed", "the default has changed: correct this finding"
    config.uld_token_merge_strategy = strategy
    found = ULDLoss(config)(
        certain(student_says, 4),
        certain([*TEACHER[1:], 2], 3),
        labels(STUDENT),
        labels(TEACHER),
        torch.tensor([STUDENT]),
        torch.tensor([TEACHER]),
        torch.tensor([STUDENT_BYTES]),
        torch.tensor([TEACHER_BYTES]),
    )
    return round(float(found), 4)


right = [*STUDENT[1:], 3]
stutters = [0, 1, 1, 0, 1, 1, 3, 3]  # says b again after b, where c belongs
seen = {strategy: (loss(strategy, right), loss(strategy, stutters)) for strategy in ("observed", "bayesian")}
for strategy, (good, bad) in seen.items():
    print(f"{strategy}: right {good}, stutters {bad}")
assert seen["observed"][0] > 0.4 and seen["observed"][1] == 0.0, "the behaviour has changed: correct this finding"
assert seen["bayesian"][0] == 0.0, "the behaviour has changed: correct this finding"
PYTHON
