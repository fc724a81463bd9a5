"""The README is short, starts with what one does first, and its map is the house as it stands."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_two_commands_come_first():
    commands = re.search(r"```bash\n(.*?)```", README, re.DOTALL).group(1)
    assert [line.split("#")[0].strip() for line in commands.strip().splitlines()] == ["make run", "make test"]
    assert README.index("```") == README.index("```bash")


def test_the_readme_has_at_most_150_lines():
    assert len(README.splitlines()) <= 150


def test_the_map_names_every_folder_of_the_package_in_its_own_words():
    rooms = {path.parent.name: path for path in sorted((ROOT / "kdkit").glob("*/__init__.py"))}
    words = {
        name: ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]
        for name, path in rooms.items()
    }
    assert dict(re.findall(r"^\| `kdkit/(\w+)/` \| (.*) \|$", README, re.MULTILINE)) == words


def test_the_python_of_the_readme_is_about_ten_lines_that_parse():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    ast.parse(code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
