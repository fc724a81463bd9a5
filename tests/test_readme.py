"""The README starts with what one does first."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_two_commands_come_first():
    commands = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    assert [line.split("#")[0].strip() for line in commands.strip().splitlines()] == ["make run", "make test"]
