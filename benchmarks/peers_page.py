"""The generated part of docs/peers.md: tables from results of benchmarks/peers_table.py and benchmarks/scaling.py."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.measure import PEERS

ROOT = Path(__file__).parent.parent
PAGE, RESULTS = ROOT / "docs" / "peers.md", Path(__file__).parent / "results"
BEGIN, END = "<!-- made by python -m benchmarks.peers_table -->", "<!-- end of what is made -->"
Rounds = list[dict[str, Any]]
"""What an arm gave, round by round; an arm that could not run gave `left_out`, the reason."""

TITLES = {
    "divergences": "Losses on the student's head",
    "gkd": "A training step, one tokenizer",
    "tokenizers": "A training step, two tokenizers",
    "tokenizers, equal time": "Quality at equal time, two tokenizers",
    "plain": "A training step without a teacher",
    "records": "Records of a teacher's answers",
    "embeddings": "A training step of an embedding student, from vectors",
    "embeddings, lists": "A training step of an embedding student, from scores of lists",
}
KINDS = {
    "kl": "KL(teacher, student)",
    "jsd": "Jensen-Shannon",
    "top64": "KL, 64 tokens kept, the rest one event",
    "top64_renormalised": "KL, 64 tokens kept, renormalised",
}
STEP = "cpu_seconds_per_step"


def number(value: float) -> str:
    """Write a figure with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(rounds: Rounds, base: Rounds, key: str) -> str:
    """Return the median over the rounds of ratios within a round, and their range."""
    found = [mine[key] / other[key] for mine, other in zip(rounds, base, strict=False)]
    if len(found) == 1:
        return f"{found[0]:.2f}"
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def middle(rounds: Rounds, key: str) -> float:
    """Return the median over the rounds."""
    return statistics.median(found[key] for found in rounds)


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Write a table in Markdown."""
    header = list(header)
    lines = [header, ["---"] * len(header), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ran(arms: dict[str, Rounds]) -> dict[str, Rounds]:
    """Return the arms that ran in every round."""
    return {name: rounds for name, rounds in arms.items() if all("left_out" not in found for found in rounds)}


def compared(arms: dict[str, Rounds], base: str, key: str) -> str:
    """Write seconds and memory of all arms beside those of one of them."""
    found = ran(arms)
    if base not in found:
        return f"{base} has not been measured."
    rows = [
        [
            name if name != base else f"**{name}**",
            number(middle(rounds, key)),
            ratio(rounds, found[base], key) if name != base else "1",
            number(middle(rounds, "peak_mb")),
            ratio(rounds, found[base], "peak_mb") if name != base else "1",
        ]
        for name, rounds in found.items()
    ]
    return table(["", "processor seconds", f"to {base}'s", "memory, MB", f"to {base}'s"], rows)


def divergence_tables(arms: dict[str, Rounds]) -> str:
    """Write a table of every loss, with how far a library's loss and gradients lie from kdkit's."""
    parts = []
    for kind, title in KINDS.items():
        if f"{kind}, kdkit" not in arms:
            continue
        own = {name.removeprefix(f"{kind}, "): rounds for name, rounds in arms.items() if name.startswith(f"{kind}, ")}
        found, base = ran(own), own["kdkit"]
        if kind == "kl" and "products" in arms:
            found = {"matrix products alone": arms["products"], **found}
        rows = []
        for name, rounds in found.items():
            keys = ("loss", "hidden_gradient", "head_gradient")
            apart = max(abs(rounds[0][key] / base[0][key] - 1) for key in keys)
            rows.append(
                [
                    f"**{name}**" if name == "kdkit" else name,
                    number(middle(rounds, "cpu_seconds")),
                    "1" if name == "kdkit" else ratio(rounds, base, "cpu_seconds"),
                    number(middle(rounds, "peak_mb")),
                    "1" if name == "kdkit" else ratio(rounds, base, "peak_mb"),
                    "" if name in ("kdkit", "matrix products alone") else f"{apart:.0e}" if apart else "0",
                ]
            )
        header = [title, "processor seconds", "to kdkit's", "memory, MB", "to kdkit's", "loss, gradients apart"]
        parts.append(table(header, rows))
    return "\n\n".join(parts)


def quality_table(arms: dict[str, Rounds]) -> str:
    """Write bits per byte of every kind and seed."""
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    for name, rounds in ran(arms).items():
        kind, seed = name.rsplit(", seed ", 1)
        kinds.setdefault(kind, {})[seed] = rounds[0]
    seeds = sorted({seed for found in kinds.values() for seed in found})
    rows = []
    for kind, found in kinds.items():
        cells = [
            f"{found[seed]['bits_per_byte']:.3f} ({found[seed]['steps']})" if seed in found else "" for seed in seeds
        ]
        values = [one["bits_per_byte"] for one in found.values()]
        mean = f"{statistics.fmean(values):.3f}" if len(values) == len(seeds) else ""
        rows.append([f"**{kind}**" if kind.startswith("kdkit") else kind, *cells, mean])
    levels = {seed: one["teacher_bits_per_byte"] for found in kinds.values() for seed, one in found.items()}
    values = [levels[seed] for seed in seeds]
    rows.append(["the teacher itself", *(f"{value:.3f}" for value in values), f"{statistics.fmean(values):.3f}"])
    return table(["bits per byte (steps)", *(f"seed {seed}" for seed in seeds), "mean"], rows)


def record_table(arms: dict[str, Rounds]) -> str:
    """Write bytes, speed and errors of records."""
    keys = ("bytes", "cpu_seconds", "read_cpu_seconds", "reconstruction", "loss error", "gradient error")
    rows = [
        [f"**{name}**" if name.startswith("kdkit") else name, *(number(middle(rounds, key)) for key in keys)]
        for name, rounds in ran(arms).items()
    ]
    header = ["1,024 positions", "bytes a position", "to write, s", "to read, s", "KL, nats", "loss off by, nats"]
    return table([*header, "gradient off by, relative"], rows)


def scaling_table(rows: list[dict[str, Any]]) -> str:
    """Write exponents, and how far from the floor a side is at the smallest and the largest size."""
    cells = []
    for row in rows:
        sizes, away = row["sizes"], row["times the products"]
        power = "" if row["exponent"] is None else f"{row['exponent']:.2f} ± {row['half_interval']:.2f}"
        cells.append(
            [
                f"{row['axis']}, {sizes[0]:,} to {sizes[-1]:,}",
                row["side"],
                f"{number(row['seconds'][0])} to {number(row['seconds'][-1])}",
                power,
                "" if row["side"] == "products" else f"{away[0]:.2f} to {away[-1]:.2f}",
                "" if row["side"] == "products" else f"{number(row['peak_mb'][0])} to {number(row['peak_mb'][-1])}",
            ]
        )
    return table(["grows", "side", "processor seconds", "exponent", "to the products alone", "memory, MB"], cells)


WRITERS = {
    "divergences": divergence_tables,
    "gkd": lambda arms: compared(arms, "kdkit", STEP),
    "tokenizers": lambda arms: compared(arms, "kdkit projected_kl", STEP),
    "tokenizers, equal time": quality_table,
    "plain": lambda arms: compared(arms, "kdkit", STEP),
    "records": record_table,
    "embeddings": lambda arms: compared(arms, "kdkit cosine", STEP),
    "embeddings, lists": lambda arms: compared(arms, "kdkit margin_mse", STEP),
}


def write_group(name: str, group: dict[str, Any]) -> str:
    """Write a group: where and when, its table, and what could not run."""
    arms, machine = group["arms"], group["machine"]
    counts = {len(rounds) for rounds in arms.values()}
    facts = f"{group['date']}, {machine['processor']}, {machine['cores']} cores, one thread, rounds: {max(counts)}"
    text = f'### {TITLES[name]}\n\n`python -m benchmarks.peers_table --only "{name}"`, {facts}.\n\n'
    text += WRITERS[name](arms)
    reasons = {arm: found["left_out"] for arm, rounds in arms.items() for found in rounds if "left_out" in found}
    return text + "".join(f"\n\nLeft out: {arm}: {reason}" for arm, reason in reasons.items())


def all_versions(found: dict[str, Any]) -> dict[str, str]:
    """Return the versions that any process has reported."""
    rows = [row for group in found.values() for rounds in group["arms"].values() for row in rounds]
    return {name: version for row in rows for name, version in row.get("versions", {}).items()}


def make_part(found: dict[str, Any], scaling: dict[str, Any] | None) -> str:
    """Write all that is made: groups in the order of TITLES, then scaling."""
    shown, packages = ("python", "torch", "transformers", *PEERS), all_versions(found)
    parts = [", ".join(f"{name} {packages[name]}" for name in shown if name in packages) + "."]
    parts += [write_group(name, found[name]) for name in TITLES if name in found]
    if scaling:
        facts = f"`python -m benchmarks.scaling`, {scaling['date']}, rounds: {scaling['rounds']}."
        parts += ["### Scaling", facts, "![Processor seconds of a step over its size](scaling.png)"]
        parts.append(scaling_table(scaling["rows"]))
    return "\n\n".join(parts)


def write_page(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Put the tables between the marks of the page; what stands around them is kept."""
    measured = json.loads((results / "peers_table.json").read_text())
    file = results / "scaling.json"
    scaling = json.loads(file.read_text()) if file.is_file() else None
    before, rest = page.read_text().split(BEGIN)
    after = rest.split(END)[1]
    part = make_part(measured["groups"], scaling)
    page.write_text(f"{before}{BEGIN}\n\n{part}\n\n{END}{after}")
