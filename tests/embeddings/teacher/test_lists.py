"""Lists of hard negatives: mined as sentence-transformers mines them, scored by a cross-encoder, trained on."""

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from kdkit.config.embeddings import NegativesConfig, embedding_config_from_values
from kdkit.embeddings.data.prepare import prepare_sentences
from kdkit.embeddings.teacher.cross_encoder import check_cross_encoder, score_pairs
from kdkit.embeddings.teacher.lists import NOTHING, mine_negatives
from kdkit.embeddings.teacher.probe import probe_embedding_teacher
from kdkit.embeddings.training.train import distill_all
from kdkit.errors import UserError
from kdkit.runs.open_run import open_embedding_run
from tests.embedders import WORDS, cpu, make_session, save_teacher

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an embedding teacher, a cross-encoder and pairs of sentences."""
    path = tmp_path_factory.mktemp("lists")
    save_teacher(path / "teacher")
    save_cross_encoder(path, "cross", 1)
    draw = np.random.default_rng(0)
    rows = [" ".join(draw.choice(WORDS, size=draw.integers(3, 9))) for _ in range(80)]
    lines = [f'"{first}","{second}"\n' for first, second in zip(rows[:40], rows[40:], strict=True)]
    (path / "pairs.csv").write_text("anchor,positive\n" + "".join(lines))
    return path


def save_cross_encoder(path, name, labels):
    """Save a tiny cross-encoder with the teacher's tokenizer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path / "teacher")
    torch.manual_seed(3)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=labels, max_position_embeddings=32, **size)
    config.initializer_range = 0.3
    BertForSequenceClassification(config).eval().save_pretrained(path / name)
    tokenizer.save_pretrained(path / name)
    return path / name


def train(folder, name, *overrides):
    """Train on the pairs for three steps; return the facts on the lists and the losses."""
    values = [
        f"data.path={folder / 'pairs.csv'}",
        "data.positives=second",
        "data.max_length=16",
        "data.evaluation_fraction=0.05",
        f"teacher.path={folder / 'teacher'}",
        f"cache_dir={folder / 'cache'}",
        "student.layers=[0,3]",
        "train={per_device_train_batch_size: 8, max_steps: 3, warmup_steps: 0, log_every: 1}",
    ]
    (folder / "run.yaml").write_text("method: cosine\n")
    config, run = open_embedding_run(str(folder / "run.yaml"), [*values, *overrides], name, str(folder / "runs"))
    session = make_session(config, run)
    data = prepare_sentences(session, None)
    probe_embedding_teacher(session, data)
    distill_all(session, data)
    losses = [line for line in run.read_metrics() if "loss" in line]
    return run.read_json("teacher/probe.json").get("negatives"), losses


def unit_vectors(count, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32) + 1.0
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_negatives_are_those_of_sentence_transformers():
    hard_negatives = pytest.importorskip("sentence_transformers.util", reason="needs sentence-transformers")
    datasets = pytest.importorskip("datasets")
    vectors = unit_vectors(60)

    class Table:
        """A model whose vectors are a table."""

        def __getattr__(self, name):
            return lambda texts, **_: vectors[[int(text) for text in texts]]

    rows, partners = np.arange(30), np.arange(30, 60)
    texts = {"anchor": [str(row) for row in rows], "positive": [str(row) for row in partners]}
    table = Table()
    table.device = torch.device("cpu")
    table.similarity_pairwise = lambda first, second: torch.tensor((np.array(first) * np.array(second)).sum(-1))
    table.similarity = lambda first, second: torch.tensor(np.array(first) @ np.array(second).T)
    mined = hard_negatives.mine_hard_negatives(
        datasets.Dataset.from_dict(texts),
        table,
        num_negatives=3,
        range_max=30,
        relative_margin=0.05,
        sampling_strategy="top",
        output_format="n-tuple",
        verbose=False,
    )
    expected = {int(row["anchor"]): [int(row[f"negative_{n}"]) for n in (1, 2, 3)] for row in mined}
    ours, dropped = mine_negatives(vectors, rows, partners, NegativesConfig(number=3), 0)
    assert len(expected) > 5 and dropped > 0
    for row, negatives in expected.items():
        assert ours[row].tolist() == negatives
    assert {row for row in rows if NOTHING not in ours[row]} == set(expected)


def test_partners_of_the_same_sentence_are_no_negatives():
    rows, partners = np.array([0, 0, 1]), np.array([2, 3, 4])
    negatives, _ = mine_negatives(unit_vectors(5), rows, partners, NegativesConfig(number=4, margin=0.0), 0)
    assert set(negatives[:2].ravel()) <= {4, NOTHING}


def test_random_negatives_keep_the_rule_and_follow_the_seed():
    vectors, rows, partners = unit_vectors(60), np.arange(30), np.arange(30, 60)
    settings = NegativesConfig(number=3, choose="random")
    first, again, other = (mine_negatives(vectors, rows, partners, settings, seed)[0] for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    for row, chosen in enumerate(first):
        limit = 0.95 * float(vectors[row] @ vectors[partners[row]])
        assert all(float(vectors[row] @ vectors[text]) <= limit for text in chosen if text != NOTHING)


def test_scores_are_those_of_the_cross_encoder_of_sentence_transformers(folder):
    cross_encoder = pytest.importorskip("sentence_transformers.cross_encoder", reason="needs sentence-transformers")
    pairs = [("the cat sat", "a red house"), ("a dog", "the quick dog ran on grass and then it was slow"), ("it", "")]
    config = embedding_config_from_values({"teacher": {"cross_encoder": str(folder / "cross"), "batch_size": 2}})
    ours = score_pairs(config, cpu(), pairs)
    theirs = cross_encoder.CrossEncoder(str(folder / "cross"), device="cpu", max_length=32)
    expected = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_a_classifier_of_several_labels_is_refused(folder):
    several = save_cross_encoder(folder, "several", 3)
    for path, got in ((several, "got 3 labels"), (folder / "teacher", "got no weights for classifier.bias")):
        config = embedding_config_from_values({"teacher": {"cross_encoder": str(path)}})
        with pytest.raises(UserError, match="expected a cross-encoder with one label") as caught:
            score_pairs(config, cpu(), [("a", "b")])
        assert "\n" not in str(caught.value) and (got in str(caught.value) or path != several)


def test_a_cross_encoder_is_checked_before_a_training(folder):
    save_cross_encoder(folder, "four", 4)
    for method, name, got in (
        ("margin_mse", "four", "one label, got 4 labels"),
        ("cosine", "cross", "expected a method that learns its scores, got cosine"),
        ("list_kl", "nothere", "does not exist"),
    ):
        values = {"method": method, "teacher": {"cross_encoder": str(folder / name)}}
        with pytest.raises(UserError, match=got) as caught:
            check_cross_encoder(embedding_config_from_values(values))
        assert "\n" not in str(caught.value) and str(caught.value).startswith("teacher.cross_encoder: ")
    values = {"method": "cosine", "compare": ["list_kl"], "teacher": {"cross_encoder": str(folder / "cross")}}
    check_cross_encoder(embedding_config_from_values(values))


@pytest.mark.parametrize("method", ["margin_mse", "list_kl"])
def test_students_learn_the_lists_of_either_scorer(folder, method):
    losses = {}
    for scorer in ("null", str(folder / "cross")):
        name = f"{method}-{'own' if scorer == 'null' else 'cross'}"
        facts, lines = train(folder, name, f"method={method}", f"teacher.cross_encoder={scorer}")
        assert facts["negatives_per_row"] > 1
        assert all(math.isfinite(line["list_loss"]) for line in lines) and lines[0]["list_loss"] > 0
        losses[scorer] = [line["list_loss"] for line in lines]
    first, second = losses.values()
    assert first != second


def test_without_partners_a_list_is_a_sentences_neighbours(folder):
    facts, lines = train(folder, "alone", "method=margin_mse", "data.positives=dropout")
    assert facts["negatives_per_row"] > 3 and len(lines) == 3


def test_a_margin_that_leaves_no_negative_is_refused(folder):
    with pytest.raises(UserError, match=r"lower data\.negatives\.margin"):
        train(folder, "none", "method=list_kl", "data.negatives.margin=1")
