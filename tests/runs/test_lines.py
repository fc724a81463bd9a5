"""A file of lines that a kill has torn, at every byte."""

import json

import pytest

from kdkit.runs.folder import Run
from kdkit.runs.lines import append_line, read_lines

LINES = [
    {"phase": "student", "step": 1, "loss": 2.5},
    {"phase": "\u4e2d", "step": 2},
    {"step": 3, "deep": {"a": [1, 2]}},
]
CONTENT = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in LINES)


def whole_before(end: int) -> int:
    """Count the lines that are complete objects in the first bytes, with their line end or just without it."""
    ends = [place for place, byte in enumerate(CONTENT) if byte == ord("\n")]
    return sum(at <= end for at in ends)


@pytest.mark.parametrize("end", range(len(CONTENT) + 1))
def test_a_file_cut_anywhere_reads_as_its_whole_lines_and_is_never_glued(tmp_path, end, capsys):
    path, more = tmp_path / "metrics.jsonl", {"step": 9}
    path.write_bytes(CONTENT[:end])
    count = whole_before(end)
    is_torn = end > 0 and CONTENT[end - 1 : end] != b"\n" and CONTENT[end : end + 1] != b"\n"
    assert read_lines(path) == LINES[:count]
    said = capsys.readouterr().out
    assert ("left out 1 torn line(s)" in said and str(path) in said) == is_torn
    append_line(path, more)
    assert ("cut 1 torn line" in capsys.readouterr().out) == is_torn
    assert [json.loads(line) for line in path.read_bytes().splitlines()] == [*LINES[:count], more]
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("torn", [b'{"phase": "student", "step": 2', b"\0" * 40, b"\xff\xfe", b"[1, 2]", b"12"])
def test_what_is_no_object_is_counted_and_left_out(tmp_path, torn, capsys):
    run = Run(tmp_path, tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(CONTENT + torn)
    assert run.read_metrics() == LINES
    assert f"left out 1 torn line(s) of {len(torn)} bytes (line 4)" in capsys.readouterr().out
    run.append_metrics({"step": 4})
    run.drop_metrics("student")
    assert run.read_metrics() == [*LINES[1:], {"step": 4}]
    assert "torn" not in capsys.readouterr().out.replace("cut 1 torn", "")


def test_lines_that_an_older_version_glued_are_counted(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(CONTENT + b'{"step": 2{"step": 3}\n' + b'{"ste\n' + CONTENT)
    assert read_lines(tmp_path / "a.jsonl") == LINES * 2
    assert "left out 2 torn line(s) of 26 bytes (line 4, 5)" in capsys.readouterr().out


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "a.jsonl") == []
