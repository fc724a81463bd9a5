"""Windows of a student's own answers: each model reads its own template, and the answer alone is in the loss."""

import numpy as np
import pytest

from kdkit.alignment.bytes import overlap_vocabularies
from kdkit.alignment.templates import CHATML, CHATML_TOKENS, Message, render_prompt, template_of
from kdkit.alignment.tokenizers import encode_with_ends, end_token_id, token_bytes, train_tokenizer
from kdkit.data.batches import WindowCollator
from kdkit.data.own_text import OwnAnswer, windows_of_answers
from kdkit.data.windows import PAD
from kdkit.losses.cross_entropy import IGNORE_INDEX

GEMMA = (
    "{{ bos_token }}{% for message in messages %}<turn>{{ message['role'] }}\n{{ message['content'] }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
PROMPT = (Message("system", "be brief"), Message("user", "Na\u00efve <|im_end|> caf\u00e9?"))
TEXT = "It was caf\u00e9 x = 1, \u4e2d\u6587."


@pytest.fixture(scope="module")
def pair(documents):
    """Two tokenizers of different sizes and templates."""
    student, teacher = train_tokenizer(documents, 300), train_tokenizer(documents[::-1], 400)
    for tokenizer, names, template in ((student, CHATML_TOKENS, CHATML), (teacher, ["<turn>", "<end>"], GEMMA)):
        tokenizer.add_special_tokens({"additional_special_tokens": list(names)})
        tokenizer.chat_template = template
    return student, teacher


def ids_of(tokenizer, text):
    return encode_with_ends(tokenizer, token_bytes(tokenizer), text)[0]


def make(pair, ids, stop_id, max_teacher_length=None):
    """Make the windows of answers to one prompt."""
    prompts = [render_prompt(PROMPT, tokenizer) for tokenizer in pair]
    ends = tuple(template_of(tokenizer).end_id for tokenizer in pair)
    overlap = overlap_vocabularies(*map(token_bytes, pair), ends)
    answers = [OwnAnswer(*prompts, each, stop_id) for each in ids]
    is_same = pair[0] is pair[1]
    return windows_of_answers(answers, *pair, overlap, is_same, max_teacher_length), prompts


def tokens(row):
    return [int(i) for i in row if i != PAD]


def test_each_model_reads_its_own_template_and_the_same_answer(pair):
    end = [template_of(tokenizer).end_id for tokenizer in pair]
    own = ids_of(pair[0], TEXT)
    windows, prompts = make(pair, [own], end[0])
    assert tokens(windows.student_ids[0]) == [*prompts[0], *own, end[0]]
    assert tokens(windows.teacher_ids[0]) == [*prompts[1], *ids_of(pair[1], TEXT), end[1]]
    assert len(prompts[0]) != len(prompts[1])


def test_the_answer_and_its_end_alone_are_labels(pair):
    own = ids_of(pair[0], TEXT)
    windows, prompts = make(pair, [own, own[:3]], template_of(pair[0]).end_id)
    batch = WindowCollator(windows, with_teacher=True)([0, 1])
    counts = (batch["labels"] != IGNORE_INDEX).sum(dim=1).tolist()
    assert counts == [len(own) + 1, 4]
    assert (batch["labels"][:, : len(prompts[0])] == IGNORE_INDEX).all()
    assert int(batch["counted"].sum()) == sum(counts)
    teacher = windows.labels([0], of_teacher=True)[0]
    assert teacher.sum() == len(ids_of(pair[1], TEXT)) + 1 and not teacher[: len(prompts[1])].any()
    assert windows.num_bytes.tolist() == [len(TEXT.encode()), len(b"".join(token_bytes(pair[0])[i] for i in own[:3]))]


def test_paired_positions_have_read_the_same_text(pair):
    own = ids_of(pair[0], TEXT)
    windows, prompts = make(pair, [own], template_of(pair[0]).end_id)
    tables = [token_bytes(tokenizer) for tokenizer in pair]
    rows = [tokens(windows.student_ids[0]), tokens(windows.teacher_ids[0])]
    read = []
    for place, position in enumerate(windows.teacher_positions[0]):
        if position != PAD and windows.in_loss[0, place + 1]:
            parts = [rows[0][len(prompts[0]) : place + 1], rows[1][len(prompts[1]) : position + 1]]
            texts = [b"".join(table[i] for i in part) for table, part in zip(tables, parts, strict=True)]
            assert texts[0] == texts[1]
            read.append(texts[0])
    assert read[0] == b"" and read[-1] == TEXT.encode()  # from the first token of the answer to its end
    assert windows.same_token[0, len(rows[0]) - 2]  # the two ends of a turn are a pair


def test_an_answer_that_ran_out_of_room_has_no_end(pair):
    own = ids_of(pair[0], TEXT)
    windows, prompts = make(pair, [own], None)
    assert tokens(windows.student_ids[0]) == [*prompts[0], *own]
    assert tokens(windows.teacher_ids[0])[-1] != template_of(pair[1]).end_id


def test_an_end_of_text_in_place_of_the_end_of_turn_is_left_out(pair):
    own = ids_of(pair[0], TEXT)
    windows, _ = make(pair, [own], end_token_id(pair[0]))
    assert int(windows.in_loss.sum()) == len(own)


def test_half_a_character_and_a_special_token_end_an_answer(pair):
    own, half = ids_of(pair[0], "It was"), ids_of(pair[0], "\U0001f600")[:1]
    special = pair[0].convert_tokens_to_ids("<|im_start|>")
    end = template_of(pair[0]).end_id
    for broken in (half, [special]):
        windows, _ = make(pair, [[*own, *broken, *own]], end)
        assert int(windows.in_loss.sum()) == len(own)
    windows, _ = make(pair, [half, own], end)  # nothing to read: no window
    assert len(windows) == 1


def test_a_shared_tokenizer_reads_the_students_very_ids(pair):
    one = pair[0], pair[0]
    odd = [*ids_of(pair[0], "It was"), *ids_of(pair[0], "\U0001f600")[:1]]
    windows, prompts = make(one, [odd], end_token_id(pair[0]))
    expected = [*prompts[0], *odd, end_token_id(pair[0])]
    assert tokens(windows.student_ids[0]) == tokens(windows.teacher_ids[0]) == expected
    assert int(windows.in_loss.sum()) == len(odd) + 1


def test_what_a_teacher_has_no_room_for_is_left_out(pair):
    own = ids_of(pair[0], TEXT)
    prompt = render_prompt(PROMPT, pair[1])
    windows, _ = make(pair, [own], None, max_teacher_length=len(prompt) + 3)
    assert 0 < int(windows.in_loss.sum()) < len(own)
    assert len(tokens(windows.teacher_ids[0])) <= len(prompt) + 3
    assert len(make(pair, [own], None, max_teacher_length=len(prompt))[0]) == 0


def test_no_answers_make_no_windows(pair):
    windows, _ = make(pair, [], None)
    assert len(windows) == 0 and isinstance(windows.student_ids, np.ndarray)
