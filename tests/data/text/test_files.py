"""Files as documents: which of a folder are read, and how a text is cut."""

import shlex
from pathlib import Path

import pytest

from kdkit.config.language import DataConfig, dump_config, load_config
from kdkit.data.text import corpora
from kdkit.data.text.corpora import load_corpus, split_text
from kdkit.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
QUOTES = "'\""


def refusal(config: DataConfig, cache: Path) -> str:
    """Return why these documents cannot be read."""
    with pytest.raises(UserError) as caught:
        load_corpus(config, cache)
    return str(caught.value)


LEFT_OVER = (
    ".hidden.txt",
    ".ipynb_checkpoints/a-checkpoint.txt",
    "deep/.cache/b.txt",
    "__MACOSX/._a.txt",
    "__MACOSX/a.txt",
    "a-checkpoint.txt",
    "a.bak.txt",
    "a_backup.txt",
    "~$a.txt",
    "#a#.txt",
    "a~.txt",
    "a - Copy.txt",
    "a - copy (2).txt",
    "Copy of a.txt",
    "__pycache__/a.txt",
    "a-Copy1.txt",
    "a copy 2.txt",
    "a (1).txt",
    "a (my computer's conflicted copy 2026-01-01).txt",
    "deep/b.sync-conflict-20260101-120000-ABC.txt",
)


def test_hidden_files_and_leftovers_are_no_documents(tmp_path, capsys):
    folder = tmp_path / ".data" / "texts"  # hidden itself, but named by the user
    texts = {"a.txt": "kept one", "deep/b.txt": "kept two", "told.txt": "kept three", "copybook.txt": "kept four"}
    texts |= {"part (1).txt": "kept five", "part (2).txt": "kept six", "carbon copy.txt": "kept seven"}
    for name, text in (texts | dict.fromkeys(LEFT_OVER, "left over")).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    corpus = load_corpus(DataConfig(path=str(folder)), tmp_path / "cache")
    assert sorted(corpus.documents) == sorted(texts.values())
    assert corpus.files_left_out == len(LEFT_OVER)
    assert f"not read: {len(LEFT_OVER)}, such as" in capsys.readouterr().out


def test_a_hidden_file_that_is_named_is_read(tmp_path):
    (tmp_path / ".hidden.txt").write_text("text")
    assert load_corpus(DataConfig(path=str(tmp_path / ".hidden.txt")), tmp_path / "cache").documents == ["text"]


def test_a_folder_of_nothing_but_leftovers_is_refused(tmp_path):
    (tmp_path / ".a.txt").write_text("text")
    assert "1 hidden or left-over files in it are none" in refusal(DataConfig(path=str(tmp_path)), tmp_path)


def test_a_changed_hidden_file_changes_nothing(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("text")
    key = corpora._identify(DataConfig(path=str(folder)))
    (folder / ".b.txt").write_text("other")
    assert corpora._identify(DataConfig(path=str(folder))) == key


@pytest.mark.parametrize(
    "names", [("train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"), ("c.00002-of-00002.txt",)]
)
def test_a_missing_part_is_found_before_anything_is_read(tmp_path, names):
    for name in names:
        (tmp_path / name).write_text('{"text": "a"}')
    message = refusal(DataConfig(path=str(tmp_path)), tmp_path / "cache")
    assert "without number 00001" in message


@pytest.mark.parametrize("block", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("separator", [None, "\n---\n", "ab", "\n\n\n", "<|endoftext|>"])
def test_files_are_cut_as_whole_texts_whatever_is_read_at_once(tmp_path, monkeypatch, block, separator):
    monkeypatch.setattr("kdkit.data.text.files.BLOCK", block)
    texts = [
        "one\n---\ntwo\r\n---\r\nthree\n\n\n\nfour abab five",
        "caf\u00e9 \U0001f600 ab<|endoftext|>\n---\n \n\n<|endoftext|>ab",
        " = One = \n text\n = = Part = = \n = Two = \n end",
        "\n \nparagraph\nof two lines\n\n\n" + "long " * 500 + "\n\u3000\nlast",
    ]
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(text.encode())
        found = load_corpus(DataConfig(path=str(path), document_separator=separator), tmp_path / f"cache{number}")
        # a line end in a separator is any line end
        cut = split_text(text) if separator is None else text.replace("\r\n", "\n").split(separator)
        cut = [part.strip().replace("\r\n", "\n") for part in cut]
        found = [document.replace("\r\n", "\n") for document in found.documents]
        assert found == [part for part in dict.fromkeys(cut) if part]


@pytest.mark.parametrize(
    "written",
    ["\n---\n", "\\n---\\n", '"\\n---\\n"', "'\\n---\\n'"],
    ids=["line ends", "escapes", "quoted escapes", "escapes in single quotes"],
)
def test_a_separator_with_line_ends_means_the_same_on_every_way(tmp_path, written):
    override = f"data.document_separator={written}"
    by_command = load_config(ROOT / "configs" / "demo.yaml", [override])
    by_pipeline = load_config(ROOT / "configs" / "demo.yaml", shlex.split(shlex.join([override])))
    by_notebook = load_config(
        ROOT / "configs" / "demo.yaml", shlex.split(f'data.document_separator="{written.strip(QUOTES)}"')
    )
    (tmp_path / "dumped.yaml").write_text(dump_config(by_command))
    again = load_config(tmp_path / "dumped.yaml")
    for config in (by_command, by_pipeline, by_notebook, again):
        assert config.data.document_separator == "\n---\n"
