"""`python -m kdkit tokenizer train` and `show`: what they write, print and refuse."""

import json
import shutil

import pytest

from kdkit import cli
from kdkit.alignment.tokenizers import load_tokenizer, train_tokenizer
from kdkit.config.language import Config, config_from_values
from kdkit.data.prepare import identify_data
from kdkit.report.tokens.words import DIVIDER
from tests.lossy import train_wordpiece
from tests.tiny import make_config, make_data


@pytest.fixture
def corpus(tmp_path, documents):
    """Documents in a file."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@pytest.fixture
def command(capsys, monkeypatch):
    """Run a verb of tokenizers; return its exit code, output and error."""

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main(["tokenizer", *map(str, words)])
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return run


@pytest.fixture
def trained(command, corpus, tmp_path):
    """A tokenizer trained by the command."""
    folder = tmp_path / "tokenizer"
    code, out, _ = command("train", corpus, "--vocab-size", 400, "--output", folder, "--special", "<|think|>")
    assert code == 0 and "400 entries: 256 bytes, 2 special, 142 merges; from 40 texts" in out
    assert f"tokenizer show {folder} {corpus}" in out and f"student.build.tokenizer={folder}" in out
    return folder


def test_the_trained_tokenizer_can_be_loaded(trained, documents):
    tokenizer = load_tokenizer(trained)
    assert tokenizer.get_vocab() == train_tokenizer(documents, 400, ("<|think|>",)).get_vocab()
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|endoftext|>",) * 2


def test_show_divides_the_text_and_counts_it(trained, command, corpus, documents):
    code, out, err = command("show", trained, corpus, "--characters", 40, "--count", 3)
    assert code == 0, err
    cut = [load_tokenizer(trained).decode(i) for i in load_tokenizer(trained)(documents[0][10:40]).input_ids]
    assert DIVIDER.join(cut[2:-2]) in out and documents[0][40:60] not in out.replace(DIVIDER, "")
    tokens = sum(len(load_tokenizer(trained)(text, add_special_tokens=False).input_ids) for text in documents)
    size = sum(len(text.encode()) for text in documents)
    assert f"{size / tokens:.3f}" in out and f"{tokens:,}" in out
    assert "most used" in out and "rarest" in out and "unknown: nothing" in out
    assert "\x1b[" not in out and "special tokens: <|endoftext|> <|think|>" in out


def test_show_colours_tokens_in_a_terminal_unless_it_is_told_not_to(trained, command, corpus, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[30;48;5;158m" in command("show", trained, corpus)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in command("show", trained, corpus)[1]


def test_show_says_what_a_tokenizer_does_not_know(command, corpus, tmp_path, documents):
    train_wordpiece(documents).save_pretrained(tmp_path / "pieces")
    (tmp_path / "other.txt").write_text("The \U0001f9ff river")
    _, out, _ = command("show", tmp_path / "pieces", tmp_path / "other.txt")
    assert "unknown: 5 of 16 bytes are read as '[UNK]'" in out and "changed before it is read: " in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--vocab-size", 100], "--vocab-size: expected at least 257 entries (256 bytes, 1 special), got 100"),
        (["--vocab-size", 10**6], "all that this text supports"),
        (["--vocab-size", 300, "--special", "<a>", "--special", "<a>"], "got '<a>' twice; name it once"),
        (["--vocab-size", 300, "-p", "data.text_column=body"], "expected a column 'body'"),
        (["--vocab-size", 300, "-p", "train.max_steps=3"], "-p: expected settings of how files are read, got 'train."),
        (["--vocab-size", 300, "-p", "data.text_colum=body"], "did you mean 'data.text_column'?"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(command, corpus, tmp_path, options, words):
    code, _, err = command("train", corpus, "--output", tmp_path / "new", *options)
    assert code == 2 and err.startswith("kdkit: ") and err.count("\n") == 1
    assert words in err and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "missing.txt", "--vocab-size", 300, "--output", "new"], "FILE: expected an existing file or folder"),
        (["show", "missing", "python-docs"], "TOKENIZER: expected a run in "),
        (
            ["show", "owner/missing", "python-docs"],
            "TOKENIZER: expected the hub or its local cache to hold 'owner/miss",
        ),
    ],
)
def test_what_is_not_there_is_named(command, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("kdkit.machine.hub.hub_is_reachable", lambda: False)
    monkeypatch.setattr("kdkit.alignment.tokenizers.hub_is_reachable", lambda: False)
    code, _, err = command(*words)
    assert code == 2 and said in err, err


def test_a_folder_that_is_full_is_left_alone(trained, command, corpus):
    before = (trained / "tokenizer.json").read_bytes()
    code, _, err = command("train", corpus, "--vocab-size", 300, "--output", trained)
    assert code == 2 and "--output: expected a new or empty folder" in err
    assert (trained / "tokenizer.json").read_bytes() == before


def test_a_run_reads_with_the_tokenizer_that_was_trained_before(trained, tmp_path, documents, corpus):
    config = make_config(tmp_path, student={"build": {"tokenizer": str(trained)}}, data={"path": str(corpus)})
    data = make_data(config, tmp_path)
    assert data.student_tokenizer.get_vocab() == load_tokenizer(trained).get_vocab()
    assert len(data.student_tokenizer) == 400 and not data.same_tokenizer


def test_a_teacher_that_is_built_here_can_read_with_it_too(trained, tmp_path, corpus):
    sizes = {"build": {"tokenizer": "teacher"}}
    given = {"tokenizer": str(trained), "build": {"hidden_size": 16, "num_layers": 1}}
    config = make_config(tmp_path, student=sizes, teacher=given, data={"path": str(corpus)})
    data = make_data(config, tmp_path)
    assert data.same_tokenizer and data.teacher_tokenizer.get_vocab() == load_tokenizer(trained).get_vocab()


def test_the_data_of_a_run_are_recognised_by_what_the_tokenizer_is_not_where(trained, tmp_path):
    twin, other = tmp_path / "twin", tmp_path / "other"
    shutil.copytree(trained, twin)
    train_tokenizer(["a river"], 260).save_pretrained(other)
    keys = [
        identify_data(make_config(tmp_path, student={"build": {"tokenizer": str(folder)}}), "text")
        for folder in (trained, twin, other)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_misspelt_choice_is_answered_with_the_one_that_was_meant(tmp_path, corpus):
    config = make_config(tmp_path, student={"build": {"tokenizer": "teachr"}}, data={"path": str(corpus)})
    with pytest.raises(ValueError, match=r"student\.build\.tokenizer: did you mean 'teacher'\? Got 'teachr'"):
        make_data(config, tmp_path)


def test_a_run_says_when_its_text_does_not_fill_the_vocabulary(tmp_path, corpus, capsys):
    config = make_config(tmp_path, student={"build": {"vocab_size": 90_000}}, data={"path": str(corpus)})
    data = make_data(config, tmp_path)
    said = capsys.readouterr().out
    assert f"note: student.build.vocab_size: 90,000 entries wanted, {len(data.student_tokenizer):,} made" in said


def test_the_keys_of_data_that_were_prepared_before_stay():
    shared = config_from_values({"student": {"build": {"tokenizer": "teacher"}}})
    assert (identify_data(Config(), "text"), identify_data(shared, "text")) == ("ddab577f77387335", "c277f0ded02a932b")
