#!/usr/bin/env bash
# A manylinux2014 wheel of llama.cpp bindings that no manylinux2014 system can load.
#
# Versions: llama-cpp-py-sync 0.11739, its CPU wheel for x86_64 (seen in November 2026).
# Behaviour: the wheel is tagged manylinux2014 (glibc 2.17), so pip installs it on Debian 11 and 12, Ubuntu 20.04 and
#   22.04, RHEL 8 and 9; libllama.so in it asks for symbols of glibc 2.38, so the first call ends with
#   "version `GLIBC_2.38' not found". The same holds for whoever looks for bindings that need no compiler.
# Expected from memory: a tag that pip accepts means a library that loads.
# Seen: tag manylinux2014_x86_64 | newest symbol version asked for GLIBC_2.38
#
# Runs without kdkit, outside CI; downloads into a temporary folder, loads nothing. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --platform manylinux2014_x86_64 llama-cpp-py-sync==0.11739
"${PYTHON:-python3}" - <<'PYTHON'
import re
import sys
import zipfile
from pathlib import Path

(wheel,) = Path().glob("*.whl")
content = zipfile.ZipFile(wheel).read("llama_cpp_py_sync/libllama.so")
asked = max(tuple(map(int, version)) for version in re.findall(rb"GLIBC_(\d+)\.(\d+)", content))
print(wheel.name)
print("newest glibc asked for:", asked, "| allowed by the tag: (2, 17)")
sys.exit(not ("manylinux2014" in wheel.name and asked >= (2, 38)))
PYTHON
