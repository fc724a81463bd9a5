"""Answers to held-out prompts: every measure by definition, intervals over prompts, examples as they were written."""

import builtins
import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from kdkit.alignment.templates import Message
from kdkit.config.tasks import EvaluateConfig
from kdkit.data.conversations import Conversation
from kdkit.errors import UserError
from kdkit.evaluate.answers import MEASURES, check_rouge, score_answers
from kdkit.evaluate.significance import paired_t_test
from kdkit.models.writer import Written
from kdkit.report.answers import answer_examples, answers_table, answers_verdict

WORDS = "the a river bridge castle winter letter garden quick slow 42 x_1".split()  # noqa: SIM905


class Says:
    """A writer that says given texts, and keeps what it was asked."""

    def __init__(self, *texts, stopped=True):
        self.texts, self.stopped, self.asked = texts, stopped, None

    def write(self, prompts, sampling):
        self.asked = prompts, sampling
        return [[Written(text, len(text.split()), self.stopped)] for text in self.texts]


def conversation(question, answer):
    return Conversation((Message("system", "be brief"), Message("user", question), Message("assistant", answer)))


def score(references, training=(), settings=None, **writers):
    """Score the answers of writers to as many questions."""
    asked = [conversation(f"question {i}?", reference) for i, reference in enumerate(references)]
    learnt = [conversation("q", answer) for answer in training]
    return score_answers(writers, asked, learnt, settings or EvaluateConfig())


def mean(result, name, key):
    return result["models"][name][key]["mean"]


def longest_common(first, second):
    """Return the length of the longest common subsequence, by its definition."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + longest_common(first[:-1], second[:-1])
    return max(longest_common(first[:-1], second), longest_common(first, second[:-1]))


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    draw = random.Random(0)
    for _ in range(20):
        texts = [draw.choices(WORDS[:10], k=draw.randint(1, 7)) for _ in range(2)]
        common = longest_common(*texts)
        expected = 2 * common / (len(texts[0]) + len(texts[1]))
        found = score([" ".join(texts[0])], student=Says(" ".join(texts[1]).upper() + "!"))
        assert mean(found, "student", "rouge_l") == pytest.approx(expected)


def test_rouge_l_of_plain_english_is_googles():
    scorer, draw = RougeScorer(["rougeL"]), random.Random(1)
    for _ in range(20):
        reference, answer = (", ".join(draw.choices(WORDS, k=12)) + ". It's" for _ in range(2))
        found = mean(score([reference], student=Says(answer)), "student", "rouge_l")
        assert found == pytest.approx(scorer.score(reference, answer)["rougeL"].fmeasure)


def test_letters_of_every_script_count():
    """Google's words are of ASCII alone: it finds nothing in common here."""
    texts = "\u5f88\u4e45\u4ee5\u524d", "caf\u00e9 \u00fcber", "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440"
    found = score(texts, student=Says(*texts))
    assert mean(found, "student", "rouge_l") == mean(found, "student", "exact_match") == 1.0


def test_exact_match_knows_no_case_and_no_punctuation():
    found = score(["Yes, it is.", "Yes, it is.", "No"], student=Says("yes it is", "yes it was", ""))
    assert mean(found, "student", "exact_match") == pytest.approx(1 / 3)


def test_length_is_in_words_and_stops_are_counted():
    found = score(["a b c", "a"], student=Says("one two three four", "one"), baseline=Says("", "x", stopped=False))
    assert mean(found, "student", "length") == 2.5 and mean(found, "reference", "length") == 2.0
    assert mean(found, "student", "stop_rate") == 1.0 and mean(found, "baseline", "stop_rate") == 0.0


def test_copies_of_the_prompt_and_of_training_answers_are_told_apart():
    prompt, learnt = "one two three four five six", "red green blue black white grey"
    asked = [conversation(prompt, "anything")]
    writers = {"student": Says(f"{prompt} seven"), "baseline": Says(learnt)}
    found = score_answers(writers, asked, [conversation("q", learnt)], EvaluateConfig())
    assert mean(found, "student", "copied_from_prompt") == pytest.approx(2 / 3)  # of three 5-grams
    assert mean(found, "student", "copied_from_training") == 0.0
    assert mean(found, "baseline", "copied_from_prompt") == 0.0
    assert mean(found, "baseline", "copied_from_training") == 1.0


def test_intervals_are_students_t_over_prompts_and_differences_are_in_pairs():
    references = ["a b c d"] * 4
    student, baseline = Says("a b c d", "a b c", "a b", "a"), Says("a b c", "a b", "a", "z")
    found = score(references, student=student, baseline=baseline, teacher=Says(*references))
    rouge = found["rouge_l"]
    expected = paired_t_test(rouge["student"])
    low, high = expected.interval
    assert low > 0.0 and high > 1.0  # what a share cannot be
    assert found["models"]["student"]["rouge_l"] == {"mean": expected.mean, "interval_95": (low, 1.0)}
    words = paired_t_test([4.0, 3.0, 2.0, 1.0])
    assert found["models"]["student"]["length"] == {"mean": words.mean, "interval_95": words.interval}
    pairs = paired_t_test([a - b for a, b in zip(rouge["student"], rouge["baseline"], strict=True)])
    assert found["differences"] == {"baseline": {"mean": pairs.mean, "interval_95": pairs.interval}}


def test_models_are_asked_everything_before_the_answer_and_answer_greedily():
    student = Says("x")
    score(["r"], student=student, settings=EvaluateConfig(max_answer_tokens=7))
    (prompt,), sampling = student.asked
    assert [(m.role, m.content) for m in prompt] == [("system", "be brief"), ("user", "question 0?")]
    assert (sampling.temperature, sampling.max_new_tokens) == (0.0, 7)


def test_a_teacher_that_cannot_write_is_left_out(capsys):
    class Mute(Says):
        def write(self, prompts, sampling):
            raise UserError("teacher: expected one that writes text")

    found = score(["r"], teacher=Mute(), student=Says("r"))
    assert list(found["models"]) == ["reference", "student"] == [*found["answers"][0]]
    assert "the teacher writes none" in capsys.readouterr().out
    with pytest.raises(UserError):
        score(["r"], student=Mute())


def test_a_missing_package_is_said_before_anything_is_measured(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith("rouge_score"):
            raise ImportError("No module named 'rouge_score'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    check_rouge(False)
    with pytest.raises(UserError, match=r"pip install rouge-score, or set evaluate\.num_answers=0"):
        check_rouge(True)


# the report


def evaluation():
    references = ["a b c d"] * 6
    writers = {
        "teacher": Says(*references),
        "student": Says("a b c d", "a b c", "a b d", "a b", "a b c d", "a b c"),
        "baseline": Says(*["a z"] * 6),
    }
    return {"answers": score(references, **writers)}


def test_the_table_has_a_row_for_every_measure_and_the_best_student_is_marked():
    headings, rows = answers_table(evaluation())
    assert headings == [
        "answers to 6 held-out prompts",
        "reference",
        "teacher",
        "student (distilled)",
        "baseline, equal steps",
    ]
    assert len(rows) == len(MEASURES) and rows[0][1] == "-"
    assert [type(cell).__name__ for cell in rows[0][2:]] == ["str", "Best", "str"]
    assert rows[0][2] == "1.000 (1.000 to 1.000)"


def test_the_examples_are_what_was_written_and_the_sentence_says_who_is_better():
    headings, rows = answer_examples(evaluation(), 2)
    assert rows[1] == ["question 1?", "a b c d", "a b c d", "a b c", "a z"] and len(rows) == 2
    assert headings[0] == "held-out prompt"
    words = "The student's answers are better than the baseline of equal steps by ROUGE-L (+0."
    assert answers_verdict(evaluation()).startswith(words)


def test_data_without_prompts_has_neither():
    assert answers_table({}) is None and answer_examples({}, 3) is None and answers_verdict({}) == ""
