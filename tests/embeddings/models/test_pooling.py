"""From token states to a vector, and what a model's folder says about it."""

import json

import pytest
import torch

from kdkit.embeddings.models.pooling import pool, read_reading
from kdkit.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

LEFT = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]])
RIGHT = LEFT.flip(1)
EXPECTED = {
    "mean": lambda states: states.mean(dim=0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
    "max": lambda states: states.amax(dim=0),
    "mean_sqrt_len_tokens": lambda states: states.sum(dim=0) / len(states) ** 0.5,
    "weightedmean": lambda states: sum(n * state for n, state in enumerate(states, 1)) / sum(range(len(states) + 1)),
    "cls+mean": lambda states: torch.cat([states[0], states.mean(dim=0)]),
}


@pytest.fixture
def states():
    """Random states, 3 texts of 5 tokens of width 4."""
    return torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mask", [LEFT, RIGHT], ids=["left", "right"])
@pytest.mark.parametrize("how", EXPECTED)
def test_equals_a_loop_over_the_real_tokens(states, mask, how):
    expected = torch.stack([EXPECTED[how](row[real]) for row, real in zip(states, mask.bool(), strict=True)])
    torch.testing.assert_close(pool(states, mask, how), expected)


@pytest.mark.parametrize("how", EXPECTED)
def test_a_row_of_padding_alone_becomes_zeros(states, how):
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    assert not pool(states, mask, how)[1].any()


@pytest.mark.parametrize("how", EXPECTED)
def test_what_stands_at_padding_does_not_matter(states, how):
    spoilt = states.masked_fill(RIGHT[..., None] == 0, torch.nan)
    torch.testing.assert_close(pool(spoilt, RIGHT, how), pool(states, RIGHT, how))


@pytest.mark.parametrize("how", EXPECTED)
def test_half_precision_is_pooled_in_fp32(states, how):
    assert pool(states.half() * 1e4, RIGHT, how).dtype == torch.float32
    assert pool(torch.full((1, 64, 2), 6e4).half(), torch.ones(1, 64), how).isfinite().all()


def test_an_unknown_pooling_is_refused(states):
    with pytest.raises(UserError, match=r"expected cls, max, .*, got 'median'"):
        pool(states, RIGHT, "mean+median")


def write_folder(folder, pooling, kinds=("Transformer", "Pooling", "Normalize"), **settings):
    """Write what sentence-transformers says of a model; no weights."""
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 4} | pooling))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 77}')
    return str(folder)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({}, "mean"),
    ],
)
def test_old_and_new_forms_of_the_pooling_are_read(tmp_path, config, expected):
    reading = read_reading(write_folder(tmp_path / "m", config), "teacher.path")
    assert (reading.pooling, reading.own_pooling, reading.notes) == (expected, expected, ())


def test_the_folder_says_normalisation_and_length(tmp_path):
    reading = read_reading(write_folder(tmp_path / "a", {}), "teacher.path")
    assert (reading.normalize, reading.max_length) == (True, 77)
    assert not read_reading(write_folder(tmp_path / "b", {}, ("Transformer", "Pooling")), "teacher.path").normalize


def test_what_the_caller_says_comes_first(tmp_path):
    folder = write_folder(tmp_path / "m", {"pooling_mode": "weightedmean"})
    reading = read_reading(folder, "teacher.path", pooling="cls", normalize=False, max_length=9)
    assert (reading.pooling, reading.normalize, reading.max_length) == ("cls", False, 9)


def test_a_pooling_that_we_do_not_have_is_refused(tmp_path):
    folder = write_folder(tmp_path / "m", {"pooling_mode": ["cls", "median"]})
    with pytest.raises(UserError, match=r"teacher\.path: expected a pooling out of cls, max, .*, got 'cls\+median'"):
        read_reading(folder, "teacher.path")


@pytest.mark.parametrize("kinds", [("Transformer", "Dense"), ("Pooling",), ("Transformer", "Pooling", "CNN")])
def test_other_modules_are_refused(tmp_path, kinds):
    folder = write_folder(tmp_path / "m", {}, kinds)
    with pytest.raises(UserError, match=f"Normalize, LayerNorm, Dropout, got {', '.join(kinds)} in modules.json"):
        read_reading(folder, "teacher.path")


@pytest.mark.parametrize(("length", "expected"), [(16, 16), (int(1e30), 512)])
def test_a_length_in_the_tokenizers_file_is_read(tmp_path, length, expected):
    folder = write_folder(tmp_path / "m", {})
    (tmp_path / "m/tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))
    assert read_reading(folder, "teacher.path").max_length == 77
    (tmp_path / "m/sentence_bert_config.json").write_text("{}")
    assert read_reading(folder, "teacher.path").max_length == expected


@pytest.mark.parametrize(("causal", "expected"), [(False, "mean"), (True, "last")])
def test_a_folder_without_modules_is_read_as_is_usual_with_a_note(tmp_path, causal, expected):
    reading = read_reading(str(tmp_path), "teacher.path", causal=causal)
    assert (reading.pooling, reading.own_pooling, reading.normalize) == (expected, "", False)
    assert expected in reading.notes[0]


def test_prompts_are_texts_names_or_the_default(tmp_path):
    prompts = {"query": "Query: ", "document": ""}
    folder = write_folder(tmp_path / "m", {}, prompts=prompts)
    used = [read_reading(folder, "k", prompt=prompt).prompt for prompt in ("", "query", "document", "Text: ")]
    assert used == ["", "Query: ", "", "Text: "]
    folder = write_folder(tmp_path / "n", {}, prompts=prompts, default_prompt_name="query")
    assert read_reading(folder, "k").prompt == "Query: "


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(UserError, match=r"modules.json: expected JSON"):
        read_reading(str(tmp_path), "teacher.path")
