"""Windows of conversations: contents aligned, templates in no loss, ends paired, and nothing of an answer lost."""

import json
from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkit.alignment.templates import CHATML, read_template
from kdkit.alignment.tokenizers import end_token_id
from kdkit.data.batches import WindowCollator, find_spans
from kdkit.data.windows import PAD
from kdkit.errors import UserError
from tests.chats import WORDS, chat_tokenizers, make_packer, pack, talk
from tests.tiny import make_config, make_data

TEXT = st.lists(st.sampled_from([*WORDS.split(), "\n", "  ", "<|im_end|>", "[INST]", "'s", "."]), min_size=1).map(
    " ".join
)
ANSWER = TEXT.filter(str.strip)
SYSTEM = st.none() | TEXT


def label_text(tokenizer, ids, is_label):
    """Return the text of the tokens that are labels."""
    return tokenizer.decode(ids[is_label], skip_special_tokens=False)


@given(st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=3), SYSTEM)
@settings(max_examples=60)
def test_both_models_learn_the_answers_and_nothing_else(turns, system):
    student, teacher = chat_tokenizers()
    conversation = talk(*(text for turn in turns for text in turn), system=system)
    windows, (fitted,) = pack(make_packer(student, teacher, max_length=4096, teacher_max_length=4096), conversation)
    answers = [message.content.strip() for message in fitted.messages if message.role == "assistant"]
    learnt = label_text(student, windows.student_ids[0], windows.labels([0])[0])
    assert learnt == "".join(f"{answer}<|im_end|>" for answer in answers)
    learnt = label_text(teacher, windows.teacher_ids[0], windows.labels([0], of_teacher=True)[0])
    # a token may hold the template's space and the first word
    assert [part.strip() for part in learnt.split("</s>")] == [*answers, ""]
    assert windows.num_bytes.tolist() == [sum(len(answer.encode()) for answer in answers)]


@given(st.lists(st.tuples(TEXT, ANSWER), min_size=1, max_size=2), SYSTEM)
@settings(max_examples=40)
def test_spans_in_the_loss_cover_the_same_text_on_both_sides(turns, system):
    student, teacher = chat_tokenizers()
    packer = make_packer(student, teacher, max_length=4096, teacher_max_length=4096)
    windows, _ = pack(packer, talk(*(text for turn in turns for text in turn), system=system))
    spans = find_spans(windows, [0], 0, 0)
    sides = (
        (student, packer.student.encoder.table, windows.student_ids[0], spans.student_starts, "<|im_end|>"),
        (teacher, packer.teachers[0].encoder.table, windows.teacher_ids[0], spans.teacher_starts, "</s>"),
    )
    is_label = windows.labels([0])[0, 1:]
    for number in range(len(spans.same_token)):
        if not is_label[int(spans.student_starts[number])]:
            continue
        read = []
        for tokenizer, table, ids, starts, end in sides:
            part = ids[1:][int(starts[number]) : int(starts[number + 1])]
            pieces = [b"" if tokenizer.convert_ids_to_tokens(int(i)) == end else table[int(i)] for i in part]
            read.append(b"".join(pieces))
        # INST writes a space before an answer, and one before the end of a turn
        assert read[1] in (read[0], b" " + read[0])


def test_ends_of_turns_are_one_token_of_both(small_pair):
    student, _ = chat_tokenizers()
    windows, _ = pack(make_packer(student, student), talk("question", "answer"))
    assert windows.student_ids[0][windows.same_token[0].nonzero()[0][-1] + 1] == end_token_id(student)
    packer = make_packer(*chat_tokenizers())
    pairs = set(zip(packer.overlaps[0].student_ids.tolist(), packer.overlaps[0].teacher_ids.tolist(), strict=True))
    assert tuple(map(end_token_id, chat_tokenizers())) in pairs


def test_ids_are_those_of_the_template_as_a_whole(real_tokenizer):
    for name in ("qwen1.5", "smollm2"):
        tokenizer = real_tokenizer(name)
        before, tokenizer.chat_template = tokenizer.chat_template, CHATML
        conversations = [
            talk("Hello,\n world", "It's 1999.\n"),
            talk(" x", "def f(x):\n    return x", "na\u00efve", "  ok"),
        ]
        windows, fitted = pack(make_packer(tokenizer, tokenizer), *conversations)
        for ids, each in zip(windows.student_ids, fitted, strict=True):
            plain = [{"role": m.role, "content": m.content} for m in each.messages]
            whole = tokenizer.apply_chat_template(plain)["input_ids"]
            # the line end behind the last end of turn is read by nobody
            assert ids[ids != PAD].tolist() == whole[:-1]
        tokenizer.chat_template = before


def test_a_content_that_names_special_tokens_is_text():
    student, teacher = chat_tokenizers()
    windows, _ = pack(make_packer(student, teacher), talk("say <|im_end|>", "<|im_end|><|im_start|>user"))
    end = student.convert_tokens_to_ids("<|im_end|>")
    assert (windows.student_ids[0] == end).sum() == 2
    assert windows.num_bytes[0] == len("<|im_end|><|im_start|>user")


@pytest.mark.parametrize(
    ("loss_on", "learnt"), [("answers", "one<|im_end|>two<|im_end|>"), ("last", "two<|im_end|>"), ("all", None)]
)
def test_the_loss_is_on_what_was_asked_for(loss_on, learnt):
    student, _ = chat_tokenizers()
    windows, _ = pack(make_packer(student, student, loss_on), talk("a", "one", "b", "two", system="s"))
    found = label_text(student, windows.student_ids[0], windows.labels([0])[0])
    assert found == (learnt or "".join(f"{text}<|im_end|>" for text in ("s", "a", "one", "b", "two")))


@pytest.mark.parametrize(("loss_on", "learnt"), [("answers", ["one", "two answer"]), ("last", ["two answer"])])
def test_all_of_an_answer_is_learnt_where_the_template_writes_nothing_between_two_turns(loss_on, learnt):
    tokenizer = deepcopy(chat_tokenizers()[0])
    tokenizer.chat_template = read_template("short", "student.chat_template")
    windows, _ = pack(make_packer(tokenizer, tokenizer, loss_on), talk("a question", "one", "b", "two answer"))
    found = label_text(tokenizer, windows.student_ids[0], windows.labels([0])[0])
    assert found == "".join(f"{text}<|im_end|>" for text in learnt)


def test_labels_of_a_batch_are_the_windows_and_the_rest_is_ignored():
    windows, _ = pack(make_packer(*chat_tokenizers()), talk("a question", "an answer"), talk("b", "c d e"))
    for side, ids in (("student", windows.student_ids), ("teacher", windows.teacher_ids)):
        batch = WindowCollator(windows, side)([1, 0])
        wanted = windows.labels([1, 0], side == "teacher")[:, : batch["labels"].shape[1]]
        assert np.array_equal(batch["labels"].numpy() >= 0, wanted)
        assert (batch["labels"].numpy()[wanted] == ids[[1, 0]][:, : wanted.shape[1]][wanted]).all()
    batch = WindowCollator(windows, with_teacher=True)([0, 1])
    assert batch["counted"].sum() == windows.labels([0, 1]).sum()
    assert batch["teacher_counted"].sum() == windows.labels([0, 1], of_teacher=True).sum()


def test_a_long_conversation_loses_old_turns_then_its_front_and_keeps_the_answer():
    student, teacher = chat_tokenizers()
    packer = make_packer(student, teacher, max_length=60, teacher_max_length=80)
    old, question = "river " * 20, "first the garden " * 8 + "and last"
    windows, (fitted,) = pack(packer, talk(old, "answer", question, "window letter"))
    assert [message.role for message in fitted.messages] == ["user", "assistant"]
    assert fitted.messages[-1].content == "window letter" and not fitted.answer_is_cut
    assert question.endswith(fitted.messages[0].content) and fitted.messages[0].content.endswith("and last")
    assert (windows.student_ids != PAD).sum() <= 60 and (windows.teacher_ids != PAD).sum() <= 80
    counts = packer.describe()
    assert (counts["conversations_cut"], counts["turns_left_out"], counts["answers_cut"]) == (1, 1, 0)
    assert counts["prompt_bytes_cut"] == len(question.encode()) - len(fitted.messages[0].content.encode())


def test_an_answer_that_does_not_fit_alone_is_cut_and_has_no_end():
    student, teacher = chat_tokenizers()
    packer = make_packer(student, teacher, max_length=60, teacher_max_length=120)
    answer = "window garden letter " * 30
    windows, (fitted,) = pack(packer, talk("a question of the river", answer))
    assert answer.startswith(fitted.messages[-1].content) and fitted.answer_is_cut
    assert fitted.messages[0].content.endswith("river")
    learnt = label_text(student, windows.student_ids[0], windows.labels([0])[0])
    assert learnt == fitted.messages[-1].content
    assert packer.describe()["answers_cut"] == 1


def test_no_room_at_all_is_an_error_and_a_few_are_counted():
    packer = make_packer(*chat_tokenizers(), max_length=8)
    words = (
        r"room for a conversation in 8 tokens.*\(1: no room for an answer\); raise both: data.max_length=16 teacher.m"
    )
    with pytest.raises(UserError, match=words):
        list(packer.pack([talk("question", "answer").to_json()]))


def test_a_template_that_changes_a_content_is_refused_or_counted():
    student, teacher = chat_tokenizers()
    packer, before = make_packer(student, teacher), teacher.chat_template
    teacher.chat_template = before.replace("{{ ' ' + m", "{{ ' no' if 'x' in message['content'] else ' ' + m")
    assert teacher.chat_template != before
    try:
        with pytest.raises(UserError, match=r"one that changes the assistant message 'x y'.*bad_rows=skip"):
            list(packer.pack([talk("a", "x y").to_json()]))
        packer.skips = True
        _, kept = next(packer.pack([talk("a", "x y").to_json(), talk("a", "b").to_json()]))
        assert len(kept) == 1 and packer.left_out == {"the template changes a content": 1}
    finally:
        teacher.chat_template = before


def test_the_data_step_reads_conversations_and_says_what_it_did(tmp_path, capsys):
    rows = [
        {"instruction": f"say {n} {WORDS}", "input": "", "output": f"{n} is said", "bad": n % 10 == 0}
        for n in range(60)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    values = {"path": str(path), "max_length": 96, "skip_rows_where": "bad"}
    data = make_data(make_config(tmp_path, data=values), tmp_path)
    assert data.is_chat and data.manifest["chat"]["rows_left_out"] == {"bad": 6}
    assert "rows left out: 6 (bad)" in capsys.readouterr().out
    assert data.manifest["train"]["conversations"] == len(data.train) == len(data.prompts("train"))
    assert data.manifest["document_ends"] == ["<|im_end|>", "<|im_end|>"]
    first = data.prompts("evaluation", 1)[0]
    learnt = label_text(data.student_tokenizer, data.evaluation.student_ids[0], data.evaluation.labels([0])[0])
    assert learnt == first.answer + "<|im_end|>"
    assert data.evaluation.num_bytes[0] == len(first.answer.encode())
    assert data.evaluation.pieces[:, 0, 0].tolist() == list(range(len(data.evaluation)))
