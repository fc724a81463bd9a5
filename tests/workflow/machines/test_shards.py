"""`cache build --shard` and `cache merge`: parts made apart are, merged, what one build would have made."""

import shutil
from pathlib import Path

import pytest
import yaml

from kdkit import cli
from kdkit.distill import open_teacher
from kdkit.runs.costs import read_cost
from kdkit.runs.store import open_store
from kdkit.teachers.cache_build import SignalMaker
from tests.tiny import make_config, make_data, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")

PARTS = 3


def call(*words: object) -> int:
    """Call the command; return its exit code."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["cache", *map(str, words)])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, one_thread) -> Path:
    """A configuration, a cache of it built at once, and the same in shards."""
    folder = tmp_path_factory.mktemp("shards")
    teacher = save_teacher(make_data(make_config(folder), folder), folder / "teacher")
    values = {
        "cache_dir": str(folder / "cache"),
        "data": {"path": str(folder / "corpus.txt"), "max_length": 24, "evaluation_fraction": 0.2},
        "teacher": {"path": str(teacher)},
        "student": {"build": {"vocab_size": 290, "hidden_size": 16, "num_layers": 1, "intermediate_size": 32}},
        "distill": {"loss": "projected_kl"},
        "cache": {"mode": "sampled", "num_samples": 20, "samples_per_chunk": 6},  # draws must not depend on the part
        "train": {"device": "cpu"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values))
    assert build(folder, "--output", folder / "whole.h5") == 0
    for number in range(1, PARTS + 1):
        assert build(folder, "--output", folder / "answers.h5", "--shard", f"{number}/{PARTS}") == 0
    return folder


def build(folder: Path, *words: object) -> int:
    return call("build", folder / "tiny.yaml", "--runs-dir", folder / "runs", *words)


def part(folder: Path, number: int) -> Path:
    return folder / f"answers.{number}-of-{PARTS}.h5"


def test_merged_shards_are_the_bytes_of_one_build(folder, capsys):
    files = [part(folder, number) for number in (3, 1, 2)]
    assert call("merge", folder / "answers.h5", *files) == 0
    assert (folder / "answers.h5").read_bytes() == (folder / "whole.h5").read_bytes()
    counts = [len(open_store(file).keys) for file in files]
    assert min(counts) > 0 and sum(counts) == len(open_store(folder / "whole.h5").keys)
    cost, of_parts = read_cost(folder / "answers.h5"), [read_cost(file) for file in files]
    assert cost["sequences"] == sum(counts) and cost["tokens"] == sum(each["tokens"] for each in of_parts)
    assert call("merge", folder / "answers.h5", *files) == 0, "what is there is left as it is"


def test_a_shard_is_merged_wherever_its_machine_keeps_the_text(folder, tmp_path):
    text = shutil.copy(folder / "corpus.txt", tmp_path / "elsewhere.txt")
    words = "--output", tmp_path / "answers.h5", "--shard", f"2/{PARTS}", "-p", f"data.path={text}"
    words += "-p", f"cache_dir={tmp_path}/cache"
    assert build(folder, *words) == 0
    second = tmp_path / f"answers.2-of-{PARTS}.h5"
    assert open_store(second).header["data"] != open_store(part(folder, 2)).header["data"]
    assert call("merge", out := tmp_path / "out.h5", part(folder, 1), second, part(folder, 3)) == 0
    assert out.read_bytes() == (folder / "whole.h5").read_bytes()


def test_a_shard_that_was_stopped_goes_on(folder, tmp_path, monkeypatch):
    make, made = SignalMaker.make, []

    def make_two(self, keys):
        keys = list(keys)
        made.append(keys)
        if len(made) == 4:  # two of them are for the announcement
            raise KeyboardInterrupt
        return make(self, keys)

    words = "--output", tmp_path / "again.h5", "--shard", f"2/{PARTS}"
    with monkeypatch.context() as patch:
        patch.setattr(SignalMaker, "make", make_two)
        assert build(folder, *words) == 130
    assert len(list((tmp_path / f"again.2-of-{PARTS}.h5.parts").glob("0*.h5"))) == 1
    assert build(folder, *words) == 0
    assert (tmp_path / f"again.2-of-{PARTS}.h5").read_bytes() == part(folder, 2).read_bytes()


def test_shards_that_do_not_make_one_cache_are_named(folder, tmp_path, capsys):
    def answer(*words):
        capsys.readouterr()
        assert call(*words) == 2
        return capsys.readouterr().err.strip()

    first, second, third = (part(folder, number) for number in (1, 2, 3))
    out = tmp_path / "out.h5"
    said = answer("merge", out, first, third)
    assert (
        said
        == f"kdkit: cache merge: expected all {PARTS} shards, got 2, without 2/{PARTS}; build it: cache build "
        + (f"CONFIG --shard 2/{PARTS}")
    )
    said = answer("merge", out, first, second, second, third)
    assert f"shard 2/{PARTS}: expected each shard once, got it twice, in {second} and {second}" in said
    assert "expected a shard, as `cache build --shard` writes it, got a whole cache" in answer(
        "merge", out, first, folder / "whole.h5"
    )
    assert build(folder, "--output", tmp_path / "warm.h5", "--shard", f"2/{PARTS}", "-p", "distill.temperature=2") == 0
    said = answer("merge", out, first, tmp_path / f"warm.2-of-{PARTS}.h5", third)
    assert f"expected a shard of the same cache as {first}, got another (" in said and "header.temperature" in said
    assert build(folder, "--output", tmp_path / "two.h5", "--shard", "1/2") == 0
    said = answer("merge", out, second, tmp_path / "two.1-of-2.h5")
    assert "shard.of: got 2, expected 3" in said
    said = answer("merge", first, second, third)  # as a pattern does that the cache is not named before
    assert f"{first}: expected the cache to write, or none there, got one of its shards; name the cache before" in said
    assert f"cache merge: expected a file to write, got '{tmp_path}' (it is a folder)" in answer(
        "merge", tmp_path, first
    )
    assert f"{tmp_path}: expected a cache, got a folder; name the file" in answer("merge", out, tmp_path)
    said = answer("build", folder / "tiny.yaml", "--runs-dir", folder / "runs", "--output", first)
    assert f"{first}: expected a whole cache, got shard 1/{PARTS} of one; merge all its shards" in said
    assert not out.exists() and not list(tmp_path.parent.glob("*.parts"))


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_a_part_that_there_cannot_be_is_refused(folder, shard, capsys):
    assert build(folder, f"--shard={shard}") == 2
    assert f"--shard: expected I/N, the I-th of N, counted from 1, got {shard!r}" in capsys.readouterr().err


def test_more_parts_than_chunks_are_refused_before_a_teacher_is_made(folder, capsys, monkeypatch):
    monkeypatch.setattr(open_teacher, "prepare_teacher", None)
    assert build(folder, "--output", folder / "many.h5", "--shard", "1/99") == 2
    assert "--shard: expected at most " in capsys.readouterr().err
