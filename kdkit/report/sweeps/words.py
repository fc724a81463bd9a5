"""The words of a sweep's report: what every variant and every setting came to, and how its numbers are written."""

from typing import Any

from kdkit.report.evidence import MIN_STEPS, too_few_steps
from kdkit.report.tables import write_number

MOST_NAMED = 6
"""Variants of one kind that a conclusion names."""


def conclusion(sweep: dict[str, Any]) -> str:
    """State the result of the whole sweep, also when it shows nothing."""
    tested = [e for e in sweep["variants"] if e["difference"] and e["difference"]["p"] is not None]
    if not tested:
        return "Nothing can be concluded yet: a test needs the reference and another variant on at least two seeds."
    groups: dict[str, list[str]] = {"Better": [], "Worse": [], "Not distinguishable": []}
    for entry in tested:
        groups[side_of(entry["difference"], sweep["level"])].append(entry["name"])
    best = max(tested, key=lambda entry: entry["difference"]["mean"])
    if reason := too_few_steps(max(entry.get("steps", MIN_STEPS) for entry in tested)):
        return (
            f"Too short to tell which variant is better: {reason}. The best mean difference so far is "
            f"{write_gain(sweep, best['difference']['mean'])} ({best['name']})."
        )
    unsure = ", which is not distinguishable" * (best["name"] in groups["Not distinguishable"])
    level, unit = write_level(sweep, entry_of(sweep, sweep["reference"])["mean"]), sweep["measure"]["name"]
    return (
        f"{len(tested)} variants against the reference ({sweep['reference']}, {level} {unit}). "
        + "".join(f"{side}: {_list(names)}. " for side, names in groups.items())
        + f"The best mean difference is {write_gain(sweep, best['difference']['mean'])} ({best['name']}{unsure})."
    )


def how_to_read(sweep: dict[str, Any]) -> list[tuple[str, str]]:
    """Return terms and what they mean, for a reader who has this page alone."""
    is_score, count = sweep["measure"]["is_score"], sweep["num_comparisons"]
    level = "the mean score of the tasks in percent, the higher the better"
    bits = "how many bits a model needs for one byte of text that it has never seen, the fewer the better"
    corrected = f", corrected because there are {count} comparisons" if count > 1 else ""
    return [
        (sweep["measure"]["name"].capitalize(), f"{level if is_score else bits}."),
        (
            "In pairs of one seed",
            "a seed changes text, first weights and order of reading for all variants alike. Levels of different seeds "
            "may lie far apart; what counts is by how much a variant is better than the reference with the same seed.",
        ),
        (
            "Better, worse, not distinguishable",
            f"what a paired t test over seeds says{corrected}. Not distinguishable does not mean equal: of few seeds "
            "only large differences can be seen.",
        ),
    ]


def _list(names: list[str]) -> str:
    """List the names of a few variants; of many say how many they are."""
    return f"{len(names)} variants" if len(names) > MOST_NAMED else "; ".join(names) or "none"


def against_reference(entry: dict[str, Any], sweep: dict[str, Any]) -> str:
    """State how a variant compares with the reference, from the corrected test."""
    difference = entry["difference"]
    if entry["mean"] is None:
        return "Not trained."
    if entry["name"] == sweep["reference"]:
        return "The reference."
    if difference is None:
        return "Shares no finished seed with the reference."
    if difference["p"] is None:
        side = "better" if difference["mean"] > 0 else "worse"
        gap = write_level(sweep, abs(difference["mean"]))
        edges = difference.get("interval_95_over_text")
        drawn = sweep["measure"]["drawn"].removesuffix(" of all seeds")
        over = "" if edges is None else f" ({' to '.join(write_gain(sweep, edge) for edge in edges)} over the {drawn})"
        return f"{gap} {side} than the reference on one seed{over}; a test needs at least two."
    low, high = difference["interval_95"]
    count, missing = difference["num_pairs"], len(difference["per_seed"]) - difference["num_pairs"]
    partly = f" Only {count} of {count + missing} seeds are trained." if missing else ""
    if low == high == 0:
        return f"The same figures as the reference on every seed: what it changes had no effect.{partly}"
    mean, low_words, high_words = (write_gain(sweep, value) for value in (difference["mean"], low, high))
    gain = f"{mean} {sweep['measure']['name']} ({low_words} to {high_words})"
    if reason := too_few_steps(entry.get("steps")):
        return f"Too short to tell: {reason}; so far {gain}.{partly}"
    side = "better" if difference["mean"] > 0 else "worse"
    gain += f", {side} on {_seeds_of(difference, 1 if side == 'better' else -1)}"
    is_close = difference["p"] < sweep["level"] <= difference["p_corrected"]
    only = f"; alone it would count, but not among {sweep['num_comparisons']} comparisons" * is_close
    return f"{side_of(difference, sweep['level'])}: {gain}{only}.{partly}"


def unseen_sentence(sweep: dict[str, Any]) -> str:
    """State how large a difference had to be to be seen; empty where nothing was tested."""
    widths = [
        (high - low) / 2
        for entry in sweep["variants"]
        if (low_high := (entry["difference"] or {}).get("interval_95")) is not None and low_high[1] > low_high[0]
        for low, high in [low_high]
    ]
    if not widths:
        return ""
    least, most = write_level(sweep, min(widths)), write_level(sweep, max(widths))
    between = least if least == most else f"{least} to {most}"
    count = len(sweep["seeds"])
    return (
        f"In brackets: the 95 % interval over seeds. With {count} seeds, mean differences below {between} "
        f"{sweep['measure']['name']} stay unseen{', depending on the variant' * (least != most)}: not distinguishable "
        "does not mean equal."
    )


def cost_sentence(sweep: dict[str, Any]) -> str:
    """State that seconds say nothing where the seeds of a variant differ as much in them as the variants do."""
    seconds = [
        [value for value in entry.get("seconds", []) if value is not None]
        for entry in sweep["variants"]
        if entry["mean_seconds"] is not None
    ]
    spreads = sorted(max(values) - min(values) for values in seconds if len(values) > 1)
    means = [sum(values) / len(values) for values in seconds if values]
    if not spreads or max(means) - min(means) > spreads[len(spreads) // 2]:
        return ""
    return (
        "The seeds of one variant differ in seconds as much as the variants do: that one of them is cheaper is not "
        "shown here."
    )


def effect_sentences(sweep: dict[str, Any]) -> list[str]:
    """State for every setting of a grid which of its values differ from the reference's, all others averaged over."""
    if "effects" in sweep and (reason := too_few_steps(max(entry["steps"] or 0 for entry in sweep["variants"]))):
        return [f"Too short to tell: {reason}."]
    sentences = []
    for effect in sweep.get("effects", []):
        home, unit = effect["names"][effect["reference"]], sweep["measure"]["name"]
        found = []
        for name, value in zip(effect["names"], effect["values"], strict=True):
            if value["p_corrected"] is not None and value["p_corrected"] < sweep["level"]:
                side = "better" if value["mean"] > 0 else "worse"
                low, gap, high = (
                    write_level(sweep, n) for n in sorted(map(abs, (value["mean"], *value["interval_95"])))
                )
                found.append(f"{name} is {side} than {home} by {gap} {unit} ({low} to {high})")
        tested = any(value["p_corrected"] is not None for value in effect["values"])
        nothing = f"no value differs from {home} by more than seeds explain" if tested else "too few seeds for a test"
        sentences.append(f"{effect['key']}: {'; '.join(found) or nothing}.")
    return sentences


def side_of(difference: dict[str, Any], level: float) -> str:
    """State the direction of a tested difference, if it has one once corrected."""
    if difference["p_corrected"] >= level:
        return "Not distinguishable"
    return "Better" if difference["mean"] > 0 else "Worse"


def _seeds_of(difference: dict[str, Any], sign: int) -> str:
    """State on how many of the shared seeds a difference has this sign."""
    count = sum(value * sign > 0 for value in difference["per_seed"] if value is not None)
    total = difference["num_pairs"]
    return "every seed" if count == total else "no seed" if count == 0 else f"{count} of {total} seeds"


def write_level(sweep: dict[str, Any], value: float | None) -> str:
    """Write a level."""
    return write_number(value, f"{{:.{sweep['measure']['digits']}f}}")


def write_gain(sweep: dict[str, Any], value: float | None) -> str:
    """Write a difference of levels."""
    return write_number(value, f"{{:+.{sweep['measure']['digits']}f}}")


def entry_of(sweep: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a variant's figures."""
    return next(entry for entry in sweep["variants"] if entry["name"] == name)


def write_probability(p: float | None) -> str:
    """Write a p value."""
    return "<0.001" if p is not None and p < 0.001 else write_number(p, "{:.3f}")
