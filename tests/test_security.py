"""No code comes in by a file; that no secret goes out by one: tests/workflow/test_smoke_run.py."""

import ast
from functools import cache

import pytest
import torch
import yaml

from kdkit import cli
from kdkit.config.embeddings import EmbeddingConfig
from kdkit.config.language import Config
from kdkit.config.values import flatten, load_yaml
from kdkit.embeddings.models.embedder import load_embedding_model
from kdkit.errors import UserError
from kdkit.models.loading import load_causal_lm
from kdkit.workflow.writers import model_folder
from tests.tiny import make_llama
from tests.workflow.projects import ROOT

MODULES = sorted((ROOT / "kdkit").rglob("*.py"))


@pytest.mark.parametrize("schema", [Config, EmbeddingConfig])
def test_code_of_models_is_run_nowhere_unless_it_is_switched_on(schema):
    switches = {key: value for key, value in flatten(schema().model_dump()).items() if "remote_code" in key}
    assert switches and not any(switches.values())


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_no_shipped_configuration_switches_it_on(path):
    assert "trust_remote_code: true" not in path.read_text(encoding="utf-8")


@cache
def nodes_in(path):
    """Return every node of a file."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


@cache
def calls_in(path):
    """Return every call in a file as its written name and its arguments by name."""
    return [
        (ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords})
        for node in nodes_in(path)
        if isinstance(node, ast.Call)
    ]


def test_saved_tensors_are_read_without_unpickling():
    calls = [(path.name, words) for path in MODULES for name, words in calls_in(path) if name == "torch.load"]
    unnamed = [name for name, words in calls if words.get("weights_only") != "True" and None not in words]
    assert calls and unnamed == []


def test_weights_are_read_from_safetensors_and_bring_no_code():
    reads_none = ("AutoTokenizer", "AutoConfig", "PreTrainedTokenizerFast", "nn.Embedding")
    calls = [
        (path.name, name, words)
        for path in MODULES
        for name, words in calls_in(path)
        if name.endswith(".from_pretrained")
    ]
    loads = [call for call in calls if not call[1].startswith(reads_none)]
    assert len(loads) >= 4
    assert [call for call in loads if call[2].get("use_safetensors") != "True" and "gguf_file" not in call[2]] == []
    assert [call for call in calls if call[2].get("trust_remote_code") == "True"] == []


@pytest.mark.parametrize("load", [load_causal_lm, load_embedding_model])
def test_a_folder_of_pickled_weights_is_refused_in_one_line(load, tmp_path):
    model = make_llama(20)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"expected .*safetensors.*; save") as refusal:
        load(str(tmp_path), "teacher.path")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "words", [["run", "smoke", "--name", "../x"], ["compare", "../x", "b"], ["solve", "../x", "--problem", "1 + 1"]]
)
def test_a_run_s_name_is_no_path(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--runs-dir", str(tmp_path / "runs")])
    assert stop.value.code == 2 and "../x" in capsys.readouterr().err
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("which", ["../other/student", "student/../../other/student", "/etc"])
def test_a_model_of_a_run_lies_in_its_folder(which, tmp_path):
    for run in ("one", "other"):
        (tmp_path / run / "student").mkdir(parents=True)
        (tmp_path / run / "student" / "config.json").write_text("{}")
        (tmp_path / run / "config.yaml").touch()
    assert model_folder("one", "student", str(tmp_path))[0] == str(tmp_path / "one" / "student")
    with pytest.raises(UserError, match="--model: expected one of teacher, student of run 'one'"):
        model_folder("one", which, str(tmp_path))


def test_nothing_unpickles():
    imported = {
        alias.name
        for path in MODULES
        for node in nodes_in(path)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {"json", "torch"} <= imported and not {"pickle", "dill", "cloudpickle", "marshal", "shelve"} & imported


def test_yaml_makes_plain_values_only():
    names = {name for path in MODULES for name, _ in calls_in(path) if name.startswith("yaml.") and "load" in name}
    assert names == {"yaml.load", "yaml.safe_load"}
    by_name = [path.name for path in MODULES for name, _ in calls_in(path) if name == "yaml.load"]
    assert by_name == ["values.py"]
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        load_yaml("!!python/object/apply:os.system ['true']")
