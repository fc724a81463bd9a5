"""Minimal pairs: reading, the ones that are made here, scores with known answers, and tables."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from kdkit.alignment.tokenizers import start_token_id, train_tokenizer
from kdkit.config.tasks import EvaluateConfig
from kdkit.errors import UserError
from kdkit.evaluate.pairs.files import BUILT_IN, Pair, read_pairs
from kdkit.evaluate.pairs.grammar import AGREEMENT, PAIRS_EACH, PHENOMENA
from kdkit.evaluate.pairs.score import compare, evaluate_pairs, score_sentences, wilson_interval
from kdkit.models.reading import Reader
from kdkit.report.answers import pairs_table, pairs_verdict
from tests.tiny import make_llama

ROW = {"sentence_good": "The cats run.", "sentence_bad": "The cats runs.", "UID": "regular_plural"}


def write_rows(path, rows):
    """Write rows as JSON lines; text as it is."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([pair.good for pair in read_pairs(BUILT_IN)], 320)


class Bigrams(Reader):
    """A model whose logits are a table: the last token decides the next one's."""

    def __init__(self, table):
        super().__init__("bigrams", len(table), torch.device("cpu"))
        self.table = table

    def read(self, input_ids):
        return lambda rows: self.table[input_ids.flatten()[rows]]


def test_a_folder_of_files_is_read_with_the_phenomena_that_its_rows_name(tmp_path):
    write_rows(
        tmp_path / "b.jsonl", [ROW, "", ROW | {"linguistics_term": "subject_verb_agreement", "sentence_bad": "x"}]
    )
    write_rows(tmp_path / "a_rule.jsonl", [{"sentence_good": "A", "sentence_bad": "a\u2028b"}])
    (tmp_path / "._a_rule.jsonl").write_bytes(b"\x00\x05 what macOS puts beside a file in an archive")
    assert read_pairs(str(tmp_path)) == [
        Pair("A", "a\u2028b", "a rule"),
        Pair("The cats run.", "The cats runs.", "regular plural"),
        Pair("The cats run.", "x", "subject verb agreement"),
    ]
    assert read_pairs(None) == []


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "got none in"),
        ([ROW, {"good": "a", "sentence_bad": "b"}], "line 2 of pairs.jsonl without sentence_good (good, sentence_bad)"),
        ([[1, 2]], "without sentence_good (no columns)"),
        ([ROW | {"sentence_bad": ROW["sentence_good"]}], "got 'The cats run.' twice in line 1"),
        ([ROW | {"sentence_bad": " "}], "expected a sentence as sentence_bad, got ' '"),
        ([ROW, "{torn"], "got line 2, which is none"),
    ],
)
def test_files_that_hold_no_pairs_are_refused_in_one_line(tmp_path, rows, words):
    with pytest.raises(UserError) as error:
        read_pairs(write_rows(tmp_path / "pairs.jsonl", rows))
    assert words in str(error.value) and str(error.value).startswith("evaluate.minimal_pairs: expected")


def test_a_path_without_pairs_is_refused_with_a_row_to_copy(tmp_path):
    for source in (str(tmp_path), str(tmp_path / "none.jsonl"), write_rows(tmp_path / "pairs.csv", [ROW])):
        with pytest.raises(UserError, match=r"expected kdkit-grammar, a \.jsonl file or a folder of them") as error:
            read_pairs(source)
        row = str(error.value).rpartition("a line: ")[2]
        assert read_pairs(write_rows(tmp_path / "copied.jsonl", [row]))[0].phenomenon == "agreement"
        (tmp_path / "copied.jsonl").unlink()


def test_the_pairs_made_here_differ_little_and_are_as_many_of_every_phenomenon():
    pairs = read_pairs(BUILT_IN)
    assert Counter(pair.phenomenon for pair in pairs) == dict.fromkeys(PHENOMENA, PAIRS_EACH)
    assert len(set(pairs)) == len(pairs) and read_pairs(BUILT_IN) == pairs
    good = {pair.good for pair in pairs}
    for pair in pairs:
        words = pair.good.split(), pair.bad.split()
        assert pair.good[0].isupper() and pair.good[-1] in ".?" and pair.bad not in good
        assert len(words[0]) == len(words[1])
        assert sum(a != b for a, b in zip(*words, strict=True)) == 1 or sorted(words[0]) == sorted(words[1])


@pytest.mark.parametrize("phenomenon", AGREEMENT)
def test_how_frequent_words_are_decides_no_agreement(phenomenon):
    pairs = [pair for pair in read_pairs(BUILT_IN) if pair.phenomenon == phenomenon]
    sides = [Counter(word for pair in pairs for word in getattr(pair, side).split()) for side in ("good", "bad")]
    assert sides[0] == sides[1]


def test_a_sentences_score_is_the_sum_of_its_tokens_log_probabilities(tokenizer):
    model = make_llama(len(tokenizer) + 7).eval()  # a padded head
    sentences = ["The cats run.", "A", "The old teacher near the trees is happy every day."]
    scores = score_sentences(model, tokenizer, sentences, 2)
    for sentence, score in zip(sentences, scores, strict=True):
        ids = [start_token_id(tokenizer), *tokenizer(sentence, add_special_tokens=False).input_ids]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :, : len(tokenizer)].double()
        expected = sum(logits[i].log_softmax(-1)[ids[i + 1]].item() for i in range(len(ids) - 1))
        assert score == pytest.approx(expected, abs=1e-3)


def test_a_model_of_word_pairs_gets_what_stands_beside_each_other_and_nothing_else(tokenizer):
    pairs = [Pair("the cat is", "the cat are", "near"), Pair("the cats are", "the cats is", "near")]
    pairs += [Pair("cat by dogs is", "cat by dogs are", "far"), Pair("cats by dogs are", "cats by dogs is", "far")]
    words = train_tokenizer([f"{pair.good} {pair.bad} " * 50 for pair in pairs], 300)
    table = torch.zeros(len(words), len(words))
    for first, second in ((" cat", " is"), (" cats", " are"), (" dogs", " are")):
        (a,), (b,) = (words(word, add_special_tokens=False).input_ids for word in (first, second))
        table[a, b] = 5.0
    models = {"student": (Bigrams(table), "student"), "baseline": (Bigrams(torch.zeros_like(table)), "student")}
    settings = EvaluateConfig(minimal_pairs="mine", batch_size=3)
    found = evaluate_pairs(pairs, models, {"student": words}, settings)["minimal_pairs"]
    student = found["models"]["student"]
    assert student["accuracy"] == 0.75
    assert {kind: each["accuracy"] for kind, each in student["phenomena"].items()} == {"near": 1.0, "far": 0.5}
    assert found["models"]["baseline"]["accuracy"] == 0.5  # of equal scores neither wins
    assert found["num_pairs"] == {"near": 2, "far": 2} and found["source"] == "mine"
    assert found["differences"]["baseline"]["mean"] == 0.25
    evaluation = {"minimal_pairs": found}
    headings, rows = pairs_table(evaluation)
    assert headings == ["minimal pairs (mine)", "pairs", "student (distilled)", "baseline, equal steps"]
    assert [row[0] for row in rows] == ["all phenomena \u2191", "near", "far"]
    assert rows[1][1:] == ["2", "100.0% (34% to 100%)", "50.0% (9% to 91%)"]
    assert "no more and no less often than the baseline of equal steps (+25.0%" in pairs_verdict(evaluation)


def test_without_pairs_nothing_is_measured_and_nothing_shown():
    assert evaluate_pairs([], {}, {}, EvaluateConfig()) == {}
    assert pairs_table({}) is None and pairs_verdict({}) == ""


def test_training_on_the_good_sentences_teaches_the_rules(tokenizer):
    """The measure rises with what it is to measure."""
    pairs = [pair for pair in read_pairs(BUILT_IN) if pair.phenomenon == "determiner-noun agreement"]
    torch.manual_seed(0)
    model = make_llama(len(tokenizer))
    assert isinstance(model, LlamaForCausalLM)
    before = compare(*(score_sentences(model.eval(), tokenizer, list(s), 16) for s in _sides(pairs))).mean()
    ids = [[start_token_id(tokenizer), *tokenizer(p.good, add_special_tokens=False).input_ids] for p in pairs]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    width = max(map(len, ids))
    rows = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in ids])
    for _ in range(60):
        optimizer.zero_grad()
        model(rows, labels=labels).loss.backward()
        optimizer.step()
    after = compare(*(score_sentences(model.eval(), tokenizer, list(s), 16) for s in _sides(pairs))).mean()
    assert before < 0.75 < 0.9 < after


def _sides(pairs):
    return [pair.good for pair in pairs], [pair.bad for pair in pairs]


def test_the_interval_of_a_share_is_wilsons():
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson_interval(1.0, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert np.array_equal(compare(np.array([1.0, 2, 3]), np.array([2.0, 2, 2])), [0, 0.5, 1])
