"""Optimizer groups: which parameters learn how fast, by regular expressions on their names."""

import re
from collections.abc import Iterable
from typing import Any

import torch

from kdkit.config.training import ParameterRule
from kdkit.errors import UserError

NO_RULE = "(no rule)"
"""Stands in the table for parameters that no pattern matches: they keep the learning rate."""


def group_parameters(
    parameters: Iterable[tuple[str, torch.nn.Parameter]],
    decayed: set[str],
    rules: list[ParameterRule],
    learning_rate: float,
    weight_decay: float,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sort parameters into optimizer groups by the first rule that matches; freeze those with multiplier 0.

    `requires_grad` of every parameter is set: what an earlier stage froze can learn again.

    Args:
        parameters: names and parameters of a model; tied ones once.
        decayed: names that get weight decay: not biases, not norms.
        rules: tried in order, searched in the name.
        learning_rate: of parameters with multiplier 1.
        weight_decay: of the decayed ones.

    Returns:
        Optimizer groups with `params`, `lr`, `weight_decay`; and a table with a row per group, frozen ones
        included: `pattern`, `lr_multiplier`, `learning_rate`, `weight_decay`, `tensors`, `parameters`.

    Raises:
        UserError: a pattern that is the first to match nowhere, or no parameter left to learn.
    """
    parameters = list(parameters)
    members: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters:
        number = next((i for i, rule in enumerate(rules) if re.search(rule.pattern, name)), len(rules))
        members.setdefault((number, name in decayed), []).append(parameter)
    _check_patterns([name for name, _ in parameters], rules, {number for number, _ in members})
    groups, table = [], []
    for (number, decays), tensors in sorted(members.items(), key=lambda item: (item[0][0], not item[0][1])):
        multiplier = rules[number].lr_multiplier if number < len(rules) else 1.0
        row = {
            "pattern": rules[number].pattern if number < len(rules) else NO_RULE,
            "lr_multiplier": multiplier,
            "learning_rate": learning_rate * multiplier,
            "weight_decay": weight_decay if decays else 0.0,
            "tensors": len(tensors),
            "parameters": sum(tensor.numel() for tensor in tensors),
        }
        table.append(row)
        for tensor in tensors:
            tensor.requires_grad_(multiplier > 0.0)
        if multiplier > 0.0:
            groups.append({"params": tensors, "lr": row["learning_rate"], "weight_decay": row["weight_decay"]})
    if not groups:
        raise UserError(
            "parameter_lr_multipliers: expected a rule that lets something learn, got multiplier 0 for all "
            f"{len(parameters)} parameters; raise one of them"
        )
    return groups, table


def format_table(table: list[dict[str, Any]]) -> str:
    """Write the table of groups as lines of text."""
    return "\n".join(
        f"  {row['pattern']:<32} x {row['lr_multiplier']:<6g} "
        + (f"lr {row['learning_rate']:.3g}" if row["lr_multiplier"] else "frozen").ljust(12)
        + f" decay {row['weight_decay']:<6g} {row['tensors']:>4} tensors {row['parameters']:>12,} parameters"
        for row in table
    )


def _check_patterns(names: list[str], rules: list[ParameterRule], used: set[int]) -> None:
    """Refuse a rule that decides nothing."""
    for number, rule in enumerate(rules):
        if number in used:
            continue
        earlier = [first for first in rules[:number] if any(re.search(first.pattern, n) for n in names)]
        if any(re.search(rule.pattern, name) for name in names):
            raise UserError(
                f"parameter_lr_multipliers: expected every pattern to decide something, got {rule.pattern!r}, all of "
                f"whose parameters match an earlier one ({', '.join(repr(first.pattern) for first in earlier)}); "
                "put it first"
            )
        raise UserError(
            f"parameter_lr_multipliers: expected a pattern that matches a parameter, got {rule.pattern!r}, which "
            f"matches none of {len(names)} such as {', '.join(names[:2])}, {names[-1]}; correct it"
        )
