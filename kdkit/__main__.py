"""`python -m kdkit VERB`: the command line, see kdkit/cli.py."""

from kdkit.cli import main

main()
