"""A server of Weights & Biases on this machine: it takes what a client sends and answers as much as that needs."""

import gzip
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Received:
    """What clients have sent."""

    address: str = ""
    keys: set = field(default_factory=set)
    runs: dict = field(default_factory=dict)
    """The last `upsertBucket` by the run's id."""
    rows: dict = field(default_factory=dict)
    """History by the run's id, each row at the offset at which it was sent."""
    files: dict = field(default_factory=dict)
    """Uploaded files by their names."""
    refuses: bool = False
    """Let nobody in."""


@contextmanager
def wandb_server():
    """Serve until the context ends; yield what was received so far."""
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        """Answers GraphQL, streams of rows and uploads."""

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            received.keys.add(self.headers.get("Authorization"))
            answer = _answer(received, self.path, content)
            self.send_response(401 if received.refuses else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        do_PUT = do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


def _answer(received, path, content):
    """Take a request in and return its answer."""
    if path.endswith("/file_stream"):
        body = json.loads(content)
        run = path.split("/")[-2]
        history = body.get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        rows = received.rows.setdefault(run, {})
        rows |= {history["offset"] + i: json.loads(line) for i, line in enumerate(history["content"])}
        return {}
    if path.startswith("/upload/"):
        received.files[path.removeprefix("/upload/")] = content
        return {}
    if path != "/graphql":
        return {}
    request = json.loads(content)
    values, name = request.get("variables") or {}, request.get("operationName")
    project = {"id": "project", "name": "kdkit", "entity": {"id": "entity", "name": "me"}}
    if name == "UpsertBucket":
        received.runs[values["name"]] = values
        return {
            "data": {
                "upsertBucket": {"bucket": _bucket(received, values["name"]) | {"project": project}, "inserted": True}
            }
        }
    if name == "RunResumeStatus":
        known = values["name"] in received.runs
        return {"data": {"model": project | {"bucket": _bucket(received, values["name"]) if known else None}}}
    if name == "CreateRunFiles":
        files = [{"name": file, "uploadUrl": f"{received.address}/upload/{file}"} for file in values["files"]]
        return {"data": {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}}
    if name == "Viewer":
        return {
            "data": {"viewer": {"id": "me", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        }
    return {"data": {}}


def _bucket(received, run):
    """Describe a run as the server does."""
    rows = received.rows.get(run, {})
    last = [json.dumps(rows[max(rows)])] if rows else []
    return {
        "id": run,
        "name": run,
        "displayName": run,
        "description": None,
        "config": "{}",
        "summaryMetrics": "{}",
        "sweepName": None,
        "tags": [],
        "notes": None,
        "logLineCount": 0,
        "historyLineCount": len(rows),
        "eventsLineCount": 0,
        "historyTail": json.dumps(last),
        "eventsTail": "[]",
        "wandbConfig": '{"t": {}}',
    }
