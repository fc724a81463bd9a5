"""A session of Kaggle on this machine: its folders, inputs that cannot be written, and no network."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdkit.workflow.kaggle.source import read_source

ROOT = Path(__file__).resolve().parents[3]
KAGGLE = Path("/kaggle")
OWNER = "me"
TOOLS = ("unshare", "mount", "ip")
OURS = ("PYTHONPATH", "PYTEST_ADDOPTS", "HF_HUB_OFFLINE", "JUPYTER_PATH")


def smoke_source(folder, **defaults):
    """Read kaggle_kernel.json with the smallest configuration, and without internet, in place of its own."""
    values = json.loads((ROOT / "kaggle_kernel.json").read_text())
    values["defaults"] |= {"config": "configs/smoke.yaml", "enable_internet": False} | defaults
    file = folder / "kaggle_kernel.json"
    file.write_text(json.dumps(values))
    return read_source(file, OWNER)


@contextmanager
def kaggle_folder():
    """Make /kaggle, which only a session's own view of the disk fills; skip where that is not permitted."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"a session needs {', '.join(missing)}")
    is_left = KAGGLE.is_dir() and not any(KAGGLE.iterdir())  # by a test that was killed
    try:
        KAGGLE.mkdir(exist_ok=is_left)
    except OSError as error:
        pytest.skip(f"/kaggle cannot be made here: {error}")
    try:
        trial = subprocess.run(["unshare", "--mount", "--net", "mount", "-t", "tmpfs", "none", KAGGLE])
        if trial.returncode:
            pytest.skip("this machine lets nobody mount")
        yield
    finally:
        KAGGLE.rmdir()


def run_session(notebook, output, inputs, working, command=None):
    """Run a notebook as Kaggle does, by papermill without parameters.

    Args:
        inputs: what is attached, by its place below /kaggle/input.
        working: the folder that is /kaggle/working in there.
    """
    working.mkdir(parents=True, exist_ok=True)
    command = command or [sys.executable, "-m", "papermill", "--no-progress-bar", str(notebook), str(output)]
    script = ["set -e", "ip link set lo up", f"mount -t tmpfs none {KAGGLE}", f"mkdir {KAGGLE}/working {KAGGLE}/input"]
    script.append(f"mount --bind {shlex.quote(str(working))} {KAGGLE}/working")
    for place, folder in inputs.items():
        target = KAGGLE / "input" / place
        script += [f"mkdir -p {target}", f"mount --bind {shlex.quote(str(folder))} {target}"]
        script += [f"mount -o remount,ro,bind {target}"]
    script += [f"cd {KAGGLE}/working", shlex.join(["exec", *map(str, command)]).removeprefix("'")]
    environment = {key: value for key, value in os.environ.items() if key not in OURS}
    return subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", "\n".join(script)],
        env=environment | {"KAGGLE_KERNEL_RUN_TYPE": "Batch"},
        capture_output=True,
        text=True,
        timeout=500,
    )


def inputs_of(kernel, outputs, package, is_new):
    """Return what is attached to a rendered kernel, in the old shape of mounts, or in the new one.

    Args:
        outputs: what each kernel has left, by its name at Kaggle.
    """
    values = json.loads((kernel / "kernel-metadata.json").read_text())
    folders = dict.fromkeys(values["dataset_sources"], package) | {
        name: outputs[name] for name in values["kernel_sources"]
    }
    return {f"datasets/{name}" if is_new else name.partition("/")[2]: folder for name, folder in folders.items()}
