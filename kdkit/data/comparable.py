"""What tokenizers lose of a run's text, in words: whether a teacher can read it, and whose scores can be compared."""

from collections.abc import Mapping
from typing import Any

from kdkit.errors import UserError

CHANGED_SHARE = 0.001
"""Share of the bytes changed from which bits per byte are those of another, easier text."""
UNKNOWN_SHARE = 0.1
"""Share of the bytes read as unknown tokens from which a teacher has nothing to say about a text."""


def describe_changed(facts: Mapping[str, Any]) -> str:
    """Say which tokenizers read another text than the one that stands there; empty if none does.

    Args:
        facts: `Windows.describe()`.
    """
    shares = {side: facts.get(f"{side}_changed_share", 0.0) for side in ("teacher", "student")}
    parts = [
        f"the {side}'s tokenizer changes {share:.1%} of the text's bytes before it reads them (case, accents or spaces)"
        for side, share in shares.items()
        if share > CHANGED_SHARE
    ]
    return " and ".join(parts)


def why_not_comparable(facts: Mapping[str, Any], side: str) -> str | None:
    """Say why the bits per byte of a side cannot be compared with those of the other; None if they can."""
    own = {f"{side}_changed_share": facts.get(f"{side}_changed_share", 0.0)}
    reason = describe_changed(own)
    return f"{reason}: bits per byte of an easier text" if reason else None


def check_readable(facts: Mapping[str, Any]) -> None:
    """Refuse a teacher that reads much of the text as unknown tokens.

    Raises:
        UserError: it does.
    """
    share = facts.get("teacher_unknown_share", 0.0)
    if share > UNKNOWN_SHARE:
        raise UserError(
            f"teacher.path: expected a teacher whose tokenizer can read the text, got one that reads {share:.0%} of "
            "its bytes as unknown tokens; choose a teacher of this language, or name a loss: distill.loss=alm"
        )
