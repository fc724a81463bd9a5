"""Tables and sentences about a run, from its JSON files: the words of notebook 04, the page and the card."""

import re
from typing import Any, Literal

from kdkit.report.evidence import too_short
from kdkit.report.gap import LEVEL, is_level, write_gap, write_share
from kdkit.report.writing import HIGHER, LOWER, Best, mark_best, plain_html, plain_markdown
from kdkit.runs.curves import LABELS

Table = tuple[list[str], list[list[str]]]
"""Column headings, and rows of the same length."""
NUMBER = re.compile(r"[-+±]?[\d,]*\.?\d+\*?( ?%)?( ?(±|to) ?[-+]?[\d,]*\.?\d+( ?%)?)?")
"""A cell that is a number, or an interval of two."""
MISSING = "-"
"""Stands in a table where there is no number."""
NOTABLE_PADDING = 0.01
"""Share of padding from which on a table shows it."""
EQUAL_TIMES = {
    "baseline_equal_time": "the teacher's answers counted",
    "baseline_answers_reused": "answers used again, as in a sweep",
}
"""Baselines that were given the student's wall time."""


def comparison_table(evaluation: dict[str, Any]) -> Table:
    """Put every model side by side: quality, retention, cost."""
    headings = ["", *(LABELS[name] for name in evaluation["models"])]
    bits, overlap = _bits(evaluation), f"top-{_top_k(evaluation)} overlap with the teacher"
    rows = [
        _judge(evaluation, f"{bits} {LOWER}", _format_bits(evaluation), _values(evaluation, "bits_per_byte")),
        _judge(evaluation, f"perplexity (own tokens) {LOWER}", *_cells(evaluation, "perplexity", "{:.1f}")),
        _retention_row(evaluation, f"KL to the teacher, nats {LOWER}", "kl_to_teacher", "{:.3f}"),
        _retention_row(evaluation, f"{overlap} {HIGHER}", "top_k_overlap", "{:.1%}"),
        _retention_row(evaluation, f"attention like the teacher's {HIGHER}", "attention_similarity", "{:.3f}"),
        _row(evaluation, "parameters", "parameters", "{:,}"),
        _row(evaluation, _size_label(evaluation), "size_bytes", "{:.2f}", 1e-6),
        _row(evaluation, f"tokens per second {HIGHER}", "tokens_per_second", "{:,.0f}"),
        _row(evaluation, f"text read, kB per second {HIGHER}", "bytes_per_second", "{:,.0f}", 1e-3),
        _row(evaluation, f"peak memory, MB {LOWER}", "peak_memory_bytes", "{:.1f}", 1e-6),
        _row(evaluation, f"text written, tokens per second {HIGHER}", "generation.tokens_per_second", "{:,.0f}"),
        _row(evaluation, f"peak memory while writing, MB {LOWER}", "generation.peak_memory_bytes", "{:.1f}", 1e-6),
        _row(evaluation, "training steps", "training.steps", "{:,}"),
        _row(evaluation, "training seconds", "training.seconds", "{:.1f}"),
    ]
    return headings, rows


def compression_table(evaluation: dict[str, Any]) -> Table:
    """Say how many times smaller and faster than the teacher the student is."""
    compression = evaluation["compression"]
    interval = compression.get("speed_interval_95")
    over_rounds = MISSING if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
    rows = [
        [f"parameters, times fewer {HIGHER}", write_number(compression["parameters"], "{:.1f}"), "exact"],
        [f"{_size_label(evaluation)}, times smaller {HIGHER}", write_number(compression["size"], "{:.1f}"), "exact"],
        [f"text read per second, times more {HIGHER}", f"{compression['speed']:.1f}", over_rounds],
    ]
    return ["student against teacher", "ratio", "95 % interval over rounds"], rows


def cost_table(evaluation: dict[str, Any]) -> Table:
    """List seconds and tokens by item, and padding where there is any; no rows for a run of an older build."""
    costs = evaluation.get("costs", [])
    is_padded = any(cost.get("padding_share", 0.0) >= NOTABLE_PADDING for cost in costs)
    rows = []
    for cost in costs:
        name = LABELS.get(cost["item"], cost["item"])
        label = f"in it: {name}" if cost["part_of"] else name
        figures = write_number(cost["seconds"], "{:,.1f}"), write_number(cost["tokens"], "{:,}")
        rows.append([label, *figures, *([_write_padding(cost)] if is_padded else [])])
    return ["item", "seconds", "tokens read", *(["padding beside them"] if is_padded else [])], rows


def _write_padding(cost: dict[str, Any]) -> str:
    """Write the share of padding of a training, and what it would be in micro-batches of one size."""
    mine, ungrouped = (cost.get(f"padding_share{end}") for end in ("", "_ungrouped"))
    without = f" (in micro-batches of one size {ungrouped:.0%})" if ungrouped and ungrouped != mine else ""
    return write_number(mine, "{:.0%}") + without


def equal_time_table(evaluation: dict[str, Any]) -> Table:
    """Compare the student with the baselines that were given its wall time, its teacher's answers counted or not."""
    rows = []
    for name, label in EQUAL_TIMES.items():
        if (difference := evaluation["differences"].get(name)) is not None:
            entry = evaluation["models"][name]
            rows.append(
                [
                    label,
                    f"{entry['training']['steps']:,}",
                    write_number(entry["training"].get("seconds"), "{:.1f}"),
                    f"{entry['bits_per_byte']:.3f}",
                    f"{difference['bits_per_byte']:+.3f}",
                    write_interval(difference["interval_95"], 3),
                    write_share(difference, MISSING),
                    write_interval(difference.get("gap_closed_interval_95"), 2),
                ]
            )
    headings = ["equal wall time", "steps", "seconds", f"bits per byte {LOWER}"]
    headings += [f"student better by {HIGHER}", "95 % interval", f"gap closed {HIGHER}", "95 % interval of it"]
    return headings, rows


def continuations_table(evaluation: dict[str, Any], count: int) -> Table:
    """Put the models' continuations of the same openings side by side."""
    names = list(evaluation["models"])
    rows = [[entry["prompt"], *(entry[name] for name in names)] for entry in evaluation["continuations"][:count]]
    return ["opening (held-out text)", *(LABELS[name] for name in names)], rows


def routing_table(probe: dict[str, Any]) -> Table:
    """Show how well a mixture predicts when it is routed otherwise than it was trained; no rows for a dense teacher."""
    rows = [
        [row["routing"], f"{row['perplexity']:.2f}", f"{row['bits_per_byte']:.3f}"] for row in probe["by_routing"] or []
    ]
    return ["experts", "perplexity", "bits per byte"], rows


def language_verdict(evaluation: dict[str, Any]) -> str:
    """State whether distillation beat the baseline, and by how much, also when it did not or nobody can tell yet."""
    student = evaluation["models"]["student"]["bits_per_byte"]
    baseline = evaluation["models"]["baseline"]["bits_per_byte"]
    difference = evaluation["differences"]["baseline"]
    low, high = difference["interval_95"]
    gain = difference["bits_per_byte"]
    numbers = (
        f"{student:.3f} against {baseline:.3f} {_bits(evaluation)}, a difference of {gain:+.3f} "
        f"(95 % interval over {_what_was_resampled(evaluation)} {low:+.3f} to {high:+.3f}; above 0 favours the student)"
    )
    if reason := too_short(evaluation):
        return f"Too short to tell whether distillation helped: {reason}. So far {numbers}."
    if low > 0:
        saving = difference.get("saving_interval_95")
        between = "" if saving is None else f" ({saving[0]:.1%} to {saving[1]:.1%})"
        result = f"Distillation beat the baseline: {numbers}, {gain / baseline:.1%}{between} fewer bits."
    elif high < 0:
        result = f"Distillation did not beat the baseline, it lost to it: {numbers}."
    else:
        result = f"Too close to tell whether distillation helped: {numbers}, which includes no difference."
    return f"{result} {_gap_sentence(evaluation)}{_equal_time_sentence(evaluation)}"


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Turn rows with the same keys into a table."""
    return list(rows[0]) if rows else [], [[str(value) for value in row.values()] for row in rows]


def write_number(value: float | None, pattern: str) -> str:
    """Write a number by a pattern such as `{:.2f}`."""
    return MISSING if value is None else pattern.format(value)


def write_interval(edges: list[float] | None, digits: int) -> str:
    """Write an interval of differences, with signs."""
    return MISSING if edges is None else f"{edges[0]:+.{digits}f} to {edges[1]:+.{digits}f}"


def write_value(value: object) -> str:
    """Write a value with as many digits as a person reads."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def column_sides(table: Table) -> list[Literal["left", "right"]]:
    """Return where each column's cells stand: numbers on the right, digit below digit, all else on the left."""
    columns = [
        [row[place] for row in table[1] if row[place] not in ("", MISSING, LEVEL)] for place in range(len(table[0]))
    ]
    return ["right" if column and all(map(NUMBER.fullmatch, column)) else "left" for column in columns]


def to_html(table: Table) -> str:
    """Render a table as HTML, everything escaped, the best values bold."""
    headings, rows = table
    head = "".join(f"<th>{html_cell(cell)}</th>" for cell in headings)
    body = "".join("<tr>" + "".join(f"<td>{html_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def to_markdown(table: Table) -> str:
    """Render a table as Markdown: whatever a cell holds reads as plain text of one line, the best values bold."""
    headings, rows = table
    rules = [":---" if side == "left" else "---:" for side in column_sides(table)]
    lines = [[plain_markdown(cell) for cell in headings], rules]
    lines += [[_markdown_cell(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def html_cell(cell: str) -> str:
    """Escape a cell for HTML; the best value is bold."""
    text = re.sub(rf" ([{LOWER}{HIGHER}])", r"&nbsp;\1", plain_html(cell))  # an arrow stays with its word
    return f"<strong>{text}</strong>" if isinstance(cell, Best) else text


def _markdown_cell(cell: str) -> str:
    # a line of a table begins with its bar: no sign begins a list or a heading
    text = plain_markdown(f"|{cell}").removeprefix("\\|").strip()
    return f"**{text}**" if isinstance(cell, Best) else text


def _gap_sentence(evaluation: dict[str, Any]) -> str:
    """State which share of the gap was closed."""
    teacher, closed = evaluation["models"]["teacher"]["bits_per_byte"], evaluation["gap_closed"]
    reasons = [reason for entry in evaluation["models"].values() if (reason := entry.get("not_comparable"))]
    if closed is None and reasons:
        return f"The teacher ({teacher:.3f}*) is not comparable, so no gap is measured. * {reasons[0]}."
    if closed is None:
        return f"The teacher ({teacher:.3f}) is no better than the baseline, so there is no gap to close."
    share = f"{closed:.2f} of the gap to the teacher ({teacher:.3f}) at equal steps"
    scale = "1 is the teacher, 0 the baseline."
    if "gap_closed_interval_95" not in evaluation:  # of an older build
        return f"It closed {share}; {scale}"
    if is_level(evaluation):
        gap = f" (the teacher is better by {found})" if (found := write_gap(evaluation)) else ""
        return f"Teacher ({teacher:.3f}) and baseline are level{gap}, so there is no gap whose share could be told."
    low, high = evaluation["gap_closed_interval_95"]
    between = f"95 % interval {low:.2f} to {high:.2f}; {scale}"
    if low <= 0 <= high:
        return f"That it closed any of the gap is not shown: {share}, {between}"
    return f"It closed {share}, {between}" if low > 0 else f"It closed none of the gap: {share}, {between}"


def _what_was_resampled(evaluation: dict[str, Any]) -> str:
    """Name what the intervals were drawn over; whole documents, where there are enough of them."""
    facts = evaluation["evaluated"]
    over = facts.get("intervals_over", "evaluation windows")
    if over == "documents":
        return f"{facts['interval_units']} documents"
    return over if "intervals_over" not in facts else f"{over}, as documents are too few, too unequal or unknown,"


def _equal_time_sentence(evaluation: dict[str, Any]) -> str:
    """Compare with the baselines that were given the student's wall time."""
    sentences = ""
    for name, start in {
        "baseline_equal_time": "At equal wall time (answers of the teacher counted) the baseline takes",
        "baseline_answers_reused": "Where answers are used again, as in a sweep, it takes",
    }.items():
        if (difference := evaluation["differences"].get(name)) is None:
            continue
        entry, (low, high) = evaluation["models"][name], difference["interval_95"]
        result = "still better than" if low > 0 else "worse than" if high < 0 else "no different from"
        sentences += (
            f" {start} {entry['training']['steps']:,} steps and reaches {entry['bits_per_byte']:.3f}: the student is "
            f"{result} it ({difference['bits_per_byte']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f})."
        )
    return sentences


def _size_label(evaluation: dict[str, Any]) -> str:
    """Name the dtype in which sizes are compared, whatever the models were loaded in."""
    dtype = evaluation["models"]["student"].get("size_dtype")
    return f"weights in {dtype}, MB" if dtype else "weights, MB"


def _top_k(evaluation: dict[str, Any]) -> int:
    return evaluation["retention"]["student"]["top_k"]


def _values(evaluation: dict[str, Any], key: str) -> list[float | None]:
    """Return a figure of every model; `group.key` reaches into a group that not every model has."""
    group, _, inner = key.rpartition(".")
    return [(entry.get(group, {}) if group else entry).get(inner) for entry in evaluation["models"].values()]


def _row(evaluation: dict[str, Any], label: str, key: str, pattern: str, scale: float = 1) -> list[str]:
    """Write a figure of every model behind its label; what a model costs is nobody's merit, and not marked."""
    return [label, *_cells(evaluation, key, pattern, scale)[0]]


def _cells(
    evaluation: dict[str, Any], key: str, pattern: str, scale: float = 1
) -> tuple[list[str], list[float | None]]:
    """Write a figure of every model; return the cells and the values."""
    values = _values(evaluation, key)
    return [write_number(None if value is None else value * scale, pattern) for value in values], values


def _retention_row(evaluation: dict[str, Any], label: str, key: str, pattern: str) -> list[str]:
    """Write what the students keep of the teacher."""
    retention = evaluation["retention"]
    values = [retention[name][key] if name in retention else None for name in evaluation["models"]]
    return _judge(evaluation, label, [write_number(value, pattern) for value in values], values)


def _judge(evaluation: dict[str, Any], label: str, cells: list[str], values: list[float | None]) -> list[str]:
    """Mark the best student of a row, by its label's arrow: the teacher is no competitor."""
    good = LOWER if label.endswith(LOWER) else HIGHER
    return [label, *mark_best(cells, values, good, [name != "teacher" for name in evaluation["models"]])]


def _bits(evaluation: dict[str, Any]) -> str:
    """Name the measure by what was scored: of conversations only what is in the loss."""
    scored = {"answers": " of answers", "last": " of last answers", "all": " of messages"}
    return "bits per byte" + scored.get(evaluation["evaluated"].get("loss_on"), "")


def _format_bits(evaluation: dict[str, Any]) -> list[str]:
    """Write bits per byte, with a star where they are those of another text."""
    entries = evaluation["models"].values()
    return [f"{entry['bits_per_byte']:.3f}" + "*" * bool(entry.get("not_comparable")) for entry in entries]
