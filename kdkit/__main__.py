"""`python -m kdkit VERB`: the command line, see kdkit/cli/."""

from kdkit.cli import main

main()
