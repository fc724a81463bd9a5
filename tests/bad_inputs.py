"""The table of bad inputs: commands, their answers, and the files that they name."""

import re
from pathlib import Path

TABLE = Path(__file__).with_suffix(".txt")
"""`$ COMMAND`, and below it the answer; FOLDER is the folder that one is in, and `...` stands for any text."""

TEXT = "\n\n".join(f"Paragraph {i} says that {i} times {i} is {i * i}." for i in range(600))
FILES = {
    "text.txt": (TEXT, "600 paragraphs"),
    "empty.txt": ("", "nothing"),
    "latin1.txt": (b"caf\xe9 " * 50, "text in Latin-1"),
    "short.txt": ("One line.\n\nAnother line.", "two lines"),
    "slides.pdf": ("%PDF", "a PDF"),
    "picture.txt": (b"\x89PNG\r\n\x00\x00", "a picture"),
    "lines.jsonl": ('{"text": "a"}\n{"text": ', "a second line that is cut off"),
    "rows.jsonl": ('{"body": "a", "id": 1}\n', "the columns `body` and `id`"),
    "rows.csv": ("body,id\na,1\n", "the columns `body` and `id`"),
    "broken.parquet": ("not parquet", "plain text"),
    "pairs.jsonl": ('{"good": "The cats run."}\n', "a pair with one sentence"),
    "prompts.jsonl": ('{"question": "Why?"}\n', "a row without `prompt`"),
    "broken.yaml": ("train: {max_steps: [1\n", "an open bracket"),
    "list.yaml": ("- train\n- data\n", "a list"),
    "latin1.yaml": (b"# caf\xe9\n", "a comment in Latin-1"),
    "both.yaml": ("distill: {alpha: 0.5, kd_ratio: 0.5}\n", "a setting and its alias"),
    "twice.yaml": ("train: {max_steps: 1}\ntrain: {max_steps: 2}\n", "a section that is written twice"),
    "anchor.yaml": ("distill: {layer_map: &a {0: *a}}\n", "a mapping that holds itself"),
    "tag.yaml": ("train: !!python/object/apply:os.system ['true']\n", "a call of Python"),
    "same.yaml": (
        "config: smoke\nseeds: [0, 0]\nreference: a\nvariants: {a: {}, b: {train.max_steps: 2}}\n",
        "a sweep with a seed twice",
    ),
    "equal.yaml": ("config: smoke\nseeds: [0]\nreference: a\nvariants: {a: {}, b: {}}\n", "a sweep of equal variants"),
    "novariants.yaml": (
        "config: smoke\nseeds: [0]\nreference: c\nvariants: {a: {}, b: {train.max_steps: 2}}\n",
        "a sweep whose reference is no variant",
    ),
    "sizes.json": ('{"hidden_size": 32, ', "JSON that is cut off"),
    "broken.gguf": ("GGML", "a GGUF file of another kind"),
    "notes.h5": ("no HDF5", "plain text"),
    "code.py": ("class Teacher: pass\n", "a class that is no teacher"),
    "model/config.json": ('{"model_type": "llama"}', "a model with pickled weights"),
    "model/pytorch_model.bin": (b"\x80\x02.", "its weights"),
    "nothing/notes.txt": ("no model", "a folder without a model"),
    "runs/begun/config.yaml": ("train: {max_steps: 7}\n", "a run that was never evaluated"),
    "runs/begun/student/config.json": ("{}", "its student, without weights"),
    "runs/unfinished/config.yaml": ("", "a run without a student"),
}  # fmt: skip
"""`{file: (content, what it is)}`."""


def read_table() -> list[tuple[str, str]]:
    """Return every command and the answer to it."""
    return re.findall(r"^\$ (.*)\n(.*)$", TABLE.read_text(encoding="utf-8"), re.MULTILINE)


def write_files(folder: Path) -> None:
    """Write the files that the commands name."""
    for name, (content, _) in FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def fits(answer: str, said: str) -> bool:
    """Return whether what was said is an answer of the table."""
    return re.fullmatch(".*".join(map(re.escape, answer.split("..."))), said) is not None
