"""Who the teachers of a training are: kept in every checkpoint, so that no other ones go on with it."""

import json
from pathlib import Path
from typing import Any

from kdkit.config.values import flatten
from kdkit.distill.committee.weights import describe_weights
from kdkit.distill.plan import TrainingPlan
from kdkit.errors import UserError
from kdkit.teachers.prepare import identify_teacher

MANIFEST_FILE = "teachers.json"
"""In a checkpoint, and at the end of a stage."""


def describe_committee(plan: TrainingPlan) -> dict[str, Any]:
    """Return how several teachers are combined, and by name what each one is: `identity`, `loss`, `weight`, ...

    Raises:
        UserError: see `identify_teacher`.
    """
    members = {}
    for member in plan.members:
        config = member.plan.session.config
        members[member.name] = {
            "identity": identify_teacher(member.plan.session, member.plan.data),
            "loss": member.plan.loss.model_dump(),
            "weight": member.settings.weight,
            "sources": member.settings.sources,
            "layer_map": config.distill.layer_map,
            "answers": f"cache ({config.cache.mode})" if config.cache.enabled else "memory",
        }
    return describe_weights(plan.session.config.teachers) | {"members": members}


def keep_manifest(plan: TrainingPlan, resume: bool) -> None:
    """Note the teachers of the student in the run's folder.

    Args:
        resume: something is there that is gone on with.

    Raises:
        UserError: it had other teachers.
    """
    run, manifest = plan.session.run, describe_committee(plan)
    if resume and (run.path / MANIFEST_FILE).is_file():
        check_manifest(run.path, manifest)
    run.write_json(MANIFEST_FILE, manifest)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write it beside the weights of a checkpoint."""
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))


def check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint with other teachers.

    Raises:
        UserError: naming what differs.
    """
    path = folder / MANIFEST_FILE
    before = json.loads(path.read_text()) if path.is_file() else {"members": {}}
    if difference := describe_change(before, manifest):
        raise UserError(
            f"resume: expected the teachers of {folder.name}, got others ({difference}); give back those, or start "
            "over: leave out --resume, or set RESUME = False"
        )


def describe_change(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Name what differs between two manifests; empty for nothing."""
    names = before["members"].keys(), now["members"].keys()
    changes = [f"{name} is gone" for name in names[0] - names[1]] + [f"{name} is new" for name in names[1] - names[0]]
    shared = names[0] & names[1]
    old, new = (
        flatten({**manifest, "members": {name: manifest["members"][name] for name in sorted(shared)}})
        for manifest in (before, json.loads(json.dumps(now)))
    )
    changes += [
        f"{key.removeprefix('members.')}: {old.get(key)} -> {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    return "; ".join(changes)
