"""Questions about Python, made from the standard library's own source."""

import re
import shutil

import pytest

from kdkit.config.language import DataConfig
from kdkit.data.chat.questions import python_questions
from kdkit.data.conversations import Conversation
from kdkit.data.text.corpora import load_corpus
from kdkit.errors import UserError


@pytest.fixture(scope="module")
def conversations():
    return list(python_questions())


def test_there_is_enough_to_learn_from_and_all_of_it_is_short(conversations):
    assert 2_000 < len(conversations) < 20_000
    assert all(24 <= len(each.answer) < 400 or "arguments" in each.prompt[0].content for each in conversations)
    assert all([message.role for message in each.messages] == ["user", "assistant"] for each in conversations)


def test_the_answers_are_what_the_library_says_of_itself(conversations):
    answers = {each.prompt[0].content: each.answer for each in conversations}
    about = {question: answer for question, answer in answers.items() if "shutil.copytree" in question}
    assert len(about) == 2
    first = " ".join(shutil.copytree.__doc__.split("\n\n")[0].split())
    assert first in about.values()
    assert about["Which arguments does shutil.copytree take?"] == (
        "It takes src and dst and optionally symlinks, ignore, copy_function, ignore_dangling_symlinks and "
        "dirs_exist_ok."
    )


def test_the_same_name_is_not_answered_twice_in_the_same_words(conversations):
    """Such as methods that several classes have: a held-out answer would stand in the training text."""
    pairs = [
        (re.search(r"([\w.]+)\.?(?: briefly| take| for| do| provide)?[.?]$", each.prompt[0].content)[1], each.answer)
        for each in conversations
    ]
    lasts = [(name.rpartition(".")[2], answer) for name, answer in pairs]
    assert len(set(lasts)) == len(lasts)


def test_nothing_private_is_asked_about(conversations):
    assert not [each for each in conversations if re.search(r"[ .]_\w", each.prompt[0].content)]


def test_the_questions_are_a_data_path_and_their_format_is_known(tmp_path):
    corpus = load_corpus(DataConfig(path="python-questions", subset_size=20), tmp_path)
    assert corpus.is_chat and len(corpus.documents) == 20
    first = Conversation.from_json(corpus.documents[0])
    assert [message.role for message in first.messages] == ["user", "assistant"]
    for path, wanted in (("python-questions", "text"), ("python-docs", "chat")):
        with pytest.raises(UserError, match=r"data\.format: expected .* in data\.path for .* set data\.path=python-"):
            load_corpus(DataConfig(path=path, format=wanted), tmp_path)
