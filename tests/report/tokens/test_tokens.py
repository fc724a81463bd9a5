"""Tokens as a person reads them, and the pictures of notebook 08: what is drawn is what the files hold."""

import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from kdkit.errors import UserError
from kdkit.report.tokens.attention import distance_of, draw_attention, draw_masks, reach_of, show_surprise
from kdkit.report.tokens.figures import (
    compression_table,
    draw_compression,
    draw_merges,
    drawable,
    merges_table,
)
from kdkit.report.tokens.words import (
    DIVIDER,
    colour_tokens,
    counts_table,
    divide_tokens,
    read_piece,
    show_tokens,
    use_table,
    write_piece,
)
from tests.tiny import make_run

TOKENS = ["The", " na", b"\xc3", b"\xaf", "ve", "\n<b>", "\u4e2d"]
BYTES = [token if isinstance(token, bytes) else token.encode() for token in TOKENS]
COMPRESSION = {
    "docs": {"own": [[512, 1.5], [1024, 2.0]], "others": {"student": [700, 1.75], "gpt2": [50257, 3.0]}},
    "code": {"own": [[512, 1.25], [1024, 1.5]], "others": {"student": [700, 1.375], "gpt2": [50257, 2.0]}},
}


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path)


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were saved."""
    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *rest, **more: (figures.append(figure), save(figure, *rest, **more))
    )
    return figures


def texts_of(figure):
    """Return all that is written into the panels of a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize(
    ("piece", "read", "written"),
    [
        (b" the", " the", "\u2423the"),
        (b"\xc3", "<c3>", "<c3>"),
        (b"\xe4\xb8", "<e4><b8>", "<e4><b8>"),
        ("caf\u00e9\n".encode(), "caf\u00e9\n", "caf\u00e9\u23ce"),
        (b"\x1b\x00", "<1b><00>", "<1b><00>"),
        ("\u200d".encode(), "<e2><80><8d>", "<e2><80><8d>"),
        (b"", "", ""),
    ],
)
def test_a_piece_is_visible_whatever_its_bytes(piece, read, written):
    assert (read_piece(piece), write_piece(piece)) == (read, written)


def test_tokens_are_divided_or_coloured_in_turn():
    assert divide_tokens(BYTES[:3]) == f"The{DIVIDER} na{DIVIDER}<c3>"
    coloured = colour_tokens([b"a", b"b", b"c", b"d", b"e"])
    colours = re.findall(r"48;5;(\d+)m", coloured)
    assert len(set(colours)) == 4 and colours[0] == colours[4] and coloured.endswith("\x1b[0m")
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == "abcde"


def test_a_line_end_in_a_token_stays_one_and_no_colour_crosses_it():
    first, second = colour_tokens([b"a\nb"]).split("\n")
    assert first.endswith("\u23ce\x1b[0m") and second.startswith("\x1b[30;48;5;")


def test_tokens_of_a_notebook_are_escaped_and_counted():
    page = show_tokens({"mine": BYTES}).data
    assert "&lt;b&gt;" in page and "<b>mine</b>: 7 tokens, 2.43 bytes per token" in page
    assert page.count("<span") == 7


def test_the_table_of_use_names_a_change_of_the_text_only_where_there_is_one():
    use = {"bytes_per_token": 3.0, "tokens_per_word": 1.5, "num_tokens": 1200, "entries_used": 5, "entries": 1000}
    use |= {"inner_token_share": 0.0, "unknown_share": 0.5, "changed_share": 0.0}
    headings, rows = use_table({"x": use})
    assert rows == [["x", "3.000", "1.50", "1,200", "5 of 1,000", "0.00%", "50.00%"]] and len(headings) == 7
    assert use_table({"x": use | {"changed_share": 0.25}})[1][0][-1] == "25.00%"


def test_the_most_and_the_least_used_stand_beside_each_other():
    _, rows = counts_table([(b" a", 30), (b"b", 10)], [(b"z", 1)], 40)
    assert rows == [["1", "\u2423a", "30", "75.0%", "z", "1"], ["2", "b", "10", "25.0%", "", ""]]


def test_every_step_of_the_merges_is_a_row_with_its_tokens(run, drawn):
    steps = [
        {"vocab_size": 257, "merges": 0, "tokens": [bytes([byte]).hex() for byte in "na\u00efve".encode()]},
        {"vocab_size": 300, "merges": 43, "tokens": [b"na".hex(), "\u00efve".encode().hex()]},
    ]
    run.write_json("merges.json", {"text": "na\u00efve", "steps": steps, "merges": []})
    assert draw_merges(run).stat().st_size > 0
    assert texts_of(drawn[0]) == ["n", "a", "c3", "af", "v", "e", "na", "\u00efve"]
    labels = [label.get_text() for axes in drawn[0].axes for label in axes.get_yticklabels()]
    assert labels == ["0 merges", "43 merges", "6 tokens", "2 tokens"]
    widths = [round(bar.get_width() + 0.12) for bar in drawn[0].axes[0].patches]
    assert widths == [1] * 6 + [2, 4]


def test_a_tokenizer_without_merges_has_no_picture(run):
    run.write_json("merges.json", {"text": "a", "steps": [], "merges": []})
    assert draw_merges(run) is None and merges_table(run) is None


def test_merges_are_listed_by_what_they_join(run):
    merge = {"number": 1000, "left": b" t".hex(), "right": b"he".hex(), "piece": b" the".hex()}
    run.write_json("merges.json", {"text": "a", "steps": [], "merges": [merge]})
    assert merges_table(run)[1] == [["1,000", "\u2423t", "he", "\u2423the"]]


def test_compression_has_a_line_for_each_kind_and_a_mark_for_each_tokenizer(run, drawn):
    run.write_json("compression.json", COMPRESSION)
    assert draw_compression(run).stat().st_size > 0
    lines = [list(map(list, line.get_xydata())) for line in drawn[0].axes[0].lines]
    assert lines == [facts["own"] for facts in COMPRESSION.values()]
    marks = [
        list(map(float, mark.get_offsets()[0])) for mark in drawn[0].axes[0].collections if len(mark.get_offsets())
    ]
    assert marks == [place for facts in COMPRESSION.values() for place in facts["others"].values()]
    headings, rows = compression_table(run)
    assert headings == ["bytes per token", "docs", "code"]
    assert rows[1] == ["own, 1,024 entries", "2.000", "1.500"] and rows[3] == ["gpt2, 50,257 entries", "3.000", "2.000"]


@pytest.fixture
def inside(run):
    """Two layers, one with a window of 3; two heads, of which one looks at itself and one at the start."""
    causal = np.tril(np.ones((8, 8), bool))
    maps = np.zeros((2, 2, 4, 4), np.float32)
    maps[:, 0] = np.eye(4)
    maps[:, 1, :, 0] = 1
    np.savez(run.path / "inside.npz", maps=maps, seen=np.stack([causal & ~np.tril(causal, -3), causal]))
    facts = {"text_tokens": ["", *(token.hex() for token in BYTES[:3])], "window_tokens": [b"ab".hex(), b"<".hex()]}
    run.write_json("inside.json", facts | {"bits": [0.0, 24.0]})
    return run


def test_the_masks_name_the_window_of_each_layer(inside, drawn):
    assert draw_masks(inside).stat().st_size > 0
    assert [axes.get_title() for axes in drawn[0].axes] == ["layer 0: the last 3", "layer 1: all before it"]


def test_the_attention_says_how_far_each_head_looks(inside, drawn):
    assert draw_attention(inside).stat().st_size > 0
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == [
        f"layer {layer}, head {head}: {far} back" for layer in (0, 1) for head, far in ((0, 0.0), (1, 1.5))
    ]
    assert [label.get_text() for label in drawn[0].axes[0].get_yticklabels()] == ["start", "The", "\u2423na", "<c3>"]


def test_surprise_is_white_where_nothing_surprises(inside):
    page = show_surprise(inside).data
    assert "rgba(220,38,38,0.00)' title='0.0 bits'>ab" in page
    assert "rgba(220,38,38,0.75)' title='24.0 bits'>&lt;" in page
    assert "8.00 bits per byte" in page


def test_reach_and_distance_are_counted_in_tokens():
    causal = np.tril(np.ones((5, 5), bool))
    assert reach_of(causal) is None and reach_of(causal & ~np.tril(causal, -2)) == 2
    assert distance_of(np.eye(5)) == 0 and distance_of(np.tril(np.ones((2, 2))) / [[1], [2]]) == 0.25


def test_pictures_before_their_files_name_what_is_missing(run):
    for draw in (draw_merges, draw_compression, draw_masks, draw_attention):
        with pytest.raises(UserError):
            draw(run)


def test_a_character_without_a_glyph_is_drawn_as_its_number():
    assert drawable("a\u2423") == "a\u2423" and drawable("\U00012000") == "<12000>"
