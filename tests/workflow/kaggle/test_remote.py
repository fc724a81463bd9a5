"""Kaggle's own client takes every rendered folder; the server is a recorder, and nothing leaves this machine."""

import contextlib
import io
import json
import shutil
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import nbformat
import pytest

from kdkit import cli
from kdkit.errors import UserError
from kdkit.workflow.kaggle import remote
from kdkit.workflow.kaggle.render import render
from kdkit.workflow.kaggle.source import read_source
from tests.workflow.kaggle.sessions import OWNER, ROOT

STAGES = ["01_data", "02_teacher_probe", "03_distill", "04_evaluate", "05_report"]
KEY = "planted-key"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Render the repository's own file."""
    folder = tmp_path_factory.mktemp("kaggle")
    render(read_source(ROOT / "kaggle_kernel.json", OWNER), folder)
    return folder


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Let Kaggle's client find credentials that are none."""
    for name, value in {"HOME": str(tmp_path), "KAGGLE_USERNAME": OWNER, "KAGGLE_KEY": KEY}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KAGGLE_API_TOKEN", raising=False)
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    with contextlib.redirect_stdout(io.StringIO()):
        pytest.importorskip("kaggle", reason="not installed: pip install 'kaggle>=2.2,<2.2.5' six")


class Server:
    """Record what the client would send, and answer as Kaggle's server does."""

    def __init__(self, api, monkeypatch):
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetResponse
        from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelResponse

        self.sent, self.archives = [], {}
        self.kernel, self.dataset = ApiSaveKernelResponse(), ApiCreateDatasetResponse()
        self.kernel.version_number, self.kernel.url = 3, "https://www.kaggle.com/code/me/x"
        self.dataset.status, self.dataset.url = "ok", "https://www.kaggle.com/datasets/me/x"
        self.is_there, self.status, self.output = False, "COMPLETE", []
        monkeypatch.setattr(api, "build_kaggle_client", self.client)
        monkeypatch.setattr(api, "upload_complete", self.upload)

    @contextlib.contextmanager
    def client(self):
        kernels = SimpleNamespace(
            save_kernel=self.record(lambda: self.kernel),
            get_kernel_session_status=self.record(self.session),
            list_kernel_session_output=self.record(
                lambda: SimpleNamespace(files=self.output, log="", next_page_token="")
            ),
        )
        datasets = SimpleNamespace(
            get_dataset_status=self.record(self.dataset_status),
            create_dataset=self.record(lambda: self.dataset),
            create_dataset_version=self.record(lambda: self.dataset),
        )
        start = SimpleNamespace(create_url="", token="token", to_dict=lambda: {})
        yield SimpleNamespace(
            kernels=SimpleNamespace(kernels_api_client=kernels),
            datasets=SimpleNamespace(dataset_api_client=datasets),
            blobs=SimpleNamespace(blob_api_client=SimpleNamespace(start_blob_upload=self.record(lambda: start))),
        )

    def record(self, answer):
        def call(request):
            self.sent.append(request)
            return answer()

        return call

    def session(self):
        return SimpleNamespace(status=SimpleNamespace(name=self.status), failure_message="")

    def dataset_status(self):
        from requests import HTTPError

        if self.is_there:
            return SimpleNamespace(status=SimpleNamespace(name="READY"))
        raise HTTPError("404 Client Error", response=SimpleNamespace(status_code=404, text="no such data set"))

    def upload(self, path, url, quiet, resume=False):
        from kaggle.api.kaggle_api_extended import ResumableUploadResult

        if path.endswith(".zip"):
            self.archives[path.rpartition("/")[2]] = zipfile.ZipFile(path).namelist()
        return ResumableUploadResult.COMPLETE


@pytest.fixture
def server(client, monkeypatch):
    """Return the real client's API, and the server that it talks to."""
    api = remote.open_api()
    server = Server(api, monkeypatch)
    server.api = api
    monkeypatch.setattr(remote, "open_api", lambda: api)
    return server


@pytest.mark.parametrize("stage", STAGES)
def test_the_client_takes_every_kernel_and_sends_what_was_asked_for(server, rendered, stage, capsys):
    said = remote.push(rendered / stage, server.api)
    assert said.startswith("me/kdkit-") and said.endswith("version 3, https://www.kaggle.com/code/me/x")
    assert capsys.readouterr().out == "", "the client warns of a title that does not fit, and of nothing else"
    (request,) = server.sent
    number = STAGES.index(stage)
    names = [f"me/kdkit-{name.replace('_', '-')}" for name in STAGES]
    assert request.slug == names[number] and request.new_title == f"kdkit {stage.replace('_', ' ')}"
    assert (request.language, request.kernel_type) == ("python", "notebook")
    assert (request.is_private, request.enable_tpu, request.enable_internet) == (True, False, True)
    assert request.enable_gpu == (stage != "05_report")
    assert (request.machine_shape or "") == ("" if stage == "05_report" else "NvidiaTeslaT4")
    assert request.dataset_data_sources == ["me/kdkit-package"]
    assert request.kernel_data_sources == ([names[number - 1]] if number else [])
    notebook = nbformat.reads(request.text, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3" and len(request.text) < 1_000_000
    (injected,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert 'RUN = "t4x2"' in injected.source
    assert KEY not in request.text and str(ROOT) not in request.text


def test_the_package_is_a_new_data_set_then_a_version(server, rendered):
    assert remote.push(rendered / "package", server.api) == "me/kdkit-package: https://www.kaggle.com/datasets/me/x"
    request = server.sent[-1]
    assert (request.owner_slug, request.slug, request.is_private) == ("me", "kdkit-package", True)
    assert {"kdkit.zip", "configs.zip", "notebooks.zip"} == set(server.archives)
    files = {path.relative_to(ROOT / "kdkit").as_posix() for path in (ROOT / "kdkit").rglob("*.py")}
    assert files <= set(server.archives["kdkit.zip"]) and "01_data.ipynb" in server.archives["notebooks.zip"]
    server.is_there = True
    remote.push(rendered / "package", server.api)
    assert type(server.sent[-1]).__name__ == "ApiCreateDatasetVersionRequest"
    assert remote.wait_for(rendered / "package", server.api) == ""


def test_the_answer_of_the_server_is_read_not_the_absence_of_an_exception(server, rendered):
    server.kernel.error = "Maximum weekly GPU quota of 30.00 hours has been reached."
    with pytest.raises(UserError, match="expected me/kdkit-01-data to be taken, got: Maximum weekly GPU quota"):
        remote.push(rendered / "01_data", server.api)
    server.kernel.error = ""
    server.kernel.invalid_kernel_sources = ["me/kdkit-01-data"]
    with pytest.raises(UserError, match="a refusal of kernel_sources me/kdkit-01-data; push them first"):
        remote.push(rendered / "02_teacher_probe", server.api)
    server.dataset.error = "The slug is taken"
    with pytest.raises(UserError, match="expected the data set me/kdkit-package to be taken, got: The slug is taken"):
        remote.push(rendered / "package", server.api)


def test_what_the_client_refuses_is_one_line(server, rendered, tmp_path, capsys):
    broken = shutil.copytree(rendered / "01_data", tmp_path / "01_data")
    values = json.loads((broken / "kernel-metadata.json").read_text())
    (broken / "kernel-metadata.json").write_text(json.dumps(values | {"dataset_sources": ["no-owner"]}))
    with pytest.raises(SystemExit) as stop:
        cli.main(["kaggle", "push", "01", "--from", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and len(error.splitlines()) == 1
    assert "push of 01_data, got: Dataset must be specified in the form of" in error


def test_no_credentials_are_one_line(client, rendered, monkeypatch, capsys):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as stop:
        cli.main(["kaggle", "push", "01", "--from", str(rendered)])
    out, error = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and len(error.splitlines()) == 1
    assert "expected credentials of Kaggle, got none that it accepts; kaggle auth login" in error


def test_without_the_package_it_says_what_to_install(rendered, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "kaggle", None)
    monkeypatch.setitem(sys.modules, "kaggle.api.kaggle_api_extended", None)
    with pytest.raises(SystemExit):
        cli.main(["kaggle", "status", "--from", str(rendered)])
    assert capsys.readouterr().err.endswith("got none installed; pip install 'kaggle>=2.2,<2.2.5' six\n")


class Files(BaseHTTPRequestHandler):
    """Give the files of an output, as Kaggle's storage does: by addresses that run out."""

    content: ClassVar = {}

    def do_GET(self):
        body = self.content.get(self.path.lstrip("/"))
        self.send_response(200 if body is not None else 403)
        self.end_headers()
        self.wfile.write(body if body is not None else b"<Error><Code>ExpiredToken</Code></Error>")

    def log_message(self, *_):
        pass


@pytest.fixture
def answering(server, monkeypatch):
    """Attach files to a finished kernel, and a server on this machine that gives them."""
    status = {"state": "stopped", "phase": "student", "step": 40, "total_steps": 90, "resume_needed": True}
    text = json.dumps(status | {"reason": "time budget"})
    monkeypatch.setattr(Files, "content", {"runs/t4x2/status.json": text.encode(), "runs/t4x2/report.md": b"report"})
    storage = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=storage.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{storage.server_port}/"
    server.output = [SimpleNamespace(file_name=name, url=server.address + name) for name in Files.content]
    yield server
    storage.shutdown()
    storage.server_close()


def test_status_reads_the_status_of_the_run(answering, rendered, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["kaggle", "status", "03", "--from", str(rendered)])
    (line,) = capsys.readouterr().out.splitlines()
    assert stop.value.code == 0
    name, _, words = line.partition(" ")
    assert name == "03_distill"
    assert words.strip() == (
        "complete stopped student step 40 of 90 (time budget) - it goes on in another session: "
        "see docs/kaggle.md, Push and rehearse"
    )


def test_output_is_the_run_folder(answering, rendered, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["kaggle", "output", "03", "--from", str(rendered), "--to", str(tmp_path / "o")])
    assert (tmp_path / "o/runs/t4x2/report.md").read_text() == "report"
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("student/model.safetensors", "403 Client Error"),
        ("../outside.md", "got one named '../outside.md'; it is not written"),
    ],
)
def test_a_file_that_cannot_be_had_is_an_error_and_no_file(answering, rendered, tmp_path, capsys, name, words):
    Files.content["outside"] = b"outside"
    url = answering.address + ("outside" if name.startswith("..") else name)
    answering.output.append(SimpleNamespace(file_name=name, url=url))
    with pytest.raises(SystemExit) as stop:
        cli.main(["kaggle", "output", "03", "--from", str(rendered), "--to", str(tmp_path / "o")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and words in error and len(error.splitlines()) == 1
    assert not (tmp_path / "o" / name).exists() and not (tmp_path / "outside.md").exists()


def test_a_push_of_several_waits_for_each_and_stops_where_one_fails(server, rendered, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["kaggle", "push", "01", "02", "--from", str(rendered)])
    assert stop.value.code == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "me/kdkit-01-data",
        "01_data",
        "me/kdkit-02-teacher-probe",
    ]
    server.status = "ERROR"
    with pytest.raises(SystemExit) as stop:
        cli.main(["kaggle", "push", "01", "02", "--from", str(rendered)])
    assert stop.value.code == 2
    assert "expected 01_data to complete, got ERROR" in capsys.readouterr().err
