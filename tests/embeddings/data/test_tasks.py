import re
from collections import Counter
from pathlib import Path

import datasets
import pytest
import yaml

from kdkit.config.embeddings import embedding_config_from_values, load_embedding_config
from kdkit.data import rows
from kdkit.embeddings.data.tasks import embedded_tasks, load_tasks
from kdkit.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
PAIR_COLUMNS = "sentence1,sentence2,"


def refusal(call, *arguments, **settings) -> str:
    """Return the message of the UserError that a call raises; it must fit one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def load(tmp_path):
    """Load one task of CSV files: `load("sts", "sentence1,sentence2,score\\n...", max_rows=9)`."""

    def write_and_load(kind, test, fit=None, **options):
        (tmp_path / "test.csv").write_text(test)
        task = {"name": "T", "kind": kind, "path": str(tmp_path / "test.csv")} | options
        if fit is not None:
            (tmp_path / "fit.csv").write_text(fit)
            task["fit_path"] = str(tmp_path / "fit.csv")
        return load_tasks(embedding_config_from_values({"evaluate": {"tasks": [task]}}), tmp_path)[0]

    return write_and_load


def test_similarity_needs_scores_only(load):
    task = load("sts", PAIR_COLUMNS + "score\na,b,1\nc,d,2\n")
    assert (task.test.scores, task.fit, task.notes) == ([1.0, 2.0], None, [])


def test_classes_are_fitted_on_one_file_and_tested_on_another(load):
    task = load("classification", "text,label\na,x\nb,y\n", "text,label\nc,x\nd,y\ne,y\n")
    assert (task.test.first, task.fit.first, task.fit.labels) == (["a", "b"], ["c", "d", "e"], ["x", "y", "y"])


def test_pairs_may_use_any_label_for_related_ones(load):
    task = load("pairs", PAIR_COLUMNS + "label\na,b,entails\nc,d,neutral\n", positive_label="entails")
    assert task.test.labels == ["entails", "neutral"]


@pytest.mark.parametrize("named", [True, "True", 1, "1", 1.0, "1.0"])
@pytest.mark.parametrize("words", [("True", "False"), ("1.0", "0.0"), ("1", "0")])
def test_the_positive_label_may_be_written_in_any_way(load, words, named):
    task = load("pairs", PAIR_COLUMNS + f"label\na,b,{words[0]}\nc,d,{words[1]}\n", positive_label=named)
    assert task.test.labels == [task.task.positive_label, "0"]


@pytest.mark.parametrize("label", ["entails", "no", "2", "3.5"])
def test_the_message_on_the_positive_label_takes_the_value_that_it_names(load, label):
    content = PAIR_COLUMNS + f"label\na,b,{label}\nc,d,other\n"
    message = refusal(load, "pairs", content)
    named = re.search(r"got the labels (\S+), other in", message)[1]
    assert load("pairs", content, positive_label=yaml.safe_load(named)).test.labels[0] == named


def test_rows_without_a_sentence_are_left_out_and_told(load):
    rows = PAIR_COLUMNS + "score\na,b,1\n,d,2\ne,f,3\n"
    task = load("sts", rows)
    assert (task.test.first, task.test.scores) == (["a", "e"], [1.0, 3.0])
    assert task.notes == ["T: 1 of 3 rows are left out (1 with no sentence in 'sentence1') to test on"]


def test_bad_rows_of_a_task_are_refused_or_left_out(load):
    rows = "text,label\na,x\nb,\nc,y\n"
    assert "evaluate.tasks.T.bad_rows=skip" in refusal(load, "classification", rows, rows)
    assert load("classification", rows, "text,label\nd,x\ne,y\n", bad_rows="skip").test.labels == ["x", "y"]


@pytest.mark.parametrize("options", [{"split": "validation"}, {"configuration": "en"}, {"revision": "abc"}])
def test_what_only_a_hub_data_set_has_is_refused_for_a_file(load, options):
    (name,) = options
    message = refusal(load, "sts", PAIR_COLUMNS + "score\na,b,1\nc,d,2\n", **options)
    assert message.startswith(f"evaluate.tasks.T.{name}: expected a hub data set, got the file")


def test_no_more_rows_than_wanted_are_read(load):
    assert load("sts", PAIR_COLUMNS + "score\na,b,1\nc,d,2\ne,f,3\n", max_rows=2).test.first == ["a", "c"]


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (
            "sts",
            PAIR_COLUMNS + "label\na,b,1\n",
            "T.path: expected a column 'score' for a task of kind 'sts', got none",
        ),
        ("sts", "text,score\na,1\n", "T.path: expected the column(s) sentence1, sentence2 or"),
        ("sts", PAIR_COLUMNS + "score\na,b,high\n", "T.path: expected a number in 'score', got 'high' in row 1"),
        ("sts", PAIR_COLUMNS + "score\na,b,1\nc,d,1\n", "T.path: expected at least 2 different scores, got 1.0 alone"),
        ("sts", PAIR_COLUMNS + "score\n", "T.path: expected rows"),
        ("classification", "text\na\n", "T.path: expected a column 'label' for a task of kind 'classification'"),
        ("pairs", PAIR_COLUMNS + "score\na,b,1\n", "T.path: expected a column 'label' for a task of kind 'pairs'"),
        ("pairs", "text,label\na,1\n", "T.path: expected the column(s) sentence1, sentence2 or"),
        ("pairs", PAIR_COLUMNS + "label\na,b,same\nc,d,other\n", "with the label '1' (positive_label)"),
        ("pairs", PAIR_COLUMNS + "label\na,b,1\nc,d,1\n", "and with others, got the labels 1 in"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(load, kind, content, message):
    assert message in refusal(load, kind, content)


def test_rows_to_fit_on_are_checked_too(load):
    message = refusal(load, "classification", "text,label\na,x\nb,y\n", "text,label\nc,x\nd,x\n")
    assert message.startswith("evaluate.tasks.T.fit_path: expected at least 2 different labels, got 'x' alone")


def test_a_missing_file_names_the_task(tmp_path):
    tasks = [{"name": "STS-B", "kind": "sts", "path": "./missing.csv"}]
    config = embedding_config_from_values({"evaluate": {"tasks": tasks}})
    assert refusal(load_tasks, config, tmp_path).startswith("evaluate.tasks.STS-B.path: expected")


def test_a_split_of_a_file_is_refused(load):
    message = refusal(load, "pairs", PAIR_COLUMNS + "label\na,b,1\nc,d,0\n", fit_split="validation")
    assert "evaluate.tasks.T.fit_split: expected a hub data set, got the file" in message


def test_the_rows_that_are_tested_on_are_not_fitted_on(load, tmp_path):
    rows = "text,label\na,1\nb,0\n"
    message = refusal(load, "classification", rows, fit_path=str(tmp_path / "test.csv"))
    assert "evaluate.tasks.T.fit_path: expected other rows than are tested on" in message


def test_rows_to_fit_similarities_on_are_said_to_be_of_no_use(load):
    rows = PAIR_COLUMNS + "score\na,b,1\nc,d,2\n"
    assert "nothing is fitted to similarities" in load("sts", rows, rows).notes[0]


def test_a_label_seen_only_in_the_test_is_told_and_not_refused(load):
    task = load("classification", "text,label\na,x\nb,z\nc,z\n", "text,label\nd,x\ne,y\n")
    assert task.notes == [
        "T: 2 of 3 test rows have a label that no row to fit on has ('z'); they count as wrong",
    ]


def test_test_texts_among_those_to_fit_on_are_told(load):
    task = load("classification", "text,label\na,x\nb,y\n", "text,label\na,x\ne,y\n")
    assert task.notes == ["T: 1 of 2 test texts are also among the texts to fit on"]


def test_the_hub_is_asked_for_both_splits_at_the_pinned_revision(monkeypatch, tmp_path):
    asked = []

    def load_dataset(path, name=None, *, split, revision):
        asked.append((path, name, split, revision))
        return datasets.Dataset.from_list([{"text": "a", "label": 0}, {"text": "b", "label": 1}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(rows, "hub_is_reachable", lambda: True)
    task = {"name": "B", "kind": "classification", "path": "mteb/banking77", "revision": "0fd1", "fit_split": "train"}
    loaded = load_tasks(embedding_config_from_values({"evaluate": {"tasks": [task]}}), tmp_path)[0]
    assert asked == [("mteb/banking77", None, "test", "0fd1"), ("mteb/banking77", None, "train", "0fd1")]
    assert loaded.test.labels == ["0", "1"]


def test_the_configured_tasks_are_pinned_and_have_what_to_fit_on():
    tasks = load_embedding_config(ROOT / "configs" / "embedding_tasks.yaml").evaluate.tasks
    assert len(tasks) == 13
    assert all(len(task.revision) == 40 and set(task.revision) <= set("0123456789abcdef") for task in tasks)
    assert all((task.kind == "sts") != bool(task.fit_split) for task in tasks)


HELD_OUT = [f"Sentence {i} of document {d}." for d in range(12) for i in range(d % 4 * 3)]
DOCUMENTS = [d for d in range(12) for i in range(d % 4 * 3)]


@pytest.fixture
def embedded():
    return embedded_tasks(HELD_OUT, DOCUMENTS, seed=0)


def test_two_tasks_are_made_of_held_out_sentences(embedded):
    assert [(data.task.name, data.task.kind) for data in embedded] == [
        ("python-docs neighbours", "pairs"),
        ("python-docs topics", "classification"),
    ]


def document_of(text):
    """Return the number of the document that a test sentence names."""
    return int(text.rstrip(".").split()[-1])


def test_neighbours_follow_each_other_and_strangers_come_from_two_documents(embedded):
    for split in (embedded[0].test, embedded[0].fit):
        for first, second, label in zip(split.first, split.second, split.labels, strict=True):
            if label == "1":
                assert HELD_OUT.index(second) == HELD_OUT.index(first) + 1
            assert (document_of(first) == document_of(second)) == (label == "1")
        assert Counter(split.labels)["0"] == Counter(split.labels)["1"] > 10


@pytest.mark.parametrize("seed", range(6))
def test_two_large_documents_are_not_in_the_same_half(seed):
    documents = [d for d, size in enumerate((40, 5, 6, 38, 4, 5)) for _ in range(size)]
    task = embedded_tasks([f"Sentence {i}." for i in range(len(documents))], documents, seed)[0]
    assert 0.7 < len(task.test) / len(task.fit) < 1.4


def test_no_document_is_both_fitted_and_tested_on(embedded):
    used = [{document_of(text) for text in split.texts()} for split in (embedded[0].test, embedded[0].fit)]
    assert not used[0] & used[1] and all(used)


def test_topics_are_the_large_documents_halved(embedded):
    test, fit = embedded[1].test, embedded[1].fit
    assert set(test.labels) == set(fit.labels) == {str(d) for d in range(12) if d % 4 * 3 >= 6}
    assert not set(test.first) & set(fit.first)
    assert all(label == str(document_of(text)) for text, label in zip(test.first, test.labels, strict=True))
    assert abs(len(test) - len(fit)) <= 6


def test_the_seed_decides_the_embedded_tasks(embedded):
    fingerprints = [[data.test.fingerprint for data in embedded_tasks(HELD_OUT, DOCUMENTS, seed)] for seed in (0, 1)]
    assert fingerprints[0] == [data.test.fingerprint for data in embedded] != fingerprints[1]


def test_sentences_without_documents_make_no_tasks():
    assert embedded_tasks(HELD_OUT, None, 0) == []


@pytest.mark.parametrize("documents", [[0] * 8, list(range(8)), []])
def test_too_few_documents_make_no_tasks(documents):
    assert embedded_tasks([str(i) for i in range(len(documents))], documents, 0) == []


@pytest.mark.parametrize(
    ("kind", "test", "fit", "options"),
    [
        ("sts", "sts/sickr_dev.csv", None, {}),
        ("classification", "classification/banking77_test.csv", "classification/banking77_train.csv", {}),
        ("pairs", "pairs/wic_dev.csv", "pairs/wic_train.csv", {}),
        ("pairs", "pairs/scitail_dev.csv", None, {"positive_label": "entails"}),
    ],
)
def test_real_files_are_tasks(test_data, tmp_path, kind, test, fit, options):
    task = {"name": "T", "kind": kind, "path": str(test_data / test)} | options
    task |= {"fit_path": str(test_data / fit)} if fit else {}
    loaded = load_tasks(embedding_config_from_values({"evaluate": {"tasks": [task]}}), tmp_path)[0]
    assert len(loaded.test) >= 500 and (loaded.fit is None) == (fit is None)
    told = "T: 6 of 3080 test texts are also among the texts to fit on"
    assert loaded.notes == ([told] if "banking" in test else [])
