"""Builds that are killed or run out of disk, in processes of their own, and the builds after them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdkit.config.language import dump_config
from kdkit.teachers.cache_build import SignalMaker
from tests.caches import (
    Place,
    refused,
    with_cache,
)

# crashes

CRASHES = """
import json, os, random, resource, signal, sys, time
from pathlib import Path

import torch

from kdkit.config.language import load_config
from kdkit.distill import open_teacher as source
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from kdkit.teachers.cache_build import SignalMaker
from tests.tiny import make_data, make_plan, make_session

torch.set_num_threads(1)
folder, given = Path(sys.argv[1]), load_config(sys.argv[2])
run = Run(folder / "run", folder / "cache")
data = make_data(given, folder)
teacher = source.prepare_teacher(make_session(given, run), data)
source.prepare_teacher = lambda *_: teacher
make, calls = SignalMaker.make, []


def slowly(self, keys):
    time.sleep(0.02)
    return make(self, keys)


def until_full(self, keys):
    calls.append(keys)
    if len(calls) == 6:  # two calls measure the time, three make chunks
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    return make(self, keys)


def start(path, limit=None):
    # fork: importing torch anew would take seconds
    if pid := os.fork():
        return pid
    code = 1
    try:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        config = given.model_copy(update={"cache": given.cache.model_copy(update={"file": str(path)})})
        source.build_cache(make_plan(config, run, data))
        code = 0
    except UserError as error:
        sys.stderr.write(str(error) + "\\n")
        code = 2
    finally:
        sys.stderr.flush()
        os._exit(code)


def parts(path):
    return sorted(file.name for file in Path(f"{path}.parts").glob("?????.h5"))


def finish(path, limit=None):
    return os.waitstatus_to_exitcode(os.waitpid(start(path, limit), 0)[1])


whole = folder / "whole.h5"
assert finish(whole) == 0
chunks, answer = -(-len(data.train) // given.cache.samples_per_chunk), {"killed": [], "codes": [], "equal": []}
draw = random.Random(0)
for point in [*range(0, chunks, 2), *draw.choices(range(chunks), k=10)][:10]:
    path = folder / f"killed{len(answer['killed'])}" / "a.h5"
    SignalMaker.make = slowly  # so that the kill comes in the middle
    pid = start(path)
    SignalMaker.make = make
    while len(parts(path)) < point:
        time.sleep(0.001)
    time.sleep(draw.random() * 0.03)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL and not path.exists()
    answer["killed"].append(len(parts(path)))
    answer["codes"].append(finish(path))
    left = sorted(os.listdir(path.parent))
    answer["equal"].append(path.read_bytes() == whole.read_bytes() and left == ["a.h5", "a.h5.cost.json"])

path, answer["full"] = folder / "full" / "a.h5", []
for maker, limit in ((until_full, None), (make, whole.stat().st_size - 1), (make, None)):
    SignalMaker.make = maker
    code = finish(path, limit)
    left = [file.name for file in path.parent.rglob("*") if file.is_file()]
    answer["full"].append([code, len(parts(path)), any("partial" in name for name in left), path.exists()])
answer["full_equal"] = path.read_bytes() == whole.read_bytes()
print("ANSWER" + json.dumps(answer))
"""


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    """What was left by builds in other processes that were killed, or ran out of disk, and by builds after them."""
    place = Place(tmp_path_factory.mktemp("crashes"))
    (place.folder / "config.yaml").write_text(dump_config(place.config(samples_per_chunk=5, top_k=32)))
    (place.folder / "crash.py").write_text(CRASHES)
    root = Path(__file__).parents[2]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, place.folder / "crash.py", place.folder, place.folder / "config.yaml"]
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = next(line for line in done.stdout.splitlines() if line.startswith("ANSWER"))
    return json.loads(answer.removeprefix("ANSWER")) | {"errors": done.stderr}


def test_a_build_killed_at_ten_points_is_finished_to_the_same_bytes(crashes):
    assert len(crashes["killed"]) == 10 and max(crashes["killed"]) >= 6 and min(crashes["killed"]) <= 1
    assert crashes["codes"] == [0] * 10
    assert crashes["equal"] == [True] * 10


def test_a_full_disk_leaves_finished_parts_and_a_later_build_finishes(crashes):
    (code, first, *rest), (code_again, second, *rest_again), last = crashes["full"]
    assert (code, code_again) == (2, 2)
    assert first in (2, 3) and second == 9  # the third chunk may still have been on its way
    assert rest == rest_again == [False, False]  # nothing half-written, and no file
    assert last == [0, 0, False, True]
    assert crashes["full_equal"]
    errors = [line for line in crashes["errors"].splitlines() if "File too large" in line]
    assert len(errors) == 2
    assert all("expected room to write" in line and "finished chunks stay valid" in line for line in errors)


def test_a_build_stopped_in_one_place_does_not_go_on_with_other_settings(place, tmp_path, monkeypatch):
    config = with_cache(place.mode("top_k"), file=str(tmp_path / "a.h5"))
    data, make, calls = place.data(config), SignalMaker.make, []

    def stop(self, keys):
        calls.append(keys)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return make(self, keys)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SignalMaker, "make", stop)
        place.open(config, data)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5.parts"]
    with refused("a.h5.parts", "top_k: got 8, expected 9"):
        place.open(with_cache(config, top_k=9), data)
    assert len(place.open(config, data).keys) == len(data.train)
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5", "a.h5.cost.json"]
