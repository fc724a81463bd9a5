"""The comparison of runs in 05: runs, metric and filter are chosen, and the tables are those of `compare_runs`."""

import pytest
from IPython.display import Markdown

from kdkit.errors import UserError
from kdkit.report.explore import runs as explored
from kdkit.report.explore.runs import choose_runs, draw_runs, list_runs, metrics_of, read_metrics, show_runs
from kdkit.workflow.several.compare import compare_runs
from tests.comparable import BITS, add_run
from tests.report.test_page import make_run


@pytest.fixture
def folder(tmp_path):
    """The runs a, b and <b>odd</b>, of which the last cannot be compared."""
    finished = make_run(tmp_path / "finished").path
    run = add_run(tmp_path, finished, "a")
    add_run(tmp_path, finished, "b", BITS - 0.1, **{"distill.temperature": 4.0})
    odd = add_run(tmp_path, finished, "<b>odd<b>")
    (odd.path / "evaluation.json").unlink()
    odd.append_metrics({"phase": "student", "step": 8, "seconds": 4.0, "surprise": 1.0})
    return run


@pytest.fixture
def drawn(monkeypatch):
    """Keep what is drawn."""
    figures = []

    def keep(figure):
        figures.append(figure)
        return b"%d" % len(figures)

    monkeypatch.setattr(explored, "to_png", keep)
    return figures


@pytest.fixture
def widgets(folder, drawn):
    """The widgets by their names."""
    box = choose_runs(folder, [], compare_runs, folder.path.parent)
    reference, part, others, metric, over, message, picture, tables = box.children
    return {
        "reference": reference,
        "filter": part,
        "runs": others,
        "metric": metric,
        "over": over,
        "message": message,
        "picture": picture,
        "tables": tables,
    }


def curves(figure):
    """Return the names and the points of what is drawn."""
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in figure.axes[0].lines}


def test_the_curve_of_the_run_stands_alone_until_another_is_chosen(widgets, drawn):
    assert list(curves(drawn[-1])) == ["a", "a, baseline"]
    assert "Choose runs" in widgets["tables"].value
    widgets["runs"].value = ("b",)
    assert list(curves(drawn[-1])) == ["a", "a, baseline", "b", "b, baseline"]
    assert "B (b) against A (a): " in widgets["tables"].value
    assert "distill.temperature" in widgets["tables"].value


def test_a_run_that_trains_only_its_teacher_so_far_says_that_it_has_no_curve_yet(folder, drawn, tmp_path):
    young = add_run(tmp_path, make_run(tmp_path / "other").path, "young")
    (young.path / "metrics.jsonl").write_text('{"phase": "teacher", "step": 4, "seconds": 2.0, "loss": 3.0}\n')
    for begins_with in (folder, young):
        box = choose_runs(begins_with, [], compare_runs, folder.path.parent)
        reference, _, _, metric, _, message, picture, _ = box.children
        reference.value = "young"
        assert "student or baseline has begun to train, got young" in message.value
        assert metric.value is None and picture.value == b""
        reference.value = "a"
        assert message.value == "" and "evaluation_bits_per_byte" in metric.value and picture.value


def test_a_run_without_metrics_can_be_where_one_begins(folder, drawn):
    (folder.path / "metrics.jsonl").unlink()
    box = choose_runs(folder, [], compare_runs, folder.path.parent)
    assert box.children[0].value == "a" and "got a" in box.children[5].value


def test_the_reference_is_the_run_that_is_chosen(widgets):
    widgets["reference"].value = "b"
    widgets["runs"].value = ("a",)
    assert "B (a) against A (b): " in widgets["tables"].value


def test_any_metric_of_the_chosen_runs_is_drawn_over_steps_or_seconds(widgets, drawn):
    assert widgets["metric"].value == "evaluation_bits_per_byte"
    assert curves(drawn[-1])["a"] == [(2, 2.8), (4, 2.6)]
    widgets["over"].value = "seconds"
    assert curves(drawn[-1])["a"] == [(1.0, 2.8), (2.0, 2.6)]
    assert "surprise" not in dict(widgets["metric"].options).values()
    widgets["runs"].value = ("<b>odd<b>",)
    widgets["metric"].value = "surprise"
    assert curves(drawn[-1]) == {"<b>odd<b>": [(4.0, 1.0)]}
    widgets["runs"].value = ()
    assert widgets["metric"].value == "evaluation_bits_per_byte"


def test_runs_that_cannot_be_compared_are_drawn_and_the_reason_is_one_escaped_line(widgets, drawn):
    widgets["runs"].value = ("<b>odd<b>",)
    assert "<b>odd<b>" in curves(drawn[-1])
    told = widgets["tables"].value
    assert "not evaluated yet" in told and "&lt;b&gt;odd" in told and "<b>odd" not in told and "\n" not in told
    widgets["runs"].value = ("b",)
    assert "against" in widgets["tables"].value


def test_the_filter_keeps_what_is_chosen(widgets):
    assert widgets["runs"].options == ("<b>odd<b>", "a", "b")
    widgets["runs"].value = ("b",)
    widgets["filter"].value = "ODD"
    assert widgets["runs"].options == ("<b>odd<b>", "b") and widgets["runs"].value == ("b",)
    widgets["filter"].value = ""
    assert len(widgets["runs"].options) == 3


def test_only_trained_runs_of_the_same_kind_are_offered(folder):
    beside = folder.path.parent
    for name, config in (("empty", "seed: 1\n"), ("broken", "a: [\n"), ("vectors", "method: kdeep\n")):
        (beside / name).mkdir()
        (beside / name / "config.yaml").write_text(config)
        if name != "empty":
            (beside / name / "metrics.jsonl").write_text("")
    assert list_runs(folder) == ["<b>odd<b>", "a", "b"]


def test_a_path_names_a_run_of_another_folder(folder, tmp_path):
    other = add_run(tmp_path / "other", folder.path, "c").path
    assert list(read_metrics(folder, [str(other), "b"])) == [str(other), "b"]
    assert read_metrics(folder, [str(other)])[str(other)] == read_metrics(folder, ["a"])["a"]


def test_an_untrained_start_is_not_drawn(folder):
    folder.append_metrics({"phase": "student", "step": 0, "seconds": 0.0, "evaluation_bits_per_byte": 8.0})
    metrics = read_metrics(folder, ["a"])
    assert metrics_of(metrics)[0] == "evaluation_bits_per_byte"
    assert [step for step, _ in curves(draw_runs(metrics, "evaluation_bits_per_byte", "step"))["a"]] == [2, 4]


def test_nobody_watching_sees_the_comparison_that_was_asked_for(folder, monkeypatch):
    beside = folder.path.parent
    assert "COMPARE" in show_runs(folder, [], compare_runs, beside).data
    assert isinstance(show_runs(folder, [], compare_runs, beside), Markdown)
    asked = show_runs(folder, ["b"], compare_runs, beside).data
    assert "<img alt='learning curves'" in asked and "B (b) against A (a)" in asked
    with pytest.raises(UserError, match="expected a run in"):
        show_runs(folder, ["nowhere"], compare_runs, beside)
    monkeypatch.setattr(explored, "is_watched", lambda: True)
    shown = show_runs(folder, ["b"], compare_runs, beside)
    assert shown._repr_mimebundle_()["text/html"] == asked
    assert shown.box.children[2].value == ("b",)
