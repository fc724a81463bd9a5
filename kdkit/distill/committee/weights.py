"""Who teaches what: the weight of every teacher at every piece of text."""

import numpy as np

from kdkit.config.teachers import MemberConfig, TeachersConfig
from kdkit.data.many.kinds import kinds_of_pieces
from kdkit.data.prepare import PreparedData
from kdkit.data.windows import PAD, Windows
from kdkit.distill.committee.scores import PieceScores, bytes_of_pieces
from kdkit.distill.committee.text_router import guess_losses
from kdkit.distill.plan import TrainingPlan
from kdkit.runs.messages import note


def share_out(plan: TrainingPlan, scores: list[PieceScores], asked: list[int]) -> np.ndarray:
    """Return the weights of all teachers at the pieces of the training windows, fp32, `[num_windows, D, K]`.

    Args:
        scores: one per teacher, where `needs_scores` says so; else empty.
        asked: numbers of the windows that the scores are of.
    """
    settings, kinds = plan.session.config.teachers, kinds_in(plan.data, plan.data.train)
    names = plan.data.kinds.names if plan.data.kinds is not None else ()
    given = given_weights([member.settings for member in plan.members], kinds, names)
    if not scores:
        return normalise(given).astype(np.float32)
    if settings.combine == "select":
        losses = np.stack([score.loss for score in scores], axis=-1)
        if settings.select_by == "router":
            losses, agreement = guess_losses(plan.data.train, losses, given, asked, len(plan.data.student_tokenizer))
            note(
                f"router: teachers asked about {len(asked):,} training sequences; the best one found in "
                f"{agreement:.1%} of those kept from it"
            )
        return select(given, losses).astype(np.float32)
    per_byte = bytes_of_pieces(plan.data.train)[..., None]
    opinions = -np.stack([getattr(score, settings.score) for score in scores], axis=-1) / per_byte
    return weigh(given, opinions, settings.alpha).astype(np.float32)


def kinds_in(data: PreparedData, windows: Windows) -> np.ndarray:
    """Return the kind of every piece of the training windows, int64, `[num_windows, D]`; 0 where there are none."""
    if data.kinds is None:
        return np.zeros((len(windows), max(1, windows.pieces.shape[1])), np.int64)
    return kinds_of_pieces(windows, data.kinds.train)


def given_weights(members: list[MemberConfig], kinds: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """Return the weights of the settings, float64, `[num_windows, D, K]`: 0 for kinds that a teacher does not teach.

    Args:
        kinds: of every piece.
        names: of the kinds; empty: every teacher teaches all.
    """
    table = np.array(
        [
            [member.weight * (not member.sources or name in member.sources) for member in members]
            for name in names or ("",)
        ]
    )
    return np.where((kinds == PAD)[..., None], 0.0, table[np.maximum(kinds, 0)])


def normalise(weights: np.ndarray) -> np.ndarray:
    """Divide weights by their sum over the teachers; 0 stays where there are none."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def select(weights: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return 1 for the teacher with the lowest loss among those with a weight, 0 for the others.

    Args:
        weights: `[..., K]`.
        losses: nats of the same text, so that teachers of any tokenizers compare, `[..., K]`.
    """
    best = np.where(weights > 0, losses, np.inf).argmin(axis=-1)
    return (np.arange(weights.shape[-1]) == best[..., None]) * (weights > 0)


def weigh(weights: np.ndarray, scores: np.ndarray, alpha: float) -> np.ndarray:
    """Return `weights * exp(alpha * score)`, divided by the sum over the teachers; weights of 0 stay.

    Args:
        weights: `[..., K]`; all equal: `softmax(alpha * score)`.
        scores: `[..., K]`.
    """
    with np.errstate(divide="ignore"):
        logits = np.where(weights > 0, np.log(weights) + alpha * scores, -np.inf)
    highest = logits.max(axis=-1, keepdims=True)
    return normalise(np.exp(logits - np.where(np.isfinite(highest), highest, 0.0)))


def describe_weights(settings: TeachersConfig) -> dict[str, object]:
    """Return the settings that decide the weights, for a manifest."""
    facts: dict[str, object] = {"combine": settings.combine}
    if settings.combine == "select":
        facts["select_by"] = settings.select_by
    if facts.get("select_by") == "router":
        facts["asked_share"] = settings.asked_share
    if settings.combine == "dynamic":
        facts |= {"score": settings.score, "alpha": settings.alpha}
    return facts
