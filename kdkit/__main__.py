"""`python -m kdkit VERB`: the command line, see kdkit/cli/."""

import sys

try:
    from kdkit.cli import main
except ModuleNotFoundError as error:
    if str(error.name).startswith("kdkit"):
        raise
    print(
        f"error: expected kdkit's packages in {sys.executable}, got no {error.name}; use the Python of the environment "
        f"that `make run` makes, .venv/bin/python, or: {sys.executable} -m pip install -r requirements.txt",
        file=sys.stderr,
    )
    sys.exit(2)

main()
