"""The README's file tree names every file of the repository, and nothing else."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOT_OURS = re.compile(r"(^|/)(\.git|\.venv|\.cache|runs|wandb|build|dist|__pycache__|[^/]*\.egg-info|\.[a-z_]+_cache|\.hypothesis|\.ipynb_checkpoints)(/|$)")  # fmt: skip  # noqa: E501


def test_the_file_tree_is_true():
    tree = (ROOT / "README.md").read_text().rpartition("## Files")[2].split("```")[1]
    listed = [line.split()[0] for line in tree.strip().splitlines()]
    present = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()}
    assert sorted(listed) == sorted(name for name in present if not NOT_OURS.search(name))


def test_every_line_of_the_file_tree_says_what_the_file_is_for():
    tree = (ROOT / "README.md").read_text().rpartition("## Files")[2].split("```")[1]
    assert all(len(line.split(maxsplit=1)) == 2 for line in tree.strip().splitlines())


def test_the_two_commands_come_first():
    commands = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    assert [line.split("#")[0].strip() for line in commands.strip().splitlines()] == ["make run", "make test"]
