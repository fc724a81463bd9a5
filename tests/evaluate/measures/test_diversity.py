"""Diversity and copies, against nltk, sets of words and a plain search."""

import math
import random
import warnings
from collections import Counter

import pytest

from kdkit.data.text.copies import KnownText
from kdkit.evaluate.measures.diversity import distinct, entropy, measure_diversity, self_bleu, training_text
from kdkit.evaluate.measures.run import PEOPLE, compare_writing
from tests.tiny import make_config, make_data


def write(generator: random.Random, length: int, choice: int = 12) -> list[str]:
    return [f"w{generator.randrange(choice)}" for _ in range(length)]


def test_the_longest_run_is_that_of_a_plain_search():
    generator = random.Random(0)
    known_words = write(generator, 400)
    known = KnownText([" ".join(known_words)])
    text = " ".join(known_words)
    for _ in range(40):
        start, length = generator.randrange(380), generator.randrange(3, 12)
        words = [*write(generator, 4), *known_words[start : start + length], *write(generator, 4)]
        longest = max(
            (n for i in range(len(words)) for n in range(3, len(words) - i + 1)
             if f" {' '.join(words[i : i + n])} " in f" {text} "),
            default=0,
        )  # fmt: skip
        assert known.longest_runs([" ".join(words)])[0] == longest >= length
    assert known.longest_runs(["", "nothing of it is there", "w1"]).tolist() == [0, 0, 0]


def test_copies_ignore_case_and_signs_and_their_share_is_that_of_five_words():
    known = KnownText(["The cat sat on the mat.", "Then it slept all day."])
    assert known.num_words == 11
    runs = known.longest_runs(["the CAT, sat on!", "it slept, all day long", "a dog sat on the moon"])
    assert runs.tolist() == [4, 4, 3]
    assert known.copy_rates(["the cat sat on the mat", "a dog ran away from us"]).tolist() == [1.0, 0.0]


def test_self_bleu_is_that_of_nltk():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    generator, smooth = random.Random(1), bleu.SmoothingFunction().method2
    for _ in range(10):
        texts = [write(generator, generator.randrange(6, 15), 8) for _ in range(5)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = bleu.sentence_bleu(texts[1:], texts[0], smoothing_function=smooth)
        assert self_bleu(texts[0], texts[1:]) == pytest.approx(expected)
    assert self_bleu(texts[0], [texts[0]]) == pytest.approx(1.0)
    assert self_bleu([], texts) == self_bleu(["never"], texts) == 0.0


def test_distinct_and_entropy_count_what_differs():
    counts = Counter("aabb")
    assert distinct(counts) == 0.5 and entropy(counts) == 1.0
    assert entropy(Counter("abcd")) == 2.0 and distinct(Counter()) == 0.0


def test_a_writer_of_stock_phrases_is_less_varied_and_copies_more():
    generator = random.Random(2)
    phrase = [f"p{i}" for i in range(10)]
    known = KnownText([" ".join(phrase)])
    texts = {
        "varied": [" ".join(write(generator, 20, 500)) for _ in range(16)],
        "stock": [" ".join([*write(generator, 10, 500), *phrase]) for _ in range(16)],
        "silent": [""] * 16,
    }
    found = measure_diversity(texts, known)
    assert list(found["writers"]) == ["varied", "stock"] and found["num_prompts"] == 16 and found["words"] == 20
    varied, stock = found["writers"].values()
    for name, is_more in (("distinct_2", True), ("entropy_2", True), ("self_bleu", False), ("copied_run", False)):
        first, second = (varied, stock) if is_more else (stock, varied)
        assert first[name]["interval_95"][0] > second[name]["interval_95"][1], name
    assert stock["copied_run"]["value"] == 10 and varied["copied_share"]["value"] == 0.0
    assert measure_diversity({"alone": ["one text"]}, known) == {}


def test_the_jackknife_has_the_width_of_many_draws():
    widths, values = [], []
    for seed in range(60):
        generator = random.Random(seed)
        texts = {"it": [" ".join(write(generator, 20, 40)) for _ in range(16)]}
        found = measure_diversity(texts, KnownText([]))["writers"]["it"]["distinct_2"]
        values.append(found["value"])
        widths.append(found["interval_95"][1] - found["interval_95"][0])
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    assert 0.6 < sum(widths) / len(widths) / (2 * 2.13 * spread) < 2.2  # it is known to be cautious


def test_people_wrote_what_follows_in_the_held_out_text_and_copies_are_of_the_training_text(tmp_path):
    config = make_config(tmp_path, evaluate={"num_prompts": 2, "diversity_prompts": 3})
    data = make_data(config, tmp_path)
    openings = [text for text in data.manifest["openings"] if len(text.split()) > 8][:4]
    rows = [{"prompt": " ".join(text.split()[:4]), "student": "the quick brown fox"} for text in openings]
    found = compare_writing(data, {"continuations": rows}, config.evaluate)
    assert list(found["writers"]) == [PEOPLE, "student"] and found["num_prompts"] == 3
    student = found["writers"]["student"]
    assert student["self_bleu"]["value"] == pytest.approx(1.0) and student["copied_run"]["value"] >= 3
    assert found["writers"][PEOPLE]["distinct_1"]["value"] > student["distinct_1"]["value"]
    documents = (tmp_path / "corpus.txt").read_text().split("<|endoftext|>")
    share = data.manifest["corpus"]["train_documents"] / len(documents)
    words = share * sum(len(document.split()) for document in documents)
    assert training_text(data).num_words == pytest.approx(words, rel=0.2)
