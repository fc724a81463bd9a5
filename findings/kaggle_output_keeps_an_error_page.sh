#!/usr/bin/env bash
# kaggle 2.2.4: KaggleApi.kernels_output, and so `kaggle kernels output`, saves what the storage answers without looking at its status.
#
# Version: kaggle 2.2.4 with kagglesdk 0.1.38 (seen in November 2026).
# Behaviour: each file is `requests.get(item.url)`, and its body is written whatever the status. The addresses are signed and run
#   out, so of a long output the last files can be a few hundred bytes of XML under the names of models; the call returns their names
#   and the command ends with 0.
# Expected from memory: an error, or at least the file left out.
# Seen: model.safetensors holds "<Error><Code>ExpiredToken</Code></Error>"
#
# Runs without kdkit, without network and without credentials; installs into a temporary folder. Ends with 1 if the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet kaggle==2.2.4 six  # see kaggle_imports_six.sh
export HOME="$folder" KAGGLE_CONFIG_DIR="$folder" FOLDER="$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import http.server
import io
import os
import threading
from pathlib import Path
from types import SimpleNamespace

with contextlib.redirect_stdout(io.StringIO()):  # importing it prints how to log in
    from kaggle.api.kaggle_api_extended import KaggleApi

EXPIRED = b"<Error><Code>ExpiredToken</Code></Error>"


class Storage(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(403)
        self.end_headers()
        self.wfile.write(EXPIRED)

    def log_message(self, *_):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Storage)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}/"
files = [SimpleNamespace(file_name="model.safetensors", url=address)]
answer = SimpleNamespace(files=files, log="", next_page_token="")


class Api(KaggleApi):
    @contextlib.contextmanager
    def build_kaggle_client(self):
        kernels = SimpleNamespace(list_kernel_session_output=lambda request: answer)
        yield SimpleNamespace(kernels=SimpleNamespace(kernels_api_client=kernels))


target = Path(os.environ["FOLDER"]) / "output"
names, _ = Api().kernels_output("me/a-kernel", str(target))
kept = (target / "model.safetensors").read_bytes()
print(f"returned {len(names)} name | model.safetensors holds {kept}")
raise SystemExit(not (kept == EXPIRED and len(names) == 1))
PYTHON
