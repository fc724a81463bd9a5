"""What is wrong with a folder of weights is found before anything is loaded."""

import json
import shutil

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import is_progress_bar_enabled

from kdkit.errors import UserError
from kdkit.models import loading
from kdkit.models.loading import bar_of, check_model_folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, vocab_size=300
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def copy(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "copy")


def refusal(folder):
    with pytest.raises(UserError) as caught:
        check_model_folder(str(folder), "teacher.path")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_folder_passes(copy):
    assert check_model_folder(str(copy), "teacher.path") == str(copy)


def test_a_missing_file_of_weights_is_named(copy):
    missing = sorted(copy.glob("*.safetensors"))[1]
    missing.unlink()
    message = refusal(copy)
    assert message.startswith("teacher.path: expected ")
    assert f"without {missing.name}; copy the missing ones" in message


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_file_of_weights_that_is_cut_short_is_named(copy, size):
    torn = sorted(copy.glob("*.safetensors"))[-1]
    torn.write_bytes(torn.read_bytes()[:size])
    assert f"got {torn.name}, cut short" in refusal(copy)


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"metadata": {}})])
def test_an_index_that_is_none_is_named(copy, content):
    (copy / "model.safetensors.index.json").write_text(content)
    assert "expected an index of weights" in refusal(copy)


@pytest.mark.parametrize(
    ("name", "unwatched", "shown"), [("a/b", False, True), ("a/b", True, False), (".", False, False)]
)
def test_a_bar_is_for_a_download_that_somebody_watches(monkeypatch, name, unwatched, shown):
    monkeypatch.setattr(loading, "is_unwatched_notebook", lambda: unwatched)
    with bar_of(name):
        assert is_progress_bar_enabled() == shown
    assert is_progress_bar_enabled()
