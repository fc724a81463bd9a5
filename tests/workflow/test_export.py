"""The verb `export`: a GGUF file of a run or a folder, which `generate` reads, or one line that says why not."""

import re
from importlib.util import find_spec

import pytest

from kdkit import cli
from kdkit.alignment.tokenizers import train_tokenizer
from kdkit.config.language import dump_config
from kdkit.workflow.deploy import measure
from tests.gguf_files import needs_llama_cpp
from tests.gguf_models import build_kind
from tests.tiny import WORDS, make_config, make_run
from tests.workflow.projects import ROOT

pytest.importorskip("gguf", reason="the Python package gguf is not installed")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Return a folder of runs with one run, whose baseline has a sliding window, and the folder of its student."""
    root = tmp_path_factory.mktemp("places")
    run = make_run(root, "small")
    tokenizer = train_tokenizer([" ".join(WORDS)] * 3, 300)
    for name, options in (("student", {"qk_norm": True}), ("baseline", {"sliding_window": 8}), ("teacher/model", {})):
        build_kind(tokenizer, **options).save_pretrained(run.path / name)
        tokenizer.save_pretrained(run.path / name)
    (run.path / "config.yaml").write_text(dump_config(make_config(root)))
    torn = run.path / "torn"
    build_kind(train_tokenizer([" ".join(WORDS)] * 3, 280)).save_pretrained(torn)
    tokenizer.save_pretrained(torn)
    return run.path


@pytest.fixture
def call(places, capsys, monkeypatch):
    """Return a call of the command line that gives its exit code, output and errors."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(measure, "ROUNDS", 1)

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main([*map(str, words), "--runs-dir", str(places.parent)])
        return stop.value.code, *capsys.readouterr()

    return call


def test_a_run_and_its_students_folder_give_the_same_file(call, places, tmp_path):
    code, out, _ = call("export", "small", tmp_path / "run.gguf")
    assert code == 0
    assert re.match(r".*run\.gguf: Qwen3ForCausalLM, [\d,]+ parameters in fp32, 0\.\d\d MB\n", out)
    command, _, first = out.splitlines()[-1].partition("  # first: ")
    assert command == f'python -m kdkit generate {tmp_path}/run.gguf --prompt "The module"'
    assert first == ("" if find_spec("llama_cpp") else "pip install 'kdkit[gguf]'")
    assert call("export", places / "student", tmp_path / "folder.gguf")[0] == 0
    assert abs((tmp_path / "run.gguf").stat().st_size - (tmp_path / "folder.gguf").stat().st_size) < 100  # the name
    assert call("export", "small", tmp_path / "teacher.gguf", "--model", "teacher", "--format", "gguf")[0] == 0


@needs_llama_cpp
def test_generate_writes_with_the_file_what_it_writes_with_the_model(call, places, tmp_path):
    assert call("export", "small", tmp_path / "run.gguf")[0] == 0
    prompt = ["--prompt", "the quick", "--temperature", "0", "--max-new-tokens", "20"]
    code, text, _ = call("generate", tmp_path / "run.gguf", *prompt)
    assert (code, text) == call("generate", places / "student", *prompt)[:2]
    assert code == 0 and len(text) > 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small", "{tmp}/out.bin"], r"OUT: expected a name that ends in \.gguf, got '.*out\.bin'; write .*out\.gguf"),
        (["small", "{tmp}/there.gguf"], "OUT: expected a new file"),
        (["small", "{tmp}/no/out.gguf"], "OUT: expected a file in a folder that exists"),
        (["smal", "{tmp}/out.gguf"], "did you mean 'small'"),
        (["small", "{tmp}/out.gguf", "--model", "other"], "baseline, student, torn of run 'small', got 'other'"),
        (["small", "{tmp}/out.gguf", "--model", "baseline"], "got a sliding window of 8 in ministral"),
        (["small", "{tmp}/out.gguf", "--model", "torn"], "rows for its tokenizer, got a model with 280; .* belong tog"),
        (
            ["small", "{tmp}/out.gguf", "--model", "teacher", "--format", "tflite"],
            "is not one of 'gguf', 'onnx'",
        ),
        (["small", "{tmp}/out.gguf", "--format", "int4", "--quantise", "q4_0"], "--quantise: expected it with"),
        (["small", "{tmp}/out.gguf", "--quantise", "q4_0", "--recover", "9"], "--recover: expected a run whose text"),
    ],
)
def test_a_mistake_is_one_line(call, tmp_path, words, message):
    (tmp_path / "there.gguf").touch()
    code, _, err = call("export", *[word.format(tmp=tmp_path) for word in words])
    assert code == 2 and err.startswith("kdkit: ") and err.count("\n") == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out.gguf").exists()
