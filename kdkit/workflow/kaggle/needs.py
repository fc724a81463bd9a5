"""What an image of Kaggle's lacks of the package's requirements; imports nothing but Python itself."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

TESTS_ONLY = ("nbval",)
"""Requirements that no notebook imports."""


def install_missing(requirements: Path = Path(__file__).parents[3] / "requirements.txt") -> list[str]:
    """Install the requirements that are not there at all, and leave every other package in the version that it has.

    pip on the whole file could replace torch, which on Kaggle must be the one of the image.

    Returns:
        The lines that were installed.
    """
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    missing = [line for line in lines if (name := _name(line)) and name not in TESTS_ONLY and not _is_here(name)]
    if missing:
        print("installing what this image lacks:", ", ".join(missing))
        quiet = ("--quiet", "--disable-pip-version-check")
        subprocess.run([sys.executable, "-m", "pip", "install", *quiet, *missing], check=True)
    return missing


def _name(line: str) -> str:
    """Return the package that a line of a requirements file asks for; empty: none."""
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", line.strip())
    return found[0] if found else ""


def _is_here(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
