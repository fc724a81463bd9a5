"""Hashes of large files: read once, by whichever process, until something about a file changes."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from kdkit.runs import hashes
from kdkit.runs.folder import fingerprint_files
from kdkit.runs.hashes import hash_file
from tests.workflow.projects import make_project


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A large file that has not been changed for a while, seen from a project."""
    monkeypatch.chdir(make_project(tmp_path / "project"))
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 0.0)
    monkeypatch.setattr(hashes, "_here", {})
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(hashes.SMALL))
    return file


@pytest.fixture
def reads(monkeypatch):
    """The files that are read."""
    read, found = hashes._read, []
    monkeypatch.setattr(hashes, "_read", lambda path: (found.append(path), read(path))[1])
    return found


def test_weights_that_did_not_change_are_read_once_even_by_another_process(weights, reads, monkeypatch):
    first = fingerprint_files(weights)
    monkeypatch.setattr(hashes, "_here", {})  # as in another process
    assert fingerprint_files(weights) == first
    assert reads == [weights]


@pytest.mark.parametrize("keeps_time", [True, False], ids=["same time", "another time"])
def test_weights_that_changed_are_read_again_even_with_the_size_and_time_of_before(weights, reads, keeps_time):
    first, state = hash_file(weights), weights.stat()
    with weights.open("r+b") as file:
        file.write(b"1")
    if keeps_time:
        os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert hash_file(weights) != first
    assert reads == [weights, weights]


def test_what_was_changed_just_now_is_not_taken_for_settled(weights, reads, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED_SECONDS", 60.0)
    assert hash_file(weights) == hash_file(weights)
    assert reads == [weights, weights]


@pytest.mark.parametrize("content", ["", "[1]", '{"a": {"st'], ids=["empty", "a list", "torn"])
def test_a_spoilt_list_of_hashes_costs_another_reading(weights, content):
    first = hash_file(weights)
    (Path.cwd() / ".cache" / "hashes.json").write_text(content)
    assert hash_file(weights) == first


@pytest.mark.parametrize(
    "spoil", [lambda _: 5, lambda entry: {"state": entry["state"]}, lambda entry: entry | {"sha256": "cut"}]
)
def test_a_spoilt_entry_costs_another_reading_and_is_mended(weights, reads, monkeypatch, spoil):
    first, place = hash_file(weights), Path.cwd() / ".cache" / "hashes.json"
    kept = json.loads(place.read_text())
    place.write_text(json.dumps({name: spoil(entry) for name, entry in kept.items()}))
    monkeypatch.setattr(hashes, "_here", {})
    assert hash_file(weights) == first
    assert json.loads(place.read_text()) == kept and reads == [weights, weights]


def test_where_nothing_can_be_kept_the_hash_is_right(weights):
    (Path.cwd() / ".cache").write_text("a file in the way")
    assert hash_file(weights) == hashlib.sha256(weights.read_bytes()).hexdigest()
