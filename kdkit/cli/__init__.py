"""The command line: `python -m kdkit VERB`, a file for every group of verbs."""

from kdkit.cli.app import main

__all__ = ["main"]
