"""What the pictures of layers, loss parts, router and experts show, read back from the figures themselves."""

import pytest

from kdkit.report.figures import draw_layer_map, draw_loss_parts, draw_overlap
from kdkit.report.page import write_report
from kdkit.report.router import draw_router, effects_table
from tests.report.test_page import make_run


def texts(axes):
    """Return the words written into a panel."""
    return [text.get_text() for text in axes.texts]


def titles(figure):
    """Return the titles of all panels."""
    return [axes.get_title() for axes in figure.axes]


def test_a_line_joins_every_pair_of_the_layer_map(run, drawn):
    facts = {"student_layers": 2, "teacher_layers": 3, "pairs": [[0, 0], [1, 2]], "used_by": ["attention"]}
    run.write_json("teacher/layer_map.json", facts)
    draw_layer_map(run)
    axes = drawn["layer_map.png"].axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[0, 0], [1, 1]]
    assert texts(axes) == ["0", "1", "0", "1", "2"]
    assert axes.get_title() == "layers compared by: attention"
    # the teacher's middle layer teaches nobody, so it is not filled
    assert axes.texts[3].get_color() != "white" and axes.texts[4].get_color() == "white"


def test_a_layer_map_that_nothing_uses_says_so(run, drawn):
    run.write_json(
        "teacher/layer_map.json", {"student_layers": 1, "teacher_layers": 1, "pairs": [[0, 0]], "used_by": []}
    )
    draw_layer_map(run)
    assert "no part of the loss in this run" in drawn["layer_map.png"].axes[0].get_title()


def append_parts(run, *names):
    for step in (1, 2):
        values = {f"{name}_{kind}": step * scale for name in names for kind, scale in (("loss", 1), ("weighted", 0.1))}
        run.append_metrics({"phase": "student", "step": step, "loss": 3.0} | values)


def test_parts_are_drawn_raw_one_by_one_and_weighted_together(run, drawn):
    append_parts(run, "kd", "attention")
    draw_loss_parts(run)
    *raw, weighted = drawn["loss_parts.png"].axes
    assert [list(axes.lines[0].get_ydata()) for axes in raw] == [[1, 2], [1, 2]]
    assert [list(line.get_ydata()) for line in weighted.lines] == [[0.1, 0.2]] * 2
    assert titles(drawn["loss_parts.png"]) == ["predictions, raw", "attention, raw", "all, as weighted in the loss"]


def test_where_only_predictions_count_there_are_no_parts_to_draw(run, drawn):
    append_parts(run, "kd")
    assert draw_loss_parts(run) is None and not drawn


def test_the_overlap_is_drawn_where_it_was_measured(run, drawn):
    append_parts(run, "kd")
    assert draw_overlap(run) is None and not drawn
    for step in (3, 4):
        values = {"share": 0.1 * step, "teacher_mass": 0.2 * step, "student_mass": 0.15 * step, "entropy_gap": 1 - step}
        run.append_metrics({"phase": "student", "step": step} | {f"overlap_{name}": v for name, v in values.items()})
    draw_overlap(run)
    share, mass, gap = drawn["overlap.png"].axes
    assert [list(axes.lines[0].get_ydata()) for axes in (share, mass, gap)] == [
        pytest.approx([0.3, 0.4]),
        pytest.approx([0.6, 0.8]),
        [-2, -3],
    ]
    assert [text.get_text() for text in mass.get_legend().get_texts()] == ["teacher", "student (distilled)"]


def append_routes(run, layers=2, **figures):
    for step in (4, 8):
        line = {"phase": "router", "step": step, "shares": [[0.25, 0.75], *[[0.5, 0.5]] * (layers - 1)]}
        run.append_metrics(line | {name: values[step // 8] for name, values in figures.items()})


def test_the_router_is_drawn_with_all_that_it_recorded(run, drawn):
    pairs = {"student_loss": (4.0, 3.5), "gap": (1.0, 0.9), "capacity_moved": (0.0, 0.2), "gap_moved": (0.0, 0.1)}
    drift = {"kl_to_initial": ([0.0, 0.2], [0.1, 0.5]), "teacher_loss": (2.0, 2.1)}
    append_routes(run, top_k=(1, 2), temperature=(2.0, 1.0), **pairs, **drift)
    draw_router(run)
    panels = {axes.get_title(): axes for axes in drawn["router.png"].axes}
    assert len(panels) == 7
    for layer, middles in enumerate(([0.125, 0.625], [0.25, 0.75])):
        shares = panels[f"share of each source, layer {layer} of 0-1"]
        assert texts(shares) == [" 0", " 1"] and [text.get_position()[1] for text in shares.texts] == middles
    measured = panels["capacity (loss) and gap, nats"]
    got = {line.get_label(): list(line.get_ydata()) for line in measured.lines}
    assert got == {"the student's loss": [4.0, 3.5], "gap to the teacher": [1.0, 0.9]}
    kl = [list(line.get_ydata()) for line in panels["KL to the initial routing, nats"].lines]
    assert kl == [[0.0, 0.1], [0.2, 0.5], pytest.approx([0.1, 0.3])]


def test_the_effect_of_each_part_is_a_row_of_a_table(run):
    assert effects_table(run) is None
    row = {"part": "gap", "mixture_kl": 0.01234, "tokens_rerouted": 0.5, "signal_moved": 0.071}
    row |= {"bits_per_byte": 2.0624, "bits_per_byte_without": 2.0591}
    run.write_json("router_effects.json", {"parts": [row]})
    headings, rows = effects_table(run)
    assert rows == [["gap", "0.0123", "50.0%", "2.062", "2.059", "7.1%"]] and len(headings) == 6


def test_a_kind_of_routing_that_trains_nothing_shows_its_shares_only(run, drawn):
    append_routes(run, layers=1)
    draw_router(run)
    assert titles(drawn["router.png"]) == ["share of each source"]


def test_of_many_layers_the_first_the_last_and_some_between_are_drawn(run, drawn):
    append_routes(run, layers=28)
    draw_router(run)
    layers = [title.split("layer ")[1] for title in titles(drawn["router.png"])]
    assert layers == [f"{layer} of 0-27" for layer in (0, 5, 11, 16, 22, 27)]


def test_nothing_is_drawn_of_a_router_that_there_was_not(run, drawn):
    append_parts(run, "kd")
    assert draw_router(run) is None and not drawn


def test_the_page_shows_parts_layers_and_router_where_there_are_some(tmp_path, drawn):
    run = make_run(tmp_path)
    headings = "Parts of the teacher&#39;s signal", "Which layers were compared", "How the teacher was routed"
    page = write_report(run).read_text()
    assert not any(heading in page for heading in headings)
    run.write_json(
        "teacher/layer_map.json", {"student_layers": 1, "teacher_layers": 1, "pairs": [[0, 0]], "used_by": []}
    )
    run.append_metrics(
        run.read_metrics()[0] | {"step": 6, "kd_weighted": 0.1, "feature_loss": 1.0, "feature_weighted": 0.1}
    )
    append_routes(run)
    page = write_report(run).read_text()
    assert all(f"<strong>{heading}.</strong>" in page for heading in headings)
