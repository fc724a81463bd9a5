"""What is done at Kaggle, through its own client: push, status, output.

The client exits with 0 whatever the server has said, and prints where it should raise; so what it returns is read.
"""

import contextlib
import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkit.errors import UserError
from kdkit.workflow.kaggle.package import DATASET_FILE
from kdkit.workflow.kaggle.render import METADATA
from kdkit.workflow.kaggle.source import RETIRED

SECONDS_BETWEEN_LOOKS = 60
PATIENCE_SECONDS = 60
PAGE = 100
"""Files of an output that are listed at once."""
GOING_ON = ("QUEUED", "RUNNING", "NEW_SCRIPT", "CANCEL_REQUESTED")
REFUSED = ("dataset", "kernel", "competition", "model")
"""Sources that the server may drop, and then runs the kernel without them."""
ADVICE = "kaggle auth login (or put a token into ~/.kaggle/access_token, or KAGGLE_API_TOKEN)"


def open_api() -> Any:
    """Return Kaggle's client, with the credentials of this user.

    Raises:
        UserError: the package is not installed, or it found no credentials.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):  # a page on how to log in
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
    except ImportError:
        raise UserError(
            "kaggle: expected the package kaggle, got none installed; pip install 'kaggle>=2.2,<2.2.5' six"
        ) from None
    except SystemExit:
        raise UserError(f"kaggle: expected credentials of Kaggle, got none that it accepts; {ADVICE}") from None
    return api


def push(folder: Path, api: Any) -> str:
    """Push a rendered folder: a kernel, which Kaggle then runs, or the data set of the package.

    Returns:
        What became of it, in a sentence.

    Raises:
        UserError: the client or the server refuses it, or a part of it.
    """
    if (folder / DATASET_FILE).is_file():
        return _push_package(folder, api)
    values = read_metadata(folder)
    with _one_line(f"push of {folder.name}"):
        response = api.kernels_push(str(folder))
    if response is None or response.error:
        said = response.error if response is not None else "no answer"
        raise UserError(f"kaggle push: expected {values['id']} to be taken, got: {said}; see {folder / METADATA}")
    for kind in REFUSED:
        if refused := getattr(response, f"invalid_{kind}_sources"):
            raise UserError(
                f"kaggle push: expected all inputs of {values['id']} to be attached, got a refusal of {kind}_sources "
                f"{', '.join(refused)}; push them first and wait until they are complete: python -m kdkit kaggle status"
            )
    shape = RETIRED.get(values.get("machine_shape", ""))
    return f"{values['id']}: version {response.version_number}, {response.url}{f' ({shape})' if shape else ''}"


def _push_package(folder: Path, api: Any) -> str:
    """Make the data set of the package, or its next version."""
    name = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))["id"]
    with _one_line(f"push of {folder.name}"):
        if _exists(name, api):
            response = api.dataset_create_version(str(folder), "by kdkit", quiet=True, dir_mode="zip")
        else:
            response = api.dataset_create_new(str(folder), quiet=True, dir_mode="zip")
    if response.error or response.status == "error":
        raise UserError(f"kaggle push: expected the data set {name} to be taken, got: {response.error}; see {folder}")
    return f"{name}: {response.url}"


def _exists(name: str, api: Any) -> bool:
    """Return whether a data set is there; the server answers 403 or 404 where there is none."""
    from requests import HTTPError

    try:
        api.dataset_status(name)
    except HTTPError as error:
        if error.response is not None and error.response.status_code in (403, 404):
            return False
        raise
    return True


def look_at(folder: Path, api: Any) -> tuple[str, str]:
    """Return the state of a kernel at Kaggle, such as `COMPLETE`, and what there is to say of it."""
    name = read_metadata(folder)["id"]
    with _one_line(f"status of {folder.name}"):
        response = api.kernels_status(name)
    state = str(getattr(response.status, "name", response.status))
    words = response.failure_message or ""
    if state == "COMPLETE":
        with tempfile.TemporaryDirectory() as place:
            files = fetch(folder, Path(place), api, r"(^|/)status\.json$")
            found = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.name == "status.json"]
        words = "; ".join(describe_status(status) for status in found)
    return state, words


def describe_status(status: dict[str, Any]) -> str:
    """Say what the `status.json` of a run means for who looks at it from outside."""
    words = [str(status[key]) for key in ("state", "phase") if status.get(key)]
    if status.get("total_steps"):
        words.append(f"step {status.get('step', 0)} of {status['total_steps']}")
    if status.get("reason"):
        words.append(f"({status['reason']})")
    if status.get("resume_needed"):
        words.append("- it goes on in another session: see docs/kaggle.md, Push and rehearse")
    return " ".join(words)


def wait_for(folder: Path, api: Any, seconds: float = SECONDS_BETWEEN_LOOKS) -> str:
    """Wait until what was pushed has ended, since the next one reads it; return what there is to say of it.

    Raises:
        UserError: it ended in another way than complete.
    """
    if (folder / DATASET_FILE).is_file():
        return _wait_for_package(folder, api, seconds)
    while (found := look_at(folder, api))[0] in GOING_ON:
        time.sleep(seconds)
    if found[0] != "COMPLETE":
        raise UserError(
            f"kaggle push: expected {folder.name} to complete, got {found[0]} {found[1]}; read its log: "
            f"python -m kdkit kaggle output {folder.name}"
        )
    return found[1]


def _wait_for_package(folder: Path, api: Any, seconds: float) -> str:
    """Wait until a data set is unpacked at Kaggle."""
    name = json.loads((folder / DATASET_FILE).read_text(encoding="utf-8"))["id"]
    while True:
        with _one_line(f"status of {name}"):
            status = api.dataset_status(name)
        if status == "ready":
            return ""
        if status in ("failed", "deleted"):
            raise UserError(f"kaggle push: expected the data set {name} to be unpacked, got {status!r}; push it again")
        time.sleep(seconds)


def fetch(folder: Path, place: Path, api: Any, pattern: str = "") -> list[Path]:
    """Download what a kernel has left, and its log.

    The client has a call for it, which keeps the text of a server's error as if it were the file
    (findings/kaggle_output_keeps_an_error_page.sh).

    Args:
        place: a folder, made if there is none.
        pattern: of the names of files; empty: all.

    Raises:
        UserError: no answer, a file that cannot be had, or one whose name leads out of the folder.
    """
    from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

    request = ApiListKernelSessionOutputRequest()
    request.user_name, request.kernel_slug = read_metadata(folder)["id"].split("/")
    request.page_size, files, log = PAGE, [], ""
    with _one_line(f"output of {folder.name}"), api.build_kaggle_client() as kaggle:
        while True:
            response = kaggle.kernels.kernels_api_client.list_kernel_session_output(request)
            chosen = [item for item in response.files or [] if re.search(pattern, item.file_name)]
            files += [_download(item.url, item.file_name, place) for item in chosen]
            log = log or response.log or ""
            if not response.next_page_token:
                break
            request.page_token = response.next_page_token
        if log and not pattern:
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{request.kernel_slug}.log").write_text(log, encoding="utf-8")
            files.append(place / f"{request.kernel_slug}.log")
    return files


def _download(url: str, name: str, place: Path) -> Path:
    """Write a file below a folder, whole or not at all."""
    import requests

    target = place / name
    if not target.resolve().is_relative_to(place.resolve()):
        raise UserError(f"kaggle output: expected a file below {place}, got one named {name!r}; it is not written")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with requests.get(url, stream=True, timeout=PATIENCE_SECONDS) as response, partial.open("wb") as file:
            response.raise_for_status()
            for part in response.iter_content(2**20):
                file.write(part)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read the `kernel-metadata.json` of a rendered folder.

    Raises:
        UserError: there is none.
    """
    if not (folder / METADATA).is_file():
        raise UserError(f"kaggle: expected a rendered kernel in {folder}, got none; python -m kdkit kaggle render")
    return json.loads((folder / METADATA).read_text(encoding="utf-8"))


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Keep what the client prints to itself, and turn what it raises into one line."""
    from requests import RequestException

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except (RequestException, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        response = getattr(error, "response", None)
        said = " ".join(str(error).split())[:300] + (f": {response.text.strip()[:200]}" if response is not None else "")
        remedy = f"try again, or {ADVICE}" if isinstance(error, RequestException) else "python -m kdkit kaggle render"
        raise UserError(f"kaggle: expected an answer to the {what}, got: {said}; {remedy}") from None
    except SystemExit:
        raise UserError(
            f"kaggle: expected credentials for the {what}, got none that Kaggle accepts; {ADVICE}"
        ) from None
