"""The page of peers is made from files of results: ratios within a round, what was left out, the rest kept."""

import json
from pathlib import Path

from benchmarks.peers_page import BEGIN, END, PAGE, RESULTS, make_part, quality_table, ratio, write_page

STEP = "cpu_seconds_per_step"
MACHINE = {"processor": "a processor", "cores": 2}


def a_round(seconds: float, memory: float) -> dict:
    return {STEP: seconds, "peak_mb": memory}


def a_group(arms: dict) -> dict:
    return {"date": "2026-11-29", "machine": MACHINE, "arms": arms}


GROUP = a_group(
    {
        "TRL GKDTrainer": [a_round(3.0, 900.0), a_round(8.0, 900.0), a_round(4.0, 900.0)],
        "kdkit": [a_round(1.0, 300.0), a_round(4.0, 300.0), a_round(2.0, 300.0)],
        "Unsloth": [{"left_out": "no peer python was named"}],
    }
)


def test_a_ratio_is_the_median_of_ratios_within_a_round():
    arms = GROUP["arms"]
    assert ratio(arms["TRL GKDTrainer"], arms["kdkit"], STEP) == "2.00 (2.00 to 3.00)"  # of medians: 4 / 2


def test_the_page_names_what_was_left_out_and_why():
    text = make_part({"gkd": GROUP}, None)
    assert "Left out: Unsloth: no peer python was named" in text
    assert "| TRL GKDTrainer | 4 | 2.00 (2.00 to 3.00) | 900 | 3.00 (3.00 to 3.00) |" in text
    assert "a processor, 2 cores" in text


def test_a_mean_over_seeds_stands_where_all_seeds_have_been_trained():
    def trained(value: float, seed: int) -> list[dict]:
        return [{"bits_per_byte": value, "steps": 9, "teacher_bits_per_byte": 1.0 + seed}]

    found = {
        "no teacher, seed 0": trained(2.0, 0),
        "no teacher, seed 1": trained(3.0, 1),
        "ours, seed 1": trained(2.5, 1),
    }
    text = quality_table(found)
    assert "| no teacher | 2.000 (9) | 3.000 (9) | 2.500 |" in text and "| ours |  | 2.500 (9) |  |" in text
    assert "| the teacher itself | 1.000 | 2.000 | 1.500 |" in text


def test_only_the_part_between_the_marks_is_made(tmp_path: Path):
    page = tmp_path / "peers.md"
    page.write_text(f"# Peers\n\nOur words.\n\n{BEGIN}\nold\n{END}\n\nMore words.\n")
    (tmp_path / "peers_table.json").write_text(json.dumps({"groups": {"gkd": GROUP}}))
    write_page(page, tmp_path)
    text = page.read_text()
    assert text.startswith("# Peers\n\nOur words.\n\n") and text.endswith(f"{END}\n\nMore words.\n")
    assert "old" not in text and "TRL GKDTrainer" in text


def test_the_committed_page_is_that_of_the_committed_results(tmp_path: Path):
    copy = tmp_path / "peers.md"
    copy.write_text(PAGE.read_text())
    write_page(copy, RESULTS)
    assert copy.read_text() == PAGE.read_text(), "python -m benchmarks.peers_table --page"
