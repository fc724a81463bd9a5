"""A training that is killed in the middle of writing goes on to the same weights, losses and files."""

import json
import subprocess
import sys
from pathlib import Path

PLACES = (
    "open /run/checkpoints/student/.partial/checkpoint-4/trainer_state.json",  # between two lines of the log
    "os.rename /run/checkpoints/student/checkpoint-2",  # both checkpoints are there
    "open /run/.baseline.partial/tokenizer_config.json",
)


def test_killed_while_it_writes_a_checkpoint_or_a_model_it_goes_on_to_the_same_files(tmp_path):
    root = Path(__file__).parents[2]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["WANDB_MODE"] = "disabled"  # its folders are named by time
    command = [sys.executable, "-m", "tests.kills", str(tmp_path), *PLACES]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.rpartition("ANSWER")[2])
    assert [row["died"] for row in answer["rows"]] == [-9] * len(PLACES)
    assert [(row["after"], row["not"]) for row in answer["rows"]] == [(0, [])] * len(PLACES)
