"""Every file of kdkit's appears whole or not at all: who writes to a path itself is listed here, with the reason."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WRITERS = {"write_text", "write_bytes", "save_pretrained", "savefig", "save", "savez", "savez_compressed", "save_file"}
WRITERS |= {"copyfile", "copy2", "copytree", "symlink_to"}
"""Methods and functions that write to a path; as is `open` with one of these letters in its mode."""
MODES = set("wax+")

EXCEPTIONS = {
    "into a folder that takes its place when it is whole (cached_folder, whole_folder)": [
        "alignment/characters.py",
        "data/arrays.py",
        "data/build.py",
        "data/text/corpora.py",
        "data/text/documents.py",
        "data/text/problems.py",
        "data/windows.py",
        "distill/student.py",
        "embeddings/data/prepare.py",
        "embeddings/models/export.py",
        "embeddings/models/modules.py",
        "embeddings/models/static.py",
        "embeddings/teacher/late_teacher.py",
        "embeddings/teacher/lists.py",
        "embeddings/teacher/vocabulary.py",
        "machine/from_gguf.py",
        "machine/packages.py",
        "models/lora.py",
        "models/onnx/graph.py",
        "models/quantised/model.py",
        "runs/folder.py",
        "teachers/build.py",
    ],
    "into a checkpoint that takes its place when it is whole (whole_checkpoint)": [
        "distill/committee/manifest.py",
        "distill/committee/trainer.py",
        "distill/trainer.py",
        "embeddings/training/trainer.py",
        "training/micro_batch.py",
        "training/steps.py",
        "training/trainer.py",
    ],
    "to a file that takes its place when it is whole (whole_file)": [
        "distill/checkpoints.py",
        "distill/committee/scores.py",
        "distill/curriculum.py",
        "evaluate/attention.py",
    ],
    "lines are added, by one writer; readers leave out a torn end": ["runs/lines.py", "workflow/generate.py"],
    "the folder is made anew by the same command": [
        "workflow/kaggle/package.py",
        "workflow/kaggle/remote.py",
        "workflow/kaggle/render.py",
    ],
    "holds nothing: a lock, the system's own, or nobody's": [
        "machine/memory.py",
        "runs/disk.py",
        "workflow/helpers.py",
        "workflow/machines/distill.py",
    ],
}
"""By the reason, files below kdkit/."""
WHOLE = ("partial", "buffer")
"""Beginnings of what is written to, where a writer gives it a name that another one takes the place of."""


def writes(tree: ast.AST) -> list[str]:
    """Return the calls that write to a path of the caller's."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        opens = name == "open" and any(len(text) < 4 and MODES & set(text) for text in texts)
        is_known = isinstance(node.func, ast.Attribute) or name == "save_file"
        if not (opens or (name in WRITERS and is_known)):
            continue
        words = ast.unparse(node)
        if not any(re.search(rf"\b{word}", words) for word in WHOLE):
            found.append(f"{node.lineno}: {words[:80]}")
    return found


def test_who_writes_to_a_path_has_a_reason():
    found = {}
    for path in sorted((ROOT / "kdkit").rglob("*.py")):
        if calls := writes(ast.parse(path.read_text(encoding="utf-8"))):
            found[str(path.relative_to(ROOT / "kdkit"))] = calls
    excused = {name for names in EXCEPTIONS.values() for name in names}
    assert {name: calls for name, calls in found.items() if name not in excused} == {}
    assert excused - found.keys() == set(), "these write no longer"
