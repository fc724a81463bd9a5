"""The command of peers goes on where it was stopped, and keeps no row of other arguments, versions or machines."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import peers_table
from benchmarks.peers_table import GROUPS, PEER, Arm, kept_rows, machine, measure_group, read_results

NOW = {"torch": "2.13.0"}
EXPECTED = {False: NOW, True: None}
OPTIONS = Namespace(rounds=2, again=False)


def a_row(arm: Arm, **more: object) -> dict:
    return {"arguments": list(arm.words), "versions": NOW, "cpu_seconds": 1.0, **more}


def a_group(rows: dict[str, list[dict]]) -> dict:
    return {"machine": machine(), "arms": rows}


def test_a_stopped_call_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(peers_table, "RESULTS", tmp_path / "results.json")
    asked: list[Arm] = []

    def run(arm: Arm, options: Namespace, folder: Path) -> dict:
        asked.append(arm)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return a_row(arm)

    monkeypatch.setattr(peers_table, "run", run)
    with pytest.raises(KeyboardInterrupt):
        measure_group("gkd", OPTIONS, EXPECTED, tmp_path)
    measure_group("gkd", OPTIONS, EXPECTED, tmp_path)
    arms = list(GROUPS["gkd"].values())
    assert asked == [*arms, *arms[:2], *arms[1:]]  # the second round goes on with what was interrupted
    measure_group("gkd", OPTIONS, EXPECTED, tmp_path)
    assert len(asked) == 2 * len(arms) + 1  # nothing is left
    measure_group("gkd", Namespace(rounds=2, again=True), EXPECTED, tmp_path)
    assert len(asked) == 4 * len(arms) + 1
    assert [len(rows) for rows in read_results()["gkd"]["arms"].values()] == [2] * len(arms)


def test_rows_of_other_arguments_versions_or_machines_are_measured_again():
    arm = GROUPS["gkd"]["kdkit"]
    good, bad = a_row(arm), [a_row(arm, arguments=["kdkit_gkd"]), a_row(arm, versions={"torch": "2.12.0"})]
    assert kept_rows(a_group({"kdkit": [good, good]}), "gkd", 3, EXPECTED)["kdkit"] == [good, good]
    for other in [*bad, {"left_out": "it failed"}]:
        assert kept_rows(a_group({"kdkit": [good, other, good]}), "gkd", 3, EXPECTED)["kdkit"] == [good]
    elsewhere = a_group({"kdkit": [good]}) | {"machine": {"processor": "another", "cores": 2}}
    assert kept_rows(elsewhere, "gkd", 3, EXPECTED)["kdkit"] == []


def test_without_the_peer_python_its_rows_are_kept():
    name, arm = next((name, arm) for name, arm in GROUPS["plain"].items() if PEER in arm.needs)
    group = a_group({name: [a_row(arm, versions={"unsloth": "2026.10.9"})]})
    assert len(kept_rows(group, "plain", 3, {False: NOW, True: None})[name]) == 1
    assert len(kept_rows(group, "plain", 3, {False: NOW, True: NOW})[name]) == 0
