"""Devices that are planned for: found by name, decided as a run decides."""

import pytest

from kdkit.config.language import config_from_values
from kdkit.errors import UserError
from kdkit.machine import hardware as hardware_module
from kdkit.machine.hardware import CudaFacts
from kdkit.planning import devices
from kdkit.planning.devices import find_device, measure_speed


@pytest.fixture
def no_gpu(monkeypatch):
    for module in (devices, hardware_module):
        monkeypatch.setattr(module, "read_cuda", CudaFacts)


def config(**train):
    return config_from_values({"train": train})


@pytest.mark.parametrize(
    ("name", "place", "teacher", "precision", "gib"),
    [
        ("p100", "cuda:0", "cuda:0", "fp16", 15.9),
        ("t4", "cuda:0", "cuda:0", "fp16", 14.7),
        ("t4x2", "cuda:0", "cuda:1", "fp16", 14.7),
    ],
)
def test_a_gpu_is_planned_for_without_having_one(no_gpu, name, place, teacher, precision, gib):
    device = find_device(name, config())
    found = device.hardware
    assert (found.device, found.teacher_device, found.precision) == (place, teacher, precision)
    assert device.memory_bytes / 2**30 == pytest.approx(gib, abs=0.1)
    assert "published" in device.speed().source


def test_an_unknown_device_is_refused_with_the_nearest_first(no_gpu):
    with pytest.raises(UserError, match=r"^--device: expected t4x2, t4, .*got 't4x'; try --device t4x2$"):
        find_device("t4x", config())


def test_a_wish_for_cuda_without_a_gpu_is_planned_for_a_p100_and_said(no_gpu):
    device = find_device("auto", config(device="cuda"))
    assert device.name == "p100" and "no GPU is here" in device.note
    assert find_device("auto", config()).name == "cpu"


def test_a_precision_that_the_device_has_not_is_refused_as_in_a_run(no_gpu):
    with pytest.raises(UserError, match=r"train\.precision: expected fp16 or fp32 on Tesla T4"):
        find_device("t4", config(precision="bf16"))
    with pytest.raises(UserError, match=r"set train\.precision=auto"):
        find_device("cpu", config(precision="fp16"))


def test_this_machine_is_timed(no_gpu):
    speed = measure_speed(find_device("cpu", config()).hardware)
    assert speed.flops > 1e8 and speed.bandwidth > 1e7 and "timed here" in speed.source
