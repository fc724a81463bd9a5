#!/usr/bin/env bash
# kaggle 2.2.4 imports six and does not require it: a fresh `pip install kaggle` cannot be imported, nor its command be run.
#
# Versions: kaggle 2.2.4, python-dateutil 4.0.0 (seen in November 2026).
# Behaviour: kaggle/models/upload_file.py begins with `import six`. Its requirements do not name six; python-dateutil, which they
#   name without a bound, brought it along until its version 3. With 4.0.0 nothing does.
# Expected from memory: what a package imports it asks for.
# Seen: ModuleNotFoundError: No module named 'six' | after `pip install six` it is imported
#
# Runs without kdkit, outside CI; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python="$folder/venv/bin/python"
"${PYTHON:-python3}" -m venv "$folder/venv"
"$python" -m pip install --quiet kaggle==2.2.4 python-dateutil==4.0.0
export HOME="$folder" KAGGLE_CONFIG_DIR="$folder"
"$python" -c "import kaggle" > "$folder/said" 2>&1 && exit 1
tail -1 "$folder/said"
grep -q "No module named 'six'" "$folder/said"
"$python" -m pip install --quiet six
"$python" -c "import kaggle" > "$folder/said" # it prints how to log in
echo "with six it is imported"
