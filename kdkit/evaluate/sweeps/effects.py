"""Effects of the settings of a grid: what each value does on average over the values of all others.

A main effect of a value is how much better the runs with it are than those with the reference's value of the same
setting, all else equal. Every seed gives one difference, so the interval is over seeds, as for variants.
"""

from dataclasses import asdict
from typing import Any

from kdkit.evaluate.significance import correct_for_comparisons, paired_t_test


def add_effects(sweep: dict[str, Any]) -> None:
    """Add the effects of a grid's settings to the figures of its sweep, in place.

    Adds `num_effects` (tests that p values are corrected for) and `effects`, one entry per axis: `key`, `names` of its
    values, `reference` (place of its value) and `values`. Those hold `level` (mean of all runs with that value, None
    where one is missing), and of the gain over the reference's value, above 0 where it is better, `per_seed`, `mean`,
    `interval_95`, `p` and `p_corrected`.

    Args:
        sweep: what `compare_variants` returns, with `settings` in every variant and `grid`: `key`, `values` and `names`
            of every axis.
    """
    by_settings = {_key(entry["settings"]): entry for entry in sweep["variants"]}
    reference = next(e["settings"] for e in sweep["variants"] if e["name"] == sweep["reference"])
    effects = []
    for axis in sweep["grid"]:
        home = axis["values"].index(reference[axis["key"]])
        values = [_against(sweep, by_settings, axis["key"], value, axis["values"][home]) for value in axis["values"]]
        effects.append({"key": axis["key"], "names": axis["names"], "reference": home, "values": values})
    tested = [v for e in effects for i, v in enumerate(e["values"]) if i != e["reference"] and v["p"] is not None]
    for value, p in zip(tested, correct_for_comparisons([value["p"] for value in tested]), strict=True):
        value["p_corrected"] = p
    sweep["effects"] = effects
    sweep["num_effects"] = len(tested)


def _against(
    sweep: dict[str, Any], by_settings: dict[str, dict[str, Any]], key: str, value: Any, home: Any
) -> dict[str, Any]:
    """Compare the runs with one value of a setting with those with another, over the same values of all others."""
    sign = 1 if sweep["measure"]["is_score"] else -1
    with_value = [entry for entry in sweep["variants"] if entry["settings"][key] == value]
    pairs = [(entry["levels"], by_settings[_key(entry["settings"] | {key: home})]["levels"]) for entry in with_value]
    per_seed: list[float | None] = []
    for seed in range(len(sweep["seeds"])):
        levels = [(mine[seed], other[seed]) for mine, other in pairs]
        # only seeds with the whole grid: a mean over other combinations would compare those
        whole = all(mine is not None and other is not None for mine, other in levels)
        per_seed.append(sign * sum(mine - other for mine, other in levels) / len(levels) if whole else None)
    shared = [gain for gain in per_seed if gain is not None]
    known = [entry["mean"] for entry in with_value]
    found = {"level": None if None in known else sum(known) / len(known), "per_seed": per_seed, "p_corrected": None}
    test = asdict(paired_t_test(shared)) if shared else {"mean": None, "interval": None, "p": None}
    return found | {"mean": test["mean"], "interval_95": test["interval"], "p": test["p"]}


def _key(settings: dict[str, Any]) -> str:
    return repr(sorted(settings.items()))
