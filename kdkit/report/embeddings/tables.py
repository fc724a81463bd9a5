"""Tables and sentences about a run of embedding models, from its JSON files.

What the fields of evaluation.json are stands at `kdkit.embeddings.evaluate.models.evaluate_embeddings`.
"""

from typing import Any

from kdkit.report.tables import MISSING, Table, write_interval, write_number, write_value
from kdkit.report.writing import HIGHER, LOWER, Best

COLLAPSED = 0.9
"""Mean cosine of different sentences above which a model hardly tells them apart."""
RANKING_COLUMNS = (
    ["nDCG@10", "MRR@10", "recall@100", "MAP", "bytes per document"],
    ["ndcg", "reciprocal_rank", "recall", "average_precision", "bytes_per_document"],
)
"""Headings and fields of the figures of rankings."""
TRAINED = ("student", "compared")


def label(name: str, entry: dict[str, Any]) -> str:
    """Return what a model is called in tables; one that is not there carries the reason."""
    if "skipped" in entry:
        return f"{name} ({entry['skipped']})"
    return {"teacher": "teacher", "untrained": "student, untrained", "student": f"student: {name}"}.get(
        entry["role"], name
    )


def score_table(evaluation: dict[str, Any]) -> Table:
    """Put every model's main scores side by side; the best of the trained ones are marked."""
    tasks = evaluation["tasks"]
    headings = ["", f"average {HIGHER}", f"share of the teacher's {HIGHER}"]
    headings += [f"{name}, {task['metric']} {HIGHER}" for name, task in tasks.items()]
    headings += [f"sentences per second {HIGHER}", "parameters"]
    best = _best(evaluation)
    rows = []
    for name, entry in evaluation["models"].items():
        if "skipped" in entry:
            rows.append([label(name, entry)] + [MISSING] * (len(headings) - 1))
            continue
        numbers = {"average": {"main": entry["average"], "interval_95": entry["interval_95"]}} | entry["tasks"]
        average, *scores = (
            _score_cell(numbers[key]["main"], numbers[key]["interval_95"], entry["role"] in TRAINED, best[key])
            for key in ("average", *tasks)
        )
        cost = [_count(entry["sentences_per_second"]), _count(entry["parameters"])]
        rows.append([label(name, entry), average, _percent(entry["share_of_teacher"]), *scores, *cost])
    return headings, rows


def detail_tables(evaluation: dict[str, Any]) -> dict[str, Table]:
    """Return all numbers of every kind of task that the run has, by a heading."""
    tables = {
        "Similarity": ("sts", ["Spearman", "Pearson"], ["spearman", "pearson"]),
        "Classification": (
            "classification",
            ["n-shot accuracy", "over draws", "n-shot macro F1", "full probe accuracy", "full probe macro F1"],
            ["n_shot.accuracy", "n_shot.deviation", "n_shot.macro_f1", "full_probe.accuracy", "full_probe.macro_f1"],
        ),
        "Pairs": (
            "pairs",
            ["average precision", "accuracy", "F1", "precision", "recall", "oracle threshold's accuracy"],
            ["average_precision", "accuracy", "f1", "precision", "recall", "oracle_accuracy"],
        ),
        "Retrieval": ("retrieval", *RANKING_COLUMNS),
        "Reranking": ("reranking", *RANKING_COLUMNS),
    }
    return {
        heading: (["task", "model", *names], rows)
        for heading, (kind, names, keys) in tables.items()
        if (rows := _detail_rows(evaluation, kind, keys))
    }


def student_difference_table(evaluation: dict[str, Any]) -> Table:
    """List how far the student is from every other model, and on how many tasks that is beyond chance."""
    headings = ["student minus", "average", "95 % interval", "tasks better", "tasks worse", "undecided"]
    rows = []
    for name, found in evaluation["differences"].items():
        average, intervals = found["average"], [task["interval_95"] for task in found["tasks"].values()]
        better, worse = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
        numbers = [f"{average['difference']:+.2f}", write_interval(average["interval_95"], 2)]
        counts = [str(better), str(worse), str(len(intervals) - better - worse)]
        rows.append([label(name, evaluation["models"][name]), *numbers, *counts])
    return headings, rows


def model_table(evaluation: dict[str, Any]) -> Table:
    """List every model's cost, settings, and how near its view of held-out sentences is to the teacher's."""
    headings = ["", "layers", "width", "weights, MB", "pooling", "longest input", "computed in"]
    headings += [f"mean cosine of different sentences {LOWER}", f"similarities like the teacher's {HIGHER}"]
    headings += [f"same nearest sentence {HIGHER}"]
    rows = []
    for name, entry in evaluation["models"].items():
        if "skipped" in entry:
            continue
        kept, cosine = entry["agreement"] or {}, entry["mean_off_diagonal_cosine"]
        rows.append(
            [
                label(name, entry),
                _count(entry["num_layers"]),
                str(entry["width"]),
                MISSING if entry["size_bytes"] is None else f"{entry['size_bytes'] / 1e6:.1f}",
                entry["pooling"] or MISSING,
                MISSING if entry["max_length"] is None else f"{entry['max_length']} tokens",
                f"{entry['precision']}, {entry['device']}" if entry["precision"] else entry["device"],
                MISSING if cosine is None else f"{cosine:.3f}",
                _number(kept.get("similarity_spearman")),
                _percent(kept.get("same_neighbour_share")),
            ]
        )
    return headings, rows


def dimension_table(evaluation: dict[str, Any]) -> Table:
    """Show the average over tasks of the students' vectors cut and stored in fewer bytes; no rows where none were."""
    points = stored_scores(evaluation)
    widths = sorted({width for line in points.values() for width in line})
    rows = []
    for (name, storage), line in points.items():
        cells = [f"{line[width][1]:.2f} ({line[width][0]:,} B)" if width in line else MISSING for width in widths]
        entry = evaluation["models"][name]
        kept = 1.0 if storage == "float32" else entry["nearest_kept"][storage]
        rows.append([label(name, entry), storage, *cells, _percent(kept)])
    headings = [f"average over tasks {HIGHER}", "stored as", *(f"{width} numbers" for width in widths)]
    return [*headings, f"nearest ten found {HIGHER}"], rows


def stored_scores(evaluation: dict[str, Any]) -> dict[tuple[str, str], dict[int, tuple[int, float]]]:
    """Return bytes per sentence and the average over tasks, by width, of every student and way of storing.

    Empty where neither smaller widths nor quantised vectors were scored.
    """
    found: dict[tuple[str, str], dict[int, tuple[int, float]]] = {}
    for name, entry in evaluation["models"].items():
        tasks = list(entry.get("tasks", {}).values())
        if not any("dimensions" in numbers or "quantised" in numbers for numbers in tasks):
            continue
        full = [numbers.get("dimensions", {}) | {str(entry["width"]): numbers["main"]} for numbers in tasks]
        by_storage = {"float32": full}
        by_storage |= {key: [numbers["quantised"][key] for numbers in tasks] for key in tasks[0].get("quantised", {})}
        for storage, scores in by_storage.items():
            found[name, storage] = {
                int(width): (bytes_of(int(width), storage), sum(score[width] for score in scores) / len(scores))
                for width in sorted(scores[0], key=int)
            }
    return found


def search_table(evaluation: dict[str, Any]) -> Table:
    """Show nDCG@10 of the students' searches among stored documents; no rows without a retrieval task or storage."""
    lines: list[tuple[str, str, str, dict[str, float]]] = []
    for task, facts in evaluation["tasks"].items():
        for name, entry in evaluation["models"].items():
            numbers = entry.get("tasks", {}).get(task, {})
            if facts["kind"] != "retrieval" or not ("dimensions" in numbers or "quantised" in numbers):
                continue
            by_storage = {"float32": numbers.get("dimensions", {}) | {str(entry["width"]): numbers["main"]}}
            by_storage |= numbers.get("quantised", {})
            by_storage |= {"binary, rescored": numbers["rescored"]} if "rescored" in numbers else {}
            lines += [(task, label(name, entry), storage, scores) for storage, scores in by_storage.items()]
    widths = sorted({int(width) for *_, scores in lines for width in scores})
    rows = [
        [task, model, storage, *(_stored_cell(scores.get(str(width)), width, storage) for width in widths)]
        for task, model, storage, scores in lines
    ]
    return ["task", "model", "stored as", *(f"nDCG@10 {HIGHER}, {width} numbers" for width in widths)], rows


def _stored_cell(score: float | None, width: int, storage: str) -> str:
    """Write a score and the bytes of a vector."""
    return MISSING if score is None else f"{score:.2f} ({bytes_of(width, storage.split(',')[0]):,} B)"


def mteb_table(results: dict[str, Any], evaluation: dict[str, Any]) -> Table:
    """Put the scores of mteb.json beside those of the run's tasks of the same name; no rows where it has none."""
    rows = []
    for model, tasks in results.items():
        own = next((entry for entry in evaluation.get("models", {}).values() if entry["role"] == model), {})
        for task, score in tasks.items():
            ours = own.get("tasks", {}).get(task)
            cells = [f"{score['main']:.2f}", MISSING if ours is None else f"{ours['main']:.2f}"]
            rows.append([task, model, score["metric"], *cells, score["splits"], score["revision"][:12]])
    return ["task", "model", "score", "by mteb", "by kdkit", "split", "revision"], rows


def bytes_of(width: int, storage: str) -> int:
    """Return the bytes of one vector: of 4-byte numbers, of bytes, or of bits."""
    return {"float32": 4 * width, "int8": width, "binary": -(-width // 8)}[storage]


def task_table(evaluation: dict[str, Any]) -> Table:
    """List what every task's score was measured on."""
    headings = ["", "score", "rows", "rows to fit on", "source", "revision"]
    rows = [
        [
            name,
            task["metric"],
            f"{task['rows']:,}",
            write_number(task["fit_rows"], "{:,}"),
            task["source"],
            (task["revision"] or MISSING)[:12],
        ]
        for name, task in evaluation["tasks"].items()
    ]
    return headings, rows


def training_table(trainings: dict[str, Any]) -> Table:
    """Show what every training took, from training.json."""
    headings = ["", "start", "steps", "seconds", "ms per step", "sentences per second"]
    headings += ["peak MB", "skipped steps", "collapsed"]
    rows = [
        [
            name,
            str(entry["start"]),
            f"{entry['steps']:,}",
            f"{entry['seconds']:,.1f}",
            f"{entry['milliseconds_per_step']:,.1f}",
            f"{entry['sentences_per_second']:,.0f}",
            f"{entry['peak_memory_bytes'] / 1e6:,.0f}",
            str(entry["skipped_steps"]),
            "yes" if entry["collapsed"] else "no",
        ]
        for name, entry in trainings.items()
    ]
    return headings, rows


def facts_table(facts: dict[str, Any]) -> Table:
    """Turn names and values into a table of two columns; groups of values are opened, lists left out."""
    rows: list[list[str]] = []
    for name, value in facts.items():
        if isinstance(value, dict):
            rows += [[f"{name}: {inner}", text] for inner, text in facts_table(value)[1]]
        elif name.endswith("_bytes") and isinstance(value, int | float):
            rows.append([f"{name.removesuffix('_bytes')}, MB", f"{value / 1e6:,.1f}"])
        elif not isinstance(value, list):
            rows.append([name, _readable(value)])
    return ["", ""], [[name.replace("_", " "), text] for name, text in rows]


def find_model(evaluation: dict[str, Any], role: str) -> tuple[str, dict[str, Any]]:
    """Return name and entry of the one model with a role."""
    return next((name, entry) for name, entry in evaluation["models"].items() if entry["role"] == role)


def _best(evaluation: dict[str, Any]) -> dict[str, str]:
    """Return the highest main score of the trained models, as it is written, per task and on average."""
    trained = [entry for entry in evaluation["models"].values() if entry["role"] in TRAINED]
    best = {task: max(entry["tasks"][task]["main"] for entry in trained) for task in evaluation["tasks"]}
    best["average"] = max(entry["average"] for entry in trained)
    return {key: _number(value) for key, value in best.items()}


def _score_cell(score: float, interval: list[float], is_trained: bool, best: str) -> str:
    """Write a score with half the width of its interval; bold where it is the best of the trained ones."""
    text = _number(score)
    cell = f"{text} \u00b1 {(interval[1] - interval[0]) / 2:.1f}"
    return Best(cell) if is_trained and text == best else cell


def _detail_rows(evaluation: dict[str, Any], kind: str, keys: list[str]) -> list[list[str]]:
    """Return a row for every task of a kind and every model; keys reach into groups by a dot."""
    rows = []
    for task, facts in evaluation["tasks"].items():
        for name, entry in evaluation["models"].items():
            if facts["kind"] == kind and "skipped" not in entry:
                numbers = entry["tasks"][task]
                cells = [numbers.get(key) if "." not in key else _inner(numbers, *key.split(".")) for key in keys]
                rows.append([task, label(name, entry), *map(_number, cells)])
    return rows


def _inner(numbers: dict[str, Any], group: str, key: str) -> float:
    return numbers[group][key]


def _number(value: float | None) -> str:
    return write_number(value, "{:.2f}")


def _count(value: float | None) -> str:
    """Write a whole number; None is not known, of a teacher that is a file of vectors."""
    return MISSING if value is None else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return write_number(share, "{:.1%}")


def _readable(value: object) -> str:
    """Write a value for a person."""
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return write_value(value)
