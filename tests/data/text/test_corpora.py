import json

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from kdkit.config.language import DataConfig
from kdkit.data.text import corpora
from kdkit.data.text.corpora import clean_text, load_corpus, split_documents, split_text
from kdkit.errors import UserError


@pytest.fixture(scope="module")
def python_docs(tmp_path_factory):
    return load_corpus(DataConfig(), tmp_path_factory.mktemp("cache"))


@pytest.fixture
def read(tmp_path):
    """Write a file and load it as a corpus: `read("a.txt", "text", text_column="b")`."""

    def write_and_read(name: str, content: str | bytes, **settings: object) -> corpora.Corpus:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return load_corpus(DataConfig(path=str(path), **settings), tmp_path / "cache")

    return write_and_read


def refusal(call, *arguments, **settings) -> str:
    """Return the message of the UserError that a call raises; it must fit one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_embedded_corpus_has_about_two_megabytes(python_docs):
    assert 1_500_000 < sum(len(text.encode()) for text in python_docs.documents) < 4_000_000
    assert python_docs.source == "python-docs"


def test_the_embedded_corpus_has_no_duplicates(python_docs):
    assert len(set(python_docs.documents)) == len(python_docs.documents) > 400
    assert all(text == text.strip() != "" for text in python_docs.documents)


def test_the_embedded_corpus_is_read_in_the_same_order_every_time(python_docs, tmp_path):
    again = load_corpus(DataConfig(subset_size=20), tmp_path)
    places = [python_docs.documents.index(document) for document in again.documents]
    assert places == sorted(places)
    assert places != list(range(20))
    assert again.fingerprint != python_docs.fingerprint
    assert again.documents == load_corpus(DataConfig(subset_size=20), tmp_path / "elsewhere").documents


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "first<|endoftext|>second caf\u00e9"),
        ("a.jsonl", '{"text": "first", "n": 1}\n\n{"text": "second caf\\u00e9"}\n'),
        ("a.csv", '\ufefftext,n\n"first",1\nsecond caf\u00e9,2\n'),
    ],
)
def test_a_file_gives_its_documents(read, name, content):
    corpus = read(name, content)
    assert corpus.documents == ["first", "second caf\u00e9"]
    assert corpus.source.endswith(name)


def test_a_parquet_file_gives_one_column(tmp_path):
    table = pyarrow.table({"body": ["first", None, "second"], "text": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    config = DataConfig(path=str(tmp_path / "a.parquet"), text_column="body")
    assert load_corpus(config, tmp_path / "cache").documents == ["first", "second"]


def test_a_folder_gives_the_known_files_in_the_order_of_their_names(read, tmp_path):
    read("texts/b.txt", "from b")
    read("texts/a.csv", "text\nfrom a\n")
    (tmp_path / "texts" / "c.pdf").write_bytes(b"%PDF\0")
    corpus = load_corpus(DataConfig(path=str(tmp_path / "texts")), tmp_path / "cache")
    assert corpus.documents == ["from a", "from b"]


def test_a_folder_inside_a_folder_may_look_like_a_file(read, tmp_path):
    read("texts/a.txt", "from a")
    (tmp_path / "texts" / "b.txt").mkdir()
    corpus = load_corpus(DataConfig(path=str(tmp_path / "texts")), tmp_path / "cache")
    assert corpus.documents == ["from a"]


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0b"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_only_newlines_end_a_row(read, name, separator):
    text = f"one{separator}two"
    row = json.dumps({"text": text}, ensure_ascii=False)
    assert read(name, f"{row}\n" if name == "a.jsonl" else f"text\n{text}\n").documents == [text]


def test_a_quoted_csv_value_may_hold_line_ends(read):
    assert read("a.csv", 'text\r\n"one\r\ntwo, ""three"""\r\n').documents == ['one\r\ntwo, "three"']


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", '{"body": "x", "title": "y"}\n'), ("a.csv", "body,title\nx,y\n")]
)
def test_a_missing_column_lists_the_columns(read, name, content):
    message = refusal(read, name, content)
    assert message.startswith("data.text_column: expected a column 'text'")
    assert "columns body, title" in message


def test_a_missing_parquet_column_lists_the_columns(tmp_path):
    parquet.write_table(pyarrow.table({"body": ["x"], "title": ["y"]}), tmp_path / "a.parquet")
    message = refusal(load_corpus, DataConfig(path=str(tmp_path / "a.parquet")), tmp_path / "cache")
    assert "expected a column 'text'" in message and "columns body, title" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "expected text, got none"),
        ("a.txt", b" \n\n\t", "expected text, got none"),
        ("a.csv", b"text\n", "expected text, got none"),
        ("a.txt", b"PK\x03\x04\x00\x00", "a zero byte at byte 4"),
        ("a.txt", "caf\u00e9 noir".encode("latin-1"), "invalid continuation byte at byte 3"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": }\n', "at line 3"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 5}\n', "expected text in 'text', got 5 in row 2"),
        ("a.jsonl", b"[1, 2]\n", "got the columns list"),
        ("a.parquet", b"not parquet", "expected a parquet file"),
        ("a.pdf", b"text", "expected .txt, .jsonl, .csv, .parquet or a folder"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(read, tmp_path, name, content, message):
    assert message in refusal(read, name, content)
    assert list((tmp_path / "cache" / "corpora").iterdir()) == []


@pytest.mark.parametrize("name", ["missing.txt", "./missing", "~/missing/folder"])
def test_a_missing_file_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(load_corpus, DataConfig(path=name), tmp_path)
    assert message.startswith(f"data.path: expected an existing file or folder, got {name!r}")


def test_exact_duplicates_are_dropped_and_counted(read):
    corpus = read("a.jsonl", "".join(f'{{"text": "{text}"}}\n' for text in ("a", "b", "", " a ", "b", " ", "c", "A")))
    assert (corpus.documents, corpus.num_duplicates) == (["a", "b", "c", "A"], 2)


@pytest.mark.parametrize(("count", "size"), [(30, 1), (30, 7), (30, 29), (30, 30), (5, 9)])
def test_a_subset_is_a_sample_in_the_order_of_the_file(read, count, size):
    names = [f"{number:03d}" for number in range(count)]
    chosen = list(read("a.txt", "<|endoftext|>".join(names), subset_size=size).documents)
    assert len(set(chosen)) == min(count, size)
    assert chosen == sorted(chosen)
    assert set(chosen) <= set(names)


def test_every_document_is_as_likely_in_a_sample_as_any_other(monkeypatch):
    hits = [0] * 20
    for seed in range(3000):
        monkeypatch.setattr(corpora, "SAMPLE_SEED", seed)
        for number in corpora._sample(map(str, range(20)), 5):
            hits[int(number)] += 1
    deviation = (3000 * 0.25 * 0.75) ** 0.5
    assert all(abs(count - 750) < 4 * deviation for count in hits)


def test_the_text_decides_the_fingerprint(read, tmp_path):
    first, second = read("a.txt", "one"), read("b.txt", "two")
    same = read("c.jsonl", '{"text": "one"}')
    assert first.fingerprint == same.fingerprint != second.fingerprint


def test_a_second_reading_uses_the_cache(read, monkeypatch):
    first = read("a.txt", "one")
    monkeypatch.setattr(corpora, "_read", lambda source, config: pytest.fail("read again"))
    assert read("a.txt", "one") == first


def test_a_renamed_file_is_read_anew(read):
    content = '{"text": "one"}'
    assert read("a.txt", content).documents == [content]
    assert read("a.jsonl", content).documents == ["one"]


def test_lone_surrogates_become_replacement_characters(read):
    assert clean_text("a\ud800b\U0001f600") == "a\ufffd\ufffd\ufffdb\U0001f600"
    corpus = read("a.jsonl", '{"text": "a\\ud83d"}')
    assert corpus.documents[0].startswith("a\ufffd")
    assert corpus.documents[0].encode()


def test_the_end_of_text_mark_separates_documents():
    assert split_text("one\n\n= x =\n<|endoftext|>\n<|endoftext|>two") == ["one\n\n= x =\n", "two"]


def test_a_given_separator_is_used_instead_of_the_mark():
    assert split_text("a<|endoftext|>b\n---\nc", "\n---\n") == ["a<|endoftext|>b", "c"]


def test_top_headings_start_documents():
    text = " = One = \n\n text\n = = Part = = \n more = less\n = Two = \n end\n"
    documents = split_text(text)
    assert "".join(documents) == text
    assert [document.split("\n")[0] for document in documents[1:]] == [" = Two = "]


def test_paragraphs_are_gathered_to_documents_without_losing_any():
    paragraphs = [f"{number} {'word ' * (number % 90)}".strip() for number in range(300)]
    documents = split_text("\n\n".join(paragraphs))
    assert "\n\n".join(document.strip() for document in documents).split("\n\n") == paragraphs
    assert all(2_000 <= len(document) < 2_500 for document in documents[:-1])


def test_wikitext_is_cut_into_its_articles(test_data, tmp_path):
    path = test_data / "lm" / "wikitext2_valid_raw.txt"
    corpus = load_corpus(DataConfig(path=str(path)), tmp_path)
    lines = path.read_text(encoding="utf-8").split("\n")
    titles = [line.strip() for line in lines if line.startswith(" = ") and not line.startswith(" = = ")]
    assert len(titles) == 60
    assert [document.split("\n")[0].strip() for document in corpus.documents] == titles


def test_stories_are_cut_at_their_mark(test_data, tmp_path):
    corpus = load_corpus(DataConfig(path=str(test_data / "lm" / "tinystories_a.txt")), tmp_path)
    assert len(corpus.documents) + corpus.num_duplicates == 3_117
    assert not any("<|endoftext|>" in document for document in corpus.documents)


def test_held_out_documents_are_not_trained_on():
    documents = [f"{number} " * (1 + number % 40) for number in range(200)]
    train, evaluation = split_documents(documents, 0.1, seed=0)
    assert sorted(train + evaluation) == sorted(documents)
    assert not set(train) & set(evaluation)


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_about_the_wanted_share_of_the_text_is_held_out(fraction):
    documents = [f"{number} " * (1 + number % 40) for number in range(500)]
    _, evaluation = split_documents(documents, fraction, seed=1)
    share = sum(map(len, evaluation)) / sum(map(len, documents))
    assert share == pytest.approx(fraction, abs=0.005)


def test_a_document_above_the_share_is_not_held_out_where_others_fit():
    documents = ["x" * 9_000, *(f"{number:010}" for number in range(9))]
    for seed in range(20):
        train, evaluation = split_documents(documents, 0.05, seed)
        assert documents[0] in train
        assert evaluation


def test_the_seed_decides_the_split():
    documents = [str(number) for number in range(100)]
    assert split_documents(documents, 0.1, seed=3) == split_documents(documents, 0.1, seed=3)
    assert split_documents(documents, 0.1, seed=3)[1] != split_documents(documents, 0.1, seed=4)[1]


def test_two_documents_are_one_for_each_side():
    train, evaluation = split_documents(["a" * 50, "b" * 40], 0.05, seed=0)
    assert len(train) == len(evaluation) == 1


@pytest.mark.parametrize("documents", [[], ["one"]])
def test_fewer_than_two_documents_cannot_be_split(documents):
    assert "expected at least 2 documents" in refusal(split_documents, documents, 0.1, 0)


@pytest.mark.parametrize(
    ("settings", "repository"),
    [({"path": "nobody/nothing"}, "nobody/nothing"), ({"path": "wikitext", "subset_size": 5}, "Salesforce/wikitext")],
)
def test_a_hub_name_without_network_is_refused(tmp_path, settings, repository):
    message = refusal(load_corpus, DataConfig(**settings), tmp_path)
    assert message.startswith(f"data.path: expected the hub data set {repository!r} to be readable")
    assert "point data.path to a local" in message


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the hub: it serves `hub.rows`, and keeps what it was asked for in `hub.asked`."""

    class Hub:
        rows = [{"text": f"document {number}", "url": "x"} for number in range(4)]  # noqa: RUF012
        asked = None

        def load_dataset(self, path, name=None, *, split, streaming):
            self.asked = (path, name, split, streaming)
            rows = datasets.Dataset.from_list(self.rows)
            return rows.to_iterable_dataset() if streaming else rows

    stand_in = Hub()
    monkeypatch.setattr(datasets, "load_dataset", stand_in.load_dataset)
    monkeypatch.setattr(corpora, "hub_is_reachable", lambda: True)
    return stand_in


@pytest.mark.parametrize(
    ("settings", "asked"),
    [
        ({"path": "some/data"}, ("some/data", None, "train", False)),
        ({"path": "some/data", "name": "small", "split": "test"}, ("some/data", "small", "test", False)),
        ({"path": "some/data", "subset_size": 2}, ("some/data", None, "train", True)),
        ({"path": "openwebtext"}, ("Skylion007/openwebtext", None, "train", True)),
        ({"path": "c4"}, ("allenai/c4", "en", "train", True)),
        ({"path": "allenai/c4", "name": "de"}, ("allenai/c4", "de", "train", True)),
        ({"path": "wikitext"}, ("Salesforce/wikitext", "wikitext-103-raw-v1", "train", False)),
        (
            {"path": "wikitext", "name": "wikitext-2-raw-v1"},
            ("Salesforce/wikitext", "wikitext-2-raw-v1", "train", False),
        ),
    ],
)
def test_the_hub_is_asked_for_the_named_data_set(hub, tmp_path, settings, asked):
    load_corpus(DataConfig(**settings), tmp_path)
    assert hub.asked == asked


@pytest.mark.parametrize("count", [None, 2])
def test_hub_rows_become_documents(hub, tmp_path, count):
    corpus = load_corpus(DataConfig(path="some/data", subset_size=count), tmp_path)
    rows = [row["text"] for row in hub.rows]
    assert len(set(corpus.documents)) == (count or len(rows))
    assert set(corpus.documents) <= set(rows)
    assert corpus.source == "some/data"


@pytest.mark.parametrize("unwatched", [False, True])
def test_nobody_watches_a_bar_that_a_saved_notebook_would_keep(hub, tmp_path, monkeypatch, unwatched):
    monkeypatch.setattr(corpora, "is_unwatched_notebook", lambda: unwatched)
    calls = []
    monkeypatch.setattr(datasets, "disable_progress_bars", lambda: calls.append(1))
    load_corpus(DataConfig(path="some/data"), tmp_path)
    assert bool(calls) == unwatched


@pytest.mark.parametrize("count", [None, 1, 2])
def test_wikitext_lines_are_joined_to_articles(hub, tmp_path, count):
    hub.rows = [{"text": line} for line in ("", " = One = \n", " = = Part = = \n", " more\n", " = Two = \n", " two\n")]
    corpus = load_corpus(DataConfig(path="wikitext", subset_size=count), tmp_path)
    articles = ["= One = \n = = Part = = \n more", "= Two = \n two"]
    assert corpus.documents == articles if count != 1 else corpus.documents[0] in articles


def test_a_hub_data_set_without_the_column_lists_its_columns(hub, tmp_path):
    message = refusal(load_corpus, DataConfig(path="some/data", text_column="body"), tmp_path)
    assert "expected a column 'body' in the hub data set 'some/data', got the columns text, url" in message
