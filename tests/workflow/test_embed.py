"""The verb `embed`: an endpoint's vectors in a file, asked once for each sentence, whatever stops it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from pyarrow import parquet

from kdkit import cli
from kdkit.embeddings.teacher import endpoint
from kdkit.embeddings.teacher.vectors import read_vectors

KEY = "sk-of-this-test"
TEXTS = [f"sentence number {n}" for n in range(10)]


def vector_of(text, width=3):
    """Make a vector that only this text has."""
    return np.random.default_rng(sum(text.encode())).normal(size=width).tolist()


class Server:
    """An endpoint that answers in OpenAI's form, and before that as `faults` says."""

    def __init__(self):
        self.faults, self.asked, self.keys, self.answer = [], [], [], lambda data: {"data": data[::-1]}

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):  # noqa: N805
                request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.keys.append(handler.headers.get("Authorization"))
                status, headers, body = self.faults.pop(0) if self.faults else (200, {}, None)
                if body is None:
                    assert (handler.path, request["model"]) == ("/v1/embeddings", "big")
                    self.asked.append(request["input"])
                    data = [{"index": n, "embedding": vector_of(text)} for n, text in enumerate(request["input"])]
                    body = json.dumps(self.answer(data))
                handler.send_response(status)
                for name, value in headers.items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(body.encode())

            def log_message(self, *_):
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint.time, "sleep", lambda seconds: None)
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def embed(tmp_path, server, capsys):
    """Return a call of the verb for some texts: its exit code, and all that it said."""

    def embed(texts, *options, out="v.parquet", model="big", url=None):
        (tmp_path / "t.txt").write_text("".join(f"{text}\n" for text in texts))
        words = ["embed", str(tmp_path / "t.txt"), str(tmp_path / out), "--url", url or server.url, "--model", model]
        with pytest.raises(SystemExit) as stop:
            cli.main([*words, "--batch-size", "4", *options])
        said = "".join(capsys.readouterr())
        assert KEY not in said
        return stop.value.code, said

    return embed


def check(tmp_path, texts):
    """Compare a file with the endpoint's vectors, and look for what must not be left."""
    file = read_vectors(str(tmp_path / "v.parquet"))
    expected = np.array([vector_of(text) for text in texts])
    np.testing.assert_allclose(
        file.of(texts, "texts"), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6
    )
    assert len(file.places) == len(texts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.txt", "v.parquet"]
    assert KEY.encode() not in (tmp_path / "v.parquet").read_bytes()


def test_each_sentence_is_asked_for_once(tmp_path, server, embed):
    code, said = embed([*TEXTS, TEXTS[0]])
    assert code == 0 and "10 vectors, 10 of them new; use it: -p teacher.vectors=" in said
    assert [len(texts) for texts in server.asked] == [4, 4, 2] and set(server.keys) == {f"Bearer {KEY}"}
    check(tmp_path, TEXTS)
    assert embed([*TEXTS, "another"])[0] == 0  # a second file: only what is new
    assert server.asked[3:] == [["another"]]
    check(tmp_path, [*TEXTS, "another"])
    assert parquet.read_schema(tmp_path / "v.parquet").metadata[b"model"] == b"big"


def test_an_interrupted_call_goes_on(tmp_path, server, embed):
    server.faults = [(200, {}, None), (401, {}, f"no such key {KEY}")]
    code, said = embed(TEXTS)
    assert code == 2 and "401 no such key ***" in said and "run the same command again" in said
    partial = tmp_path / "v.parquet.partial"
    whole = partial.stat().st_size
    partial.write_bytes(partial.read_bytes() + partial.read_bytes()[: whole // 2])  # killed while it wrote
    assert embed(TEXTS)[0] == 0
    assert [texts[0] for texts in server.asked] == [TEXTS[0], TEXTS[4], TEXTS[8]]
    check(tmp_path, TEXTS)


def test_an_endpoint_that_is_busy_is_asked_again(tmp_path, server, embed, monkeypatch):
    waits = []
    monkeypatch.setattr(endpoint.time, "sleep", waits.append)
    server.faults = [(429, {"Retry-After": "7"}, "slow down"), (503, {}, ""), (500, {"Retry-After": "999"}, "")]
    assert embed(TEXTS[:2])[0] == 0 and waits == [7.0, 2.0, 60.0]
    check(tmp_path, TEXTS[:2])
    server.faults = [(503, {}, "down")] * 10
    assert "503 down" in embed(["new"])[1] and len(server.faults) == 10 - endpoint.TRIES


def test_the_key_goes_to_no_other_host(server, embed):
    server.faults = [(307, {"Location": "http://127.0.0.1:9/v1/embeddings"}, "elsewhere")]
    code, said = embed(TEXTS[:1])
    assert code == 2 and "got 307 elsewhere" in said and len(server.keys) == 1


def test_without_a_key_none_is_sent(server, embed, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("MINE", "other")
    assert embed(TEXTS[:1])[0] == 0 and embed(TEXTS[:2], "--key-variable", "MINE")[0] == 0
    assert server.keys == [None, "Bearer other"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda data: {"data": data[1:]}, "expected 4 finite vectors of one width from"),
        (lambda data: {"data": [d | {"embedding": [float("nan")] * 3} for d in data]}, "with NaN; try another"),
        (lambda data: {"data": [d | {"embedding": [1.0] * (1 + d["index"])} for d in data]}, "is it OpenAI's form?"),
        (lambda data: {"detail": "no model"}, "no model"),
        (lambda data: [1], "is it OpenAI's form?"),
    ],
)
def test_other_answers_are_refused(server, embed, answer, expected):
    server.answer = answer
    code, said = embed(TEXTS)
    assert code == 2 and expected in said


def test_files_of_another_model_and_other_mistakes_are_refused(tmp_path, server, embed):
    assert embed(TEXTS[:1])[0] == 0
    assert "expected vectors of small with 3 numbers" in embed(TEXTS[:2], model="small")[1]
    assert "got 'v.csv'" in embed(TEXTS, out="v.csv")[1].replace(f"{tmp_path}/", "")
    assert "expected http://... or https://..." in embed(TEXTS, url="file:///etc")[1]
    assert "expected vectors from http://127.0.0.1:9/embeddings" in embed(["new"], url="http://127.0.0.1:9")[1]
    (tmp_path / "v.parquet").write_text("text")
    assert "expected a parquet file" in embed(TEXTS)[1]
    assert len(server.asked) == 1
