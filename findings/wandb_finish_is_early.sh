#!/usr/bin/env bash
# wandb 0.31.0: offline, `run.finish()` returns while another process still writes the run's file.
#
# Version: wandb 0.31.0 (seen in November 2026).
# Behaviour: rows are written by the process wandb-core, and offline `finish` does not wait for it. A program that copies, packs or
#   reads the folder on its next line gets a file that ends before its last rows; `wandb sync` of such a copy sends what is there,
#   and no error is raised anywhere. It is whole a moment later, or once Python has ended.
# Expected from memory: `finish` marks the end of a run, so what was logged is on the disk.
# Seen: 2000 rows, 524288 bytes at the return of finish, 530362 bytes two seconds later.
#
# Runs without kdkit, without network and without credentials; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet wandb==0.31.0
export HOME="$folder" WANDB_MODE=offline WANDB_SILENT=true FOLDER="$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import os
import time
from pathlib import Path

import wandb

short = 0
for trial in range(20):  # who is first depends on the machine: here the file was short in about half of them
    run = wandb.init(project="p", dir=os.environ["FOLDER"])
    for number in range(10 if trial % 2 else 2000):
        run.log({"loss": number})
    file = Path(run.settings.sync_file)
    run.finish()
    at_return = file.stat().st_size
    time.sleep(2)
    if at_return < file.stat().st_size:
        print(f"{at_return} bytes at the return of finish, {file.stat().st_size} bytes two seconds later")
        short += 1
print(f"short in {short} of 20 trials")
raise SystemExit(short == 0)
PYTHON
