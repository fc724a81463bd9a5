"""The command line: a user's mistake is one line and exit code 2, and leaves nothing behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdkit import __version__, cli
from kdkit.errors import UserError
from kdkit.machine import hub
from kdkit.machine.hardware import CudaFacts
from kdkit.machine.interrupt import Stopped
from kdkit.runs.open_run import open_run
from kdkit.workflow import pipeline

ROOT = Path(__file__).resolve().parent.parent
P100 = CudaFacts(
    names=("Tesla P100-PCIE-16GB",), capability=(6, 0), memory_bytes=16 * 2**30, arch_list=("sm_75", "sm_80")
)


@pytest.fixture
def corpus(tmp_path):
    """Write a text file that is long enough for a smoke run."""
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(f"Paragraph {i} says that {i} times {i} is {i * i}." for i in range(600)))
    return path


@pytest.fixture
def run_command(tmp_path, corpus, monkeypatch):
    """Return a call of `run` on the smoke configuration that must end before the first notebook."""

    def refuse(*arguments):
        raise AssertionError("a notebook was started")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(pipeline, "run_notebook", refuse)
    monkeypatch.setattr("kdkit.machine.hardware.read_cuda", CudaFacts)

    def run(*settings, options=(), config="configs/smoke.yaml"):
        places = [f"cache_dir={tmp_path}/cache", f"data.path={corpus}", *settings]
        parameters = [word for setting in places for word in ("-p", setting)]
        cli.main(["run", config, "--runs-dir", f"{tmp_path}/runs", *parameters, *options])

    return run


@pytest.fixture
def refused(run_command, tmp_path, capsys):
    """Return a call of `run` that checks how a mistake is answered, and returns the answer."""

    def run(*settings, **where):
        with pytest.raises(SystemExit) as stop:
            run_command(*settings, **where)
        answer = capsys.readouterr().err
        assert stop.value.code == 2
        assert answer.startswith("kdkit: ") and answer.count("\n") == 1 and answer.endswith("\n")
        assert not (tmp_path / "runs").exists()
        return answer

    return run


def output_of(arguments, capsys):
    """Return exit code and standard output of a command that ends well or not."""
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return stop.value.code, capsys.readouterr().out


def test_help_lists_the_verbs(capsys):
    code, text = output_of(["--help"], capsys)
    assert code == 0
    assert all(f"  {verb} " in text for verb in ("run", "doctor"))


def test_version_is_the_packages(capsys):
    assert output_of(["--version"], capsys) == (0, f"kdkit {__version__}\n")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, "data.path: expected an existing file or folder, got"),
        ("empty.txt", b"", "it is empty"),
        ("blank.txt", b"\n \n\n", "it is empty"),
        ("picture.txt", b"\x89PNG\r\n\x00\x00", "data.path: expected UTF-8 text, got"),
        ("latin1.txt", "caf\u00e9 ".encode("latin-1") * 500, "data.path: expected UTF-8 text, got"),
        ("slides.pdf", b"%PDF", "data.path: expected .txt, .jsonl, .csv, .parquet or a folder of them, got"),
        ("lines.jsonl", b'{"text": "a"}\n{"text": ', "line 2"),
        ("table.parquet", b"not parquet", "data.path: expected a parquet file, got"),
        ("short.txt", b"One line.\n\nAnother line.", "expected at least 2 documents"),
        ("scant.txt", b"One line.<|endoftext|>Another line.", "data.path: expected at least one sequence of 64 tokens"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused(refused, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    answer = refused(f"data.path={tmp_path / name}")
    assert words in answer
    assert name in answer or "documents" in answer


@pytest.mark.parametrize(
    ("name", "line"), [("rows.jsonl", json.dumps({"body": "a", "id": 1})), ("rows.csv", "body,id")]
)
def test_a_missing_text_column_is_named_beside_those_that_exist(refused, tmp_path, name, line):
    (tmp_path / name).write_text(f"{line}\na,1\n")
    answer = refused(f"data.path={tmp_path / name}", "data.text_column=content")
    assert "data.text_column: expected a column 'content'" in answer
    assert "got the columns body, id" in answer


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.learning_rat=1", "did you mean 'train.learning_rate'?"),
        ("trian.max_steps=1", "did you mean 'train"),
        (
            "distill.loss=forward_lk",
            "distill.loss: did you mean 'forward_kl'? Got 'forward_lk', expected 'auto', 'forward_kl', 'reverse_kl', ",
        ),
        ("distill.kd_ratio=1.5", "distill.kd_ratio: expected less than or equal to 1, got 1.5"),
        ("distill.loss=forward_kl", "set distill.loss=projected_kl"),
        ("distill.loss={name: jsd, skew: 0.5}", "expected an option that 'jsd' takes (teacher_weight), got 'skew'"),
        ("cache.top_k=0", "cache.top_k: expected greater than or equal to 1, got 0"),
        ("distill.temperature=0", "distill.temperature: expected greater than 0, got 0"),
        ("train.precision=pf16", "train.precision: did you mean 'fp16'? Got 'pf16', expected 'auto', 'fp32', "),
        ("train.device=cuda", "train.device: expected a CUDA GPU, got none"),
        ("train.precision=fp16", "train.precision: expected fp32 or bf16 on a CPU, got 'fp16'"),
        ("max_steps", "-p: expected section.key=value, got 'max_steps'"),
        ("=3", "-p: expected section.key=value, got '=3'"),
    ],
)
def test_a_wrong_setting_is_refused(refused, setting, words):
    assert words in refused(setting)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--from", "07"], "--from: expected one of 01_data, 02_teacher_probe, 03_distill, 04_evaluate, 05_report"),
        (["--from", "distil"], "did you mean 'distill'?"),
        (["--only", "04,report_"], "--only: expected one of"),
        (["--name", "../elsewhere"], "--name: expected letters"),
        (["--name", "a/b"], "folders of runs are chosen by --runs-dir"),
    ],
)
def test_a_wrong_option_is_refused(refused, options, words):
    assert words in refused(options=options)


@pytest.mark.parametrize("key", ["teacher.path", "student.path"])
@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "expected a model folder, got"),
        ([], "expected a model folder with config.json"),
        (["config.json"], "expected *.safetensors weights in"),
        (["config.json", "pytorch_model.bin"], "got only pytorch_model.bin"),
    ],
)
def test_a_model_folder_that_lacks_something_is_refused(refused, tmp_path, key, files, words):
    folder = tmp_path / "model"
    for name in files or []:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    if files == []:
        folder.mkdir()
    answer = refused(f"{key}={folder}")
    assert answer.startswith(f"kdkit: {key}: ") and words in answer and str(folder) in answer


@pytest.fixture
def offline(monkeypatch):
    """Switch the hub off, as HF_HUB_OFFLINE=1 does at start, and forget what was asked of it before and after."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.hub_is_reachable.cache_clear()
    yield
    hub.hub_is_reachable.cache_clear()


@pytest.mark.parametrize("key", ["teacher.path", "student.path"])
def test_a_hub_model_without_network_is_named_with_the_way_out(refused, offline, key):
    answer = refused(f"{key}=nobody/has-this-model")
    assert "'nobody/has-this-model'" in answer
    assert f"point to its folder: {key}=FOLDER" in answer


def test_a_hub_data_set_without_network_is_named_with_the_way_out(refused, offline):
    answer = refused("data.path=nobody/has-this-data-set")
    assert "'nobody/has-this-data-set'" in answer
    assert "point data.path to a local" in answer


def test_a_gpu_that_torch_has_no_code_for_is_refused_with_the_fix(refused, monkeypatch):
    monkeypatch.setattr("kdkit.machine.hardware.read_cuda", lambda: P100)
    answer = refused()
    assert "Tesla P100" in answer and "sm_60" in answer and "train.device=cpu" in answer


def test_a_missing_configuration_is_refused_with_those_that_exist(refused):
    assert "did you mean smoke? Bundled: ablation_embedding, ablation_router, " in refused(config="configs/smok.yaml")


def test_a_run_of_that_name_with_another_configuration_is_refused(run_command, tmp_path, capsys):
    overrides = [f"cache_dir={tmp_path}/cache", f"data.path={tmp_path / 'corpus.txt'}"]
    open_run(ROOT / "configs" / "smoke.yaml", overrides, "taken", tmp_path / "runs")
    before = (tmp_path / "runs" / "taken" / "config.yaml").read_text()
    with pytest.raises(SystemExit) as stop:
        run_command("distill.temperature=3", options=["--name", "taken"])
    answer = capsys.readouterr().err
    assert stop.value.code == 2
    assert answer.count("\n") == 1 and "distill.temperature: 1.0 -> 3.0" in answer and "--name" in answer
    assert (tmp_path / "runs" / "taken" / "config.yaml").read_text() == before


def test_debug_shows_where_an_error_came_from(run_command):
    with pytest.raises(UserError, match=r"did you mean 'train\.max_steps'"):
        run_command("train.max_step=1", options=["--debug"])


def test_a_failure_is_one_line_and_exit_code_1(run_command, monkeypatch, capsys):
    def fail(request):
        raise RuntimeError("03_distill.ipynb failed:\n  out of memory")

    monkeypatch.setattr(pipeline, "run_notebooks", fail)
    with pytest.raises(SystemExit) as stop:
        run_command()
    assert stop.value.code == 1
    assert capsys.readouterr().err == "kdkit: 03_distill.ipynb failed: out of memory\n"


def test_an_interrupt_is_exit_code_130_and_says_how_to_go_on(run_command, monkeypatch, capsys):
    def interrupt(request):
        raise Stopped(f"all is saved; to go on: {request.command([])}")

    monkeypatch.setattr(pipeline, "run_notebooks", interrupt)
    with pytest.raises(SystemExit) as stop:
        run_command()
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert said.startswith("kdkit: stopped; all is saved; to go on: python -m kdkit run configs/smoke.yaml -p ")
    assert said.endswith(" --resume\n") and said.count("\n") == 1


def test_an_interrupt_before_anything_was_begun_says_so(run_command, monkeypatch, capsys):
    def interrupt(request):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_notebooks", interrupt)
    with pytest.raises(SystemExit) as stop:
        run_command()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "kdkit: stopped; nothing was begun\n"


@pytest.mark.parametrize(
    ("module", "command"), [("h5py", "pip install h5py"), ("sklearn.linear_model", "pip install scikit-learn")]
)
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(
    run_command, monkeypatch, capsys, module, command
):
    def fail(request):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(pipeline, "run_notebooks", fail)
    with pytest.raises(SystemExit) as stop:
        run_command()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(f"{command}\n")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("distill", "distill.kd_ratio: number ≥ 0, ≤ 1, default 0.5\n    Weight of the teacher's signal"),
        ("distill.weights", "distill.weights.logits: number ≥ 0, default 1.0"),
        ("masking", "# Language models: train.masking\n"),
        ("kd_ratio", "distill.kd_ratio: "),
        ("alpha_kd", "distill.kd_ratio: "),
        ("jsd", "# Losses: jsd\n"),
        ("methods", "# Methods: talas\n"),
        ("", "train.learning_rate: number > 0, default 5e-05\n"),
        ("chat", "data.loss_on: answers, last, all, default answers\n"),
        ("Chat", "student.chat_template: "),
        ("conversation", "data.bad_rows: "),
        ("fp16", "train.precision: "),
        ("batch", "train.per_device_train_batch_size: "),
    ],
)
def test_settings_are_listed_by_section_name_loss_method_and_word(capsys, wanted, words):
    code, text = output_of(["settings", *([wanted] if wanted else [])], capsys)
    assert code == 0 and words in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_word_that_is_no_name_lists_the_settings_that_hold_it_alone(capsys):
    _, text = output_of(["settings", "chat"], capsys)
    names = [line.partition(":")[0] for line in text.splitlines()]
    assert "data.format" in names and "data.max_length" not in names and "distill.temperature" not in names
    _, text = output_of(["settings", "fp16"], capsys)
    assert "train.precision" in text and "train.learning_rate" not in text


def test_an_unknown_section_is_answered_with_the_nearest_first(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["settings", "distil"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(
        "kdkit: settings: did you mean distill? Got 'distil', expected a section ("
    )


@pytest.mark.parametrize("arguments", [["run"], ["run", "configs/smoke.yaml", "--form", "03"], ["rum"]])
def test_a_mistyped_command_is_exit_code_2_and_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    answer = capsys.readouterr().err
    assert stop.value.code == 2
    assert answer.startswith("kdkit: ") and answer.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "words"),
    [(["--runs-dir", "file/runs"], "--runs-dir FOLDER"), (["-p", "cache_dir={}/file/cache"], "-p cache_dir=FOLDER")],
)
def test_a_folder_that_cannot_be_written_is_one_line_with_the_setting(tmp_path, capsys, option, words):
    (tmp_path / "file").touch()
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"Sentence {i} of text {i * 7}." * 30 for i in range(300)))
    option = [part.format(tmp_path) if "{}" in part else part.replace("file/", f"{tmp_path}/file/") for part in option]
    cache = [] if "cache_dir" in option[1] else ["-p", f"cache_dir={tmp_path / 'cache'}"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(
            ["run", str(ROOT / "configs" / "smoke.yaml"), "-p", f"data.path={tmp_path / 'corpus.txt'}", *cache, *option]
        )
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert "Not a directory" in lines[0]


def test_packages_that_transformers_finds_are_quiet_about_kernels_that_are_not_used():
    code = "import kdkit; from transformers import LlamaForCausalLM; print(LlamaForCausalLM.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "LlamaForCausalLM", "")
