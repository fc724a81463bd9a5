import json

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from kdkit.data import rows
from kdkit.embeddings.data.prose import cut_sentences, is_prose
from kdkit.embeddings.data.sentences import dropped_words, load_sentences
from kdkit.errors import UserError


@pytest.fixture
def read(tmp_path):
    """Write a file and load it: `read("a.csv", "text\\nHello", text_ok=False)`."""

    def write_and_read(name, content, **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_sentences(str(path), tmp_path / "cache", key="data.path", **settings)

    return write_and_read


def refusal(call, *arguments, **settings) -> str:
    """Return the message of the UserError that a call raises; it must fit one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "First one.\r\n\n  Second café.  \n".replace("  ", "")),
        ("a.csv", "\ufeff,text,label\n0,First one.,3\n1,Second café.,4\n"),
        ("a.jsonl", '\ufeff{"text": "First one.", "n": 1}\n\n{"text": "Second caf\\u00e9."}\n'),
    ],
)
def test_a_file_gives_its_sentences(read, name, content):
    sentences = read(name, content)
    assert sentences.first == ["First one.", "Second café."]
    assert (sentences.second, sentences.scores, len(sentences)) == (None, None, 2)


@pytest.mark.parametrize("pair", ["sentence1,sentence2", "premise,hypothesis", "anchor,positive"])
@pytest.mark.parametrize("score", ["score", "similarity_score", "relatedness_score"])
def test_pairs_are_found_by_the_usual_names(read, pair, score):
    sentences = read("a.csv", f"id,{pair},{score}\n1,a,b,2.5\n2,c,d,0\n")
    assert (sentences.first, sentences.second, sentences.scores) == (["a", "c"], ["b", "d"], [2.5, 0.0])


def test_a_parquet_file_gives_numbers_as_labels_in_text(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "label": [3, 0], "label_text": ["x", "y"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    sentences = load_sentences(str(tmp_path / "a.parquet"), tmp_path, key="data.path")
    assert (sentences.first, sentences.labels) == (["a", "b"], ["3", "0"])


def test_columns_can_be_named(read):
    columns = {"sentence1": "q", "sentence2": "d", "label": "same", "score": "s"}
    sentences = read("a.csv", "q,d,same,s\na,b,yes,1e-1\n", columns=columns)
    assert (sentences.first, sentences.second) == (["a"], ["b"])
    assert (sentences.labels, sentences.scores) == (["1"], [0.1])


def test_a_named_single_column_comes_before_the_usual_names(read):
    sentences = read("a.csv", "sentence1,sentence2,body\na,b,c\n", columns={"sentence1": "body"})
    assert (sentences.first, sentences.second) == (["c"], None)


def test_the_first_name_can_be_changed_and_the_second_kept(read):
    sentences = read("a.csv", "query,sentence2\na,b\n", columns={"sentence1": "query"}, text_ok=False)
    assert (sentences.first, sentences.second) == (["a"], ["b"])


def test_a_row_with_an_empty_sentence_is_left_out_and_counted(read):
    read_rows = read("a.csv", 'sentence1,sentence2,score\n,b,1\n"",,2\nc,d,3\ne," ",4\n')
    assert (read_rows.first, read_rows.second, read_rows.scores) == (["c"], ["d"], [3.0])
    assert read_rows.dropped == {"no sentence in 'sentence1'": 2, "no sentence in 'sentence2'": 1}
    assert dropped_words(read_rows).startswith("3 of 4 rows are left out (2 with no sentence in 'sentence1', 1 with")


@pytest.mark.parametrize("value", ["null", "NaN", '""'])
def test_a_null_sentence_is_left_out_like_an_empty_one(read, value):
    found = read("a.jsonl", f'{{"text": {value}}}\n{{"text": "b"}}\n{{"body": "c"}}\n')
    assert (found.first, found.dropped) == (["b"], {"no sentence in 'text'": 2})


def test_rows_none_of_which_has_a_sentence_are_refused(read):
    assert "expected rows that can be used" in refusal(read, "a.csv", "text,label\n,1\n,2\n")


def test_a_value_of_a_column_that_is_not_read_stops_nothing(read):
    content = "sentence1,sentence2,score\na,b,high\n"
    assert read("a.csv", content, roles=()).first == ["a"]
    assert read("a.csv", content, roles=()).scores is None


def test_bad_rows_are_left_out_and_counted_when_so_asked(read):
    content = "sentence1,sentence2,score\na,b,1\nc,d,\ne,f,n/a\ng,h,2\n"
    assert "got none in row 2" in refusal(read, "a.csv", content)
    assert "data.bad_rows=skip" in refusal(read, "a.csv", content)
    found = read("a.csv", content, bad_rows="skip")
    assert (found.first, found.scores, found.dropped) == (["a", "g"], [1.0, 2.0], {"no number in 'score'": 2})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'sentence1\tsentence2\tlabel\none, "two"\tb\t1\n'),
        ("a.TSV", 'sentence1\tsentence2\tlabel\n"one, ""two"""\tb\t1\n'),
        ("a.csv", 'sentence1;sentence2;label\none, "two";b;1\n'),
        ("a.CSV", 'sentence1|sentence2|label\none, "two"|b|1\n'),
        ("a.csv", ' sentence1 ,sentence2 , label\n"one, ""two""",b,1\n'),
        ("a.json", '[{"sentence1": "one, \\"two\\"", "sentence2": "b", "label": 1}]'),
        ("a.json", '{"sentence1": "one, \\"two\\"", "sentence2": "b", "label": 1}\n'),
        ("a.JSONL", '{"sentence1": "one, \\"two\\"", "sentence2 ": "b", "label": 1.0}\n'),
        ("a.csv", 'sentence1,sentence2,label\r\n"one, ""two""",b,True\r\n'),
    ],
)
def test_the_files_people_have_are_read(read, name, content):
    found = read(name, content)
    assert (found.first, found.second, found.labels) == (['one, "two"'], ["b"], ["1"])


@pytest.mark.parametrize("content", ["{}", '["a"]', "[1", '{"text": "a"}, {"text": "b"}'])
def test_json_that_is_no_list_of_objects_is_refused(read, content):
    assert refusal(read, "a.json", content).startswith("data.path: expected")


@pytest.mark.parametrize("words", [("True", "False"), ("1.0", "0.0"), ("1", "0"), ("yes", "no"), ("TRUE", "off")])
def test_ways_to_write_a_label_mean_one_thing(read, words):
    assert read("a.csv", f"text,label\na,{words[0]}\nb,{words[1]}\n").labels == ["1", "0"]


@pytest.mark.parametrize("word", ["neutral", "1.5", "v1.0", "card_arrival", "-", "."])
def test_other_labels_stay_as_they_are(read, word):
    assert read("a.csv", f"text,label\na,{word}\n").labels == [word]


@pytest.mark.parametrize("word", ["null", "NA", "nan", "None"])
def test_words_that_look_like_missing_values_stay(read, word):
    assert read("a.csv", f"text\n{word}\n").first == [word]


def test_a_quoted_value_may_hold_commas_and_line_ends(read):
    assert read("a.csv", 'text\n"one,\ntwo"\n').first == ["one,\ntwo"]


def test_a_missing_column_lists_the_columns(read):
    message = refusal(read, "a.csv", ",body,title\n0,x,y\n")
    assert message.startswith(
        "data.path: expected the column(s) text or sentence1, sentence2 or premise, hypothesis or"
    )
    assert "got the columns body, title" in message and "data.columns=" in message


@pytest.mark.parametrize("role", ["sentence1", "sentence2", "label", "score"])
def test_a_named_column_must_be_there(read, role):
    message = refusal(read, "a.csv", "text,sentence1\nx,y\n", columns={role: "missing"})
    assert "missing in" in message and "got the columns text, sentence1" in message


def test_one_sentence_a_row_will_not_do_where_two_are_compared(read):
    message = refusal(read, "a.csv", "text,score\nx,1\n", text_ok=False)
    assert message.startswith("data.path: expected the column(s) sentence1, sentence2 or premise, hypothesis or")


@pytest.mark.parametrize("value", ["high", "nan", "inf", ""])
def test_a_score_that_is_no_number_is_refused_with_its_row(read, value):
    message = refusal(read, "a.csv", f"sentence1,sentence2,score\na,b,1\nc,d,{value}\n")
    assert f"expected a number in 'score', got {repr(value) if value else 'none'} in row 2" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "expected rows"),
        ("a.csv", "text\n", "expected rows"),
        ("a.txt", "\n \n", "expected rows"),
        ("a.csv", "text,label\nx,1\ny\n", "got fewer in row 2"),
        ("a.csv", "text,label\nx,1\ny,2,3\n", "got more in row 2"),
        ("a.csv", "café".encode("latin-1"), "expected UTF-8 text"),
        ("a.jsonl", '{"text": "a"}\n{"text": }\n', "at line 2"),
        ("a.jsonl", "[1, 2]\n", "expected a JSON object a line"),
        ("a.jsonl", '{"text": 5}\n', "expected text in 'text', got 5 in row 1"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', "expected a value in 'label', got none in row 2"),
        ("a.parquet", "text", "expected a parquet file"),
        ("a.pdf", "text", "which is neither"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(read, name, content, message):
    assert message in refusal(read, name, content)


@pytest.mark.parametrize("path", ["missing.csv", "./missing", "~/missing"])
def test_a_missing_file_is_refused(path, tmp_path):
    message = refusal(load_sentences, path, tmp_path, key="evaluate.tasks.STS.path")
    assert message.startswith(
        "evaluate.tasks.STS.path: expected a .txt, .csv, .tsv, .json, .jsonl, .parquet file or a hub data set"
    )
    assert "does not exist" in message


def test_the_rows_decide_the_fingerprint_and_the_file_does_not(read):
    first = read("a.csv", "text\nx\n")
    assert first.fingerprint == read("b.jsonl", '{"text": "x"}').fingerprint
    assert first.fingerprint != read("a.csv", "text\ny\n").fingerprint
    assert first.fingerprint != read("a.csv", "text,label\nx,0\n").fingerprint


def test_taking_rows_keeps_what_belongs_to_them(read):
    taken = read("a.csv", "sentence1,sentence2,label,score\na,b,x,1\nc,d,y,2\ne,f,z,3\n").take([2, 0])
    assert (taken.first, taken.second, taken.labels, taken.scores) == (["e", "a"], ["f", "b"], ["z", "x"], [3.0, 1.0])


@pytest.fixture
def hub(monkeypatch):
    """Stand in for the hub: it serves `hub.rows`, and keeps what it was asked for in `hub.asked`."""

    class Hub:
        rows = [{"premise": "a", "hypothesis": "b", "label": "entails"}]  # noqa: RUF012
        asked = None

        def load_dataset(self, path, name=None, *, split, revision):
            self.asked = (path, name, split, revision)
            return datasets.Dataset.from_list(self.rows)

    stand_in = Hub()
    monkeypatch.setattr(datasets, "load_dataset", stand_in.load_dataset)
    monkeypatch.setattr(rows, "hub_is_reachable", lambda: True)
    return stand_in


def test_the_hub_is_asked_for_the_named_split_at_the_pinned_revision(hub, tmp_path):
    shared = {"name": "tsv_format", "split": "test", "revision": "0cc4353"}
    sentences = load_sentences("allenai/scitail", tmp_path, key="data.path", **shared)
    assert hub.asked == ("allenai/scitail", "tsv_format", "test", "0cc4353")
    assert (sentences.first, sentences.second, sentences.labels) == (["a"], ["b"], ["entails"])
    assert sentences.source == "allenai/scitail"


def test_an_empty_split_of_the_hub_is_refused(hub, tmp_path):
    hub.rows = []
    assert "expected rows" in refusal(load_sentences, "some/data", tmp_path, key="data.path")


def test_a_hub_name_without_network_is_refused(tmp_path):
    message = refusal(load_sentences, "nobody/nothing", tmp_path, key="data.path")
    assert message.startswith("data.path: expected the hub data set 'nobody/nothing' (split 'train') to be readable")


@pytest.mark.parametrize(
    "sentence",
    [
        "Return the next item of the list.",
        "It does nothing (unless the file is open), e.g. after a crash.",
        "Don't use a well-known name twice!",
    ],
)
def test_a_sentence_of_words_is_prose(sentence):
    assert is_prose(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "See the list.",
        "return the next item of the list.",
        "Return the next item of the list",
        "Return self[i] of the list, if any.",
        "The name -- a description of the value.",
        "Use os.path.join to make a path of the parts.",
        "Foo Bar Baz the Qux Quux Corge.",
        "Red green blue yellow black white.",
        "Ctrl-A   Go to the left edge of the window.",
        "The value (of the first item is returned.",
        " ".join(["The"] + ["word"] * 60) + ".",
    ],
)
def test_code_fragments_and_lists_are_not_prose(text):
    assert not is_prose(text)


def test_wrapped_lines_are_joined_and_markup_is_taken_off():
    text = "The ``open`` function returns a *new*\nfile.  It is :class:`large` and slow.\n"
    assert cut_sentences(text) == ["The open function returns a new file.", "It is large and slow."]


def test_headings_rulers_and_code_blocks_are_left_out():
    text = (
        "A heading\n*********\n\nThis is how it is done:\n\n   for x in y:\n       print(x)\n\nThen it is all done.\n"
    )
    assert cut_sentences(text) == ["Then it is all done."]


def test_a_change_of_indentation_ends_a_sentence():
    text = "What it takes:\n    The name of a file\nReturn the value of it.\n    This is all of it.\n"
    assert cut_sentences(text) == ["Return the value of it.", "This is all of it."]


def test_the_items_of_a_list_are_separate():
    assert cut_sentences("* It is the first of them\n* It is the second\n  of the items.\n") == [
        "It is the second of the items."
    ]


@pytest.fixture(scope="module")
def python_docs(tmp_path_factory):
    return load_sentences("python-docs", tmp_path_factory.mktemp("cache"), key="data.path")


def test_the_python_docs_have_thousands_of_distinct_sentences(python_docs):
    assert len(set(python_docs.first)) > 5_000
    assert all(4 <= len(text.split()) <= 60 for text in python_docs.first)


def test_the_python_docs_say_which_document_a_sentence_comes_from(python_docs):
    numbers = [int(label) for label in python_docs.labels]
    assert numbers == sorted(numbers) and len(set(numbers)) > 200


def test_every_shared_csv_is_read(test_data, tmp_path):
    sizes = {
        file.relative_to(test_data).as_posix(): len(load_sentences(str(file), tmp_path, key="data.path"))
        for folder in ("sts", "classification", "pairs", "nli")
        for file in (test_data / folder).glob("*.csv")
    }
    assert len(sizes) == 17
    assert sizes["sts/stsb_dev.csv"] == 1500 and sizes["nli/train_pool.csv"] == 51_814
    assert sizes["pairs/scitail_dev.csv"] == 1304 and sizes["classification/banking77_test.csv"] == 3080


def test_a_line_separator_inside_a_value_does_not_end_it(read):
    text = "one\u2028two"
    assert read("a.jsonl", json.dumps({"text": text}, ensure_ascii=False)).first == [text]


def test_a_quote_that_is_not_closed_is_refused(read):
    message = refusal(read, "a.csv", 'label,text\n0,first\n1,"he said\n0,b\n1,c\n')
    assert "expected CSV, got unexpected end of data" in message and "close its quotes" in message


def test_two_columns_of_one_name_are_refused(read):
    assert "expected different columns, got 'text' twice" in refusal(read, "a.csv", "text,text\na,b\n")


def test_a_column_that_only_later_lines_have_is_missed_in_the_first(read):
    message = refusal(read, "a.jsonl", '{"text": "a"}\n{"text": "b", "score": 0.5}\n')
    assert "expected a number in 'score', got none in row 1" in message
