"""Rows of any of the usual forms become conversations; bad rows are named or counted."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from kdkit.config.language import DataConfig
from kdkit.data.conversations import Conversation, Message, find_layout, read_conversation
from kdkit.data.text.corpora import load_corpus
from kdkit.errors import UserError

WANTED = (Message("user", "two and two?"), Message("assistant", "four"))
FORMS = {
    "messages": {"messages": [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "two and two?"}, {"from": "gpt", "value": "four"}]},
    "response": {"prompt": "two and two?", "response": "four"},
    "completion": {"prompt": "two and two?", "completion": "four"},
    "lists": {
        "prompt": [{"role": "user", "content": "two and two?"}],
        "completion": [{"role": "assistant", "content": "four"}],
    },
    "instruction": {"instruction": "two and two?", "input": "", "output": "four"},
    "question": {"question": "two and two?", "answer": "four"},
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "two and "}, {"type": "text", "text": "two?"}]},
            {"role": "assistant", "content": "four"},
        ]
    },
    "later": {
        "messages": [
            {"role": "user", "content": "two and two?"},
            {"role": "assistant", "content": "four"},
            {"role": "user", "content": "thanks"},
        ]
    },
}


def read(row, **options):
    """Read one row."""
    return read_conversation(row, find_layout(row, **options), "row 1")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_conversation(form):
    assert read(FORMS[form]).messages == WANTED


def test_an_input_follows_its_instruction_and_a_system_column_leads():
    row = {"system": "Be brief.", "instruction": "Add.", "input": "2, 2", "output": "4"}
    assert read(row).messages == (
        Message("system", "Be brief."),
        Message("user", "Add.\n\n2, 2"),
        Message("assistant", "4"),
    )


def test_a_template_of_columns_makes_the_prompt():
    row = {"article": "It rained.", "highlights": "Rain.", "n": 3}
    found = read(row, template="In {n} words: {article}", answer_column="highlights")
    assert found.messages == (Message("user", "In 3 words: It rained."), Message("assistant", "Rain."))
    with pytest.raises(UserError, match=r"data.prompt_template: expected names of columns in braces"):
        read(row, template="{text}", answer_column="highlights")


def test_a_conversation_survives_as_a_document():
    conversation = Conversation((Message("system", 'a "b"'), *WANTED))
    assert Conversation.from_json(conversation.to_json()) == conversation
    assert conversation.prompt == conversation.messages[:2] and conversation.answer == "four"


def talk(*roles):
    return {"messages": [{"role": role, "content": "x"} for role in roles]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (talk("user", "user", "assistant"), "row 1.*in turn, got user, user, assistant"),
        (talk("assistant", "user", "assistant"), "row 1.*in turn, got assistant, user, assistant"),
        (talk("user"), "row 1.*a message of the assistant, got none"),
        (talk("user", "wizard"), "row 1.*a role of .*, got 'wizard'"),
        ({"prompt": "a", "response": " "}, "row 1.*expected an answer, got an empty message 2"),
        ({"prompt": "a", "response": None}, "row 1.*expected an answer, got an empty message 2"),
        ({"prompt": "a", "response": 3}, "row 1.*expected text, got '3'"),
        ({"messages": "no json"}, "row 1.*messages with role and content, got 'no json'"),
    ],
)
def test_a_bad_row_is_named_with_what_is_wrong(row, message):
    with pytest.raises(UserError, match=message):
        read(row)


def load(path, cache, **settings):
    """Load a corpus."""
    return load_corpus(DataConfig(path=str(path), **settings), cache)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "folder"])
def test_conversations_are_read_from_every_kind_of_file(tmp_path, kind):
    rows = [{"instruction": f"say {n}", "input": "", "output": f"it is {n}"} for n in range(5)]
    file = tmp_path / f"rows.{'jsonl' if kind == 'folder' else kind}"
    if kind == "csv":
        file.write_text("instruction,input,output\n" + "".join(f"say {n},,it is {n}\n" for n in range(5)))
    elif kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text("\n".join(map(json.dumps, rows)))
    corpus = load(tmp_path if kind == "folder" else file, tmp_path / "cache")
    assert corpus.is_chat
    assert [Conversation.from_json(text).answer for text in corpus.documents] == [f"it is {n}" for n in range(5)]


def test_bad_rows_stop_the_run_or_are_counted(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"p{n}", "response": "r" * (n % 3)}) for n in range(9)))
    with pytest.raises(UserError, match=r"row 1 of .*a.jsonl.*data.bad_rows=skip"):
        load(file, tmp_path / "cache")
    corpus = load(file, tmp_path / "cache", bad_rows="skip")
    assert corpus.rows_left_out == {"empty answer": 3} and len(corpus.documents) == 6


def test_text_stays_text_where_the_text_column_is_there(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "plain words", **FORMS["messages"]}))
    corpus = load(file, tmp_path / "cache")
    assert not corpus.is_chat and list(corpus.documents) == ["plain words"]
    assert "set data.format=chat to read messages" in capsys.readouterr().out
    assert load(file, tmp_path / "cache", format="chat").is_chat
    assert not load(tmp_path / "a.jsonl", tmp_path / "cache", format="text").is_chat


def test_columns_that_hold_no_conversation_are_listed(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"title": "a", "body": "b"}))
    with pytest.raises(UserError, match=r"data.format: expected rows of conversations.*got the columns title, body"):
        load(file, tmp_path / "cache", format="chat")
    with pytest.raises(UserError, match=r"data.skip_rows_where: expected a column of"):
        load(file, tmp_path / "cache", format="chat", skip_rows_where="bad")
    with pytest.raises(UserError, match=r"data.format: expected conversations in data.path"):
        load("python-docs", tmp_path / "cache", format="chat")
