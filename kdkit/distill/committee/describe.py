"""What a person wants to know of several teachers before they teach (notebook 07)."""

from typing import Any

from kdkit.distill.plan import TrainingPlan


def describe_members(plan: TrainingPlan) -> list[dict[str, Any]]:
    """Return a row for every teacher: its tokenizer beside the student's, its loss and its weight."""
    rows = []
    for member in plan.members:
        facts, settings = member.plan.data.manifest, member.settings
        rows.append(
            {
                "teacher": member.name,
                "model": settings.path,
                "trained on": ", ".join(settings.trained_on) or "-",
                "vocabulary": f"{facts['vocabulary']['teacher']:,}",
                "entries the student has": f"{facts['vocabulary']['common'] / facts['vocabulary']['teacher']:.0%}",
                "shared prefixes": f"{facts['train']['same_prefix_share']:.0%}",
                "loss": member.plan.loss.name,
                "weight": f"{settings.weight:g}",
                "teaches": ", ".join(settings.sources) or "all",
                "answers": "kept in a file" if member.plan.session.config.cache.enabled else "in memory",
            }
        )
    return rows
