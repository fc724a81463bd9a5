"""A chain of students: what each generation learns from, how it is stopped, and one that is run."""

import json
from pathlib import Path

import pytest

from kdkit import cli
from kdkit.config.language import load_config
from kdkit.errors import UserError
from kdkit.machine.interrupt import Stopped
from kdkit.runs.folder import Run
from kdkit.workflow import pipeline
from kdkit.workflow.several import chain
from kdkit.workflow.several.chain import ChainRequest, chain_table, run_chain, settings_of
from tests.workflow.projects import ROOT, run_here


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Let no generation run; return the requests that a chain makes."""
    requests = []

    def note(request):
        requests.append(request)
        return Run(tmp_path / request.name, tmp_path)

    monkeypatch.setattr(chain, "run_notebooks", note)
    monkeypatch.chdir(ROOT)
    return requests


def test_every_generation_learns_from_the_student_before_it_with_another_seed(asked, tmp_path):
    runs = run_chain(ChainRequest("configs/demo.yaml", 3, ["seed=4"], "c", resume=True))
    assert [request.name for request in asked] == ["c-generation-1", "c-generation-2", "c-generation-3"]
    assert [run.name for run in runs] == [request.name for request in asked]
    configs = [load_config(request.config, request.overrides) for request in asked]
    assert configs[0] == load_config("configs/demo.yaml", ["seed=4"])
    assert [config.teacher.path for config in configs[1:]] == [str(run.path / "student") for run in runs[:2]]
    assert [config.training_seed for config in configs] == [4, 1004, 2004]
    assert {config.seed for config in configs} == {4}, "the same text must be held out"
    assert {config.student.build.tokenizer for config in configs[1:]} == {"teacher"}
    assert all(request.resume for request in asked)


def test_what_was_said_of_the_first_teacher_is_not_said_of_a_student():
    members = "[{name: a, build: {seed: 1}}, {name: b, build: {seed: 2}}]"
    several = load_config("configs/demo.yaml", ["teachers.combine=averaged", f"teachers.members={members}"])
    routed = load_config("configs/demo.yaml", ["router.kind=student_aware", "teacher.document_end=bos"])
    given = ["student.path=./mine", "teacher.path=./big", "teacher.tokenizer=./other", "distill.layer_map={0: 0}"]
    pretrained = load_config("configs/smoke.yaml", [*given, "cache.enabled=true", "cache.file=a.h5"])
    assert settings_of(several, 2, Path("s"))["teachers.members"] == []
    assert settings_of(routed, 2, Path("s")).items() >= {"router.kind": "none", "teacher.document_end": "auto"}.items()
    own = settings_of(pretrained, 2, Path("s"))
    assert own.items() >= {"teacher.tokenizer": "", "distill.layer_map": "auto", "cache.file": ""}.items()
    assert "student.build.tokenizer" not in own
    for config, source in ((several, "demo"), (routed, "demo")):
        overrides = [chain.as_override(*item) for item in settings_of(config, 2, Path("s")).items()]
        assert load_config(f"configs/{source}.yaml", overrides).teacher.path == "s"


@pytest.mark.parametrize(
    ("config", "generations", "settings", "words"),
    [
        ("demo", 1, [], "--generations: expected at least 2, got 1"),
        ("embedding_demo", 2, [], "expected a configuration for language models"),
        ("demo", 2, ["student.path=./a", "teacher.path=./a", "teacher.average_decay=0.9"], "teacher.average_decay"),
        ("demo", 2, ["student.from_teacher=layers", "distill.start_from_teacher=false"], "student.from_teacher"),
    ],
)
def test_what_is_no_chain_is_refused(asked, config, generations, settings, words):
    with pytest.raises(UserError) as error:
        run_chain(ChainRequest(f"configs/{config}.yaml", generations, settings))
    assert words in str(error.value) and not asked


def test_a_stopped_generation_names_the_command_that_goes_on_with_the_chain(asked, monkeypatch, capsys):
    def stop(request):
        raise Stopped("student: step 3 of 9 is saved; to go on: python -m kdkit run x --name y --resume")

    monkeypatch.setattr(chain, "run_notebooks", stop)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["chain", "configs/demo.yaml", "--generations", "3", "-p", "seed=1", "--name", "c"])
    assert exit_.value.code == 130
    command = "python -m kdkit chain configs/demo.yaml --generations 3 -p seed=1 --name c --resume"
    assert capsys.readouterr().err == f"kdkit: stopped; student: step 3 of 9 is saved; to go on: {command}\n"


def test_a_chain_from_an_ensemble_teaches_on_and_says_how_students_and_teachers_compare(
    tmp_path, monkeypatch, capsys, one_thread
):
    build = "{vocab_size: 400, hidden_size: 16, num_layers: 1, moe_intermediate_size: 16, max_steps: 8, batch_size: 8"
    members = ", ".join(f"{{name: t{seed}, max_length: 64, build: {build}, seed: {seed}}}}}" for seed in (1, 2))
    settings = ["teachers.combine=averaged", f"teachers.members=[{members}]", "student.build.tokenizer=teacher"]
    settings += ["distill.equal_time_baseline=false", f"cache_dir={tmp_path}/cache"]
    words = [word for setting in settings for word in ("-p", setting)]
    where = ["--generations", "2", "--name", "c", "--runs-dir", f"{tmp_path}/runs"]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(pipeline, "run_notebook", run_here)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["chain", "configs/smoke.yaml", *words, *where])
    said = capsys.readouterr().out
    assert exit_.value.code == 0
    runs = [Run(tmp_path / "runs" / f"c-generation-{number}", tmp_path) for number in (1, 2)]
    first, second = (run.read_json("evaluation.json")["models"] for run in runs)
    assert second["teacher"]["bits_per_byte"] == pytest.approx(first["student"]["bits_per_byte"], abs=1e-3)
    assert second["student"]["bits_per_byte"] != pytest.approx(first["student"]["bits_per_byte"], abs=1e-6)
    manifests = [json.loads((run.path / "data" / "manifest.json").read_text()) for run in runs]
    assert manifests[1]["same_tokenizer"] and len({each["corpus"]["fingerprint"] for each in manifests}) == 1
    headings, rows = chain_table(runs)
    assert rows[1][0] == "2" and rows[1][1] == rows[0][2] and len(rows[1]) == len(headings)
    assert "generation 2 of 2 learns from the student of c-generation-1" in said
    assert rows[1][2] in said
