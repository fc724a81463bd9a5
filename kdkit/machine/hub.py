"""Access to the Hugging Face hub: checked once, so that a machine without network fails at once.

The hub's own client retries for 25 seconds and more before it gives up on every single file.
"""

from functools import lru_cache
from pathlib import Path

from kdkit.errors import UserError
from kdkit.machine.gguf_files import is_gguf, resolve_gguf
from kdkit.machine.network import can_connect
from kdkit.machine.packages import is_packaged, resolve_package
from kdkit.machine.user_code import is_user_code, make_user_object
from kdkit.runs.folder import fingerprint, fingerprint_files
from kdkit.runs.hashes import hash_file
from kdkit.runs.paths import resolve_input


@lru_cache(maxsize=1)
def hub_is_reachable() -> bool:
    """Return whether the hub can be reached; behind a proxy, or with HF_HUB_OFFLINE set, trust the setting."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and can_connect(constants.ENDPOINT)


def is_local_path(path: str) -> bool:
    """Return whether a name means a folder: it exists, or is written as a path, or as a package that is here.

    So does a GGUF file.
    """
    return (
        is_packaged(path) or is_gguf(path) or path.startswith(("/", "./", "../", "~")) or resolve_input(path).is_dir()
    )


def resolve_model_path(path: str, key: str) -> str:
    """Return a hub name as it is, and a folder, or a packaged model (`package:NAME`), as a path that exists.

    Raises:
        UserError: the folder does not exist; see also `resolve_package`.
    """
    if is_packaged(path):
        return str(resolve_package(path, key))
    if not is_local_path(path):
        return path
    folder = resolve_input(path)
    if not folder.is_dir():
        raise UserError(
            f"{key}: expected a model folder, got {path!r}, which does not exist (in {Path.cwd()}); correct the path"
        )
    return str(folder)


def identify_tokenizer(path: str, key: str) -> str:
    """Name what a path's tokenizer is made of: a hub name by itself, a folder by what its tokenizer files hold."""
    if is_user_code(path):
        return fingerprint(make_user_object(path, key).tokenizer.backend_tokenizer.to_str())
    if is_gguf(path):
        return hash_file(resolve_gguf(path, key))
    folder = resolve_input(path)
    if not folder.is_dir():
        return path
    names = (file for file in sorted(folder.glob("*")) if file.suffix in (".json", ".txt", ".model"))
    return fingerprint(*(fingerprint_files(file) for file in names if file.is_file()))


def explain_load_error(error: Exception, path: str, key: str, what: str) -> UserError:
    """Return an error with the reason, on one line, why a model or tokenizer could not be loaded, and the remedy."""
    reason = " ".join(str(error).split())[:200]
    if "contains custom code" in reason:
        switch = f"{key.rpartition('.')[0]}.trust_remote_code=true"
        return UserError(f"{key}: expected a {what}, got code of its own in {path!r}; read it, then set {switch}")
    if is_local_path(path):
        return UserError(f"{key}: expected a {what} in the folder {path!r}, got: {reason}; save one there first")
    if not hub_is_reachable():
        return UserError(
            f"{key}: expected the hub or its local cache to hold {path!r}, got no network and nothing cached; "
            f"switch the network on, or download the model elsewhere and point to its folder: {key}=FOLDER"
        )
    return UserError(
        f"{key}: expected a hub model that can be read, got {path!r}: {reason}; check the name and your access, "
        f"or point to a folder: {key}=FOLDER"
    )
