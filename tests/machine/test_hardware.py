import pytest
import torch

from kdkit.errors import UserError
from kdkit.machine.hardware import (
    DTYPES,
    PLANNED,
    CudaFacts,
    architecture_is_supported,
    choose_attention,
    choose_hardware,
    find_hardware,
    tiny_backward,
)

KAGGLE_ARCHS = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
GB = 2**30
P100 = CudaFacts(("Tesla P100-PCIE-16GB",), (6, 0), 16 * GB, KAGGLE_ARCHS)
T4 = CudaFacts(("Tesla T4",), (7, 5), 15 * GB, KAGGLE_ARCHS)
TWO_T4 = CudaFacts(("Tesla T4", "Tesla T4"), (7, 5), 15 * GB, KAGGLE_ARCHS)
H100 = CudaFacts(("NVIDIA H100 80GB HBM3",), (9, 0), 80 * GB, KAGGLE_ARCHS)


def refusal(*arguments) -> str:
    """Return the one-line message with which `choose_hardware` refuses."""
    with pytest.raises(UserError) as caught:
        choose_hardware(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


A100 = CudaFacts(("NVIDIA A100-SXM4-40GB",), (8, 0), 40 * GB, KAGGLE_ARCHS)
PASCAL = CudaFacts(P100.names, P100.capability, P100.memory_bytes, ("sm_60",))


@pytest.mark.parametrize(
    ("facts", "profile", "precision", "compiles", "experts"),
    [
        (PASCAL, "p100", "fp16", False, "eager"),
        (T4, "t4", "fp16", True, "eager"),
        (TWO_T4, "t4x2", "fp16", True, "eager"),
        (A100, "gpu", "bf16", True, "grouped_mm"),
        (CudaFacts(), "cpu", "fp32", True, "grouped_mm"),
    ],
)
def test_a_profile_decides_everything_with_reasons(facts, profile, precision, compiles, experts):
    hardware = choose_hardware(facts)
    assert (hardware.profile, hardware.precision) == (profile, precision)
    assert (hardware.compiles, hardware.experts_implementation) == (compiles, experts)
    lines = hardware.reasons(maps_in_loss=False)
    assert [line.partition(":")[0] for line in lines] == [
        f"profile {profile}",
        "attention",
        "torch.compile and Triton",
        "experts of a mixture",
        "processes",
    ]
    assert ("accelerate; no DataParallel" in lines[4]) == (profile == "t4x2")
    assert ("below 7.0" in lines[2]) == (not compiles)


def test_attention_is_eager_only_where_the_loss_compares_maps():
    assert choose_attention(maps_in_loss=True)[0] == "eager"
    assert choose_attention(maps_in_loss=False)[0] == "sdpa"
    assert choose_hardware(T4).reasons(maps_in_loss=True)[1].startswith("attention: eager: the loss compares")


@pytest.mark.parametrize(("name", "profile"), [("p100", "p100"), ("t4", "t4"), ("t4x2", "t4x2"), ("cpu", "cpu")])
def test_devices_that_are_planned_for_are_those_that_would_be_found(name, profile):
    assert choose_hardware(PLANNED[name]).profile == profile


def test_no_gpu_means_cpu_in_fp32():
    hardware = choose_hardware(CudaFacts())
    assert (hardware.device, hardware.teacher_device, hardware.precision, hardware.profile) == (
        "cpu",
        "cpu",
        "fp32",
        "cpu",
    )
    assert hardware.reason == "CPU: fp32, no CUDA GPU is visible"


def test_cpu_asked_for_beside_a_gpu_is_taken_and_says_why():
    hardware = choose_hardware(T4, device="cpu")
    assert hardware.device == "cpu"
    assert "asked for by train.device" in hardware.reason


def test_cuda_asked_for_and_absent_is_refused():
    message = refusal(CudaFacts(), "cuda")
    assert message.startswith("train.device: expected a CUDA GPU, got none")


def test_a_build_without_pascal_kernels_names_the_cu126_build():
    message = refusal(P100)
    assert "P100" in message and "capability 6.0" in message and "no kernels for sm_60" in message
    assert "cu126" in message and "train.device=cpu" in message


def test_a_build_with_pascal_kernels_runs_a_p100_in_fp16():
    facts = CudaFacts(P100.names, P100.capability, P100.memory_bytes, ("sm_50", "sm_60", "sm_70"))
    hardware = choose_hardware(facts)
    assert (hardware.device, hardware.precision, hardware.profile) == ("cuda:0", "fp16", "p100")


def test_a_t4_computes_in_fp16_and_says_why():
    hardware = choose_hardware(T4)
    assert (hardware.precision, hardware.profile, hardware.teacher_device) == ("fp16", "t4", "cuda:0")
    assert hardware.reason == "Tesla T4, 15 GB: fp16, capability 7.5 has no bf16 units, so fp16 with GradScaler"


def test_two_t4s_put_the_teacher_on_the_second():
    hardware = choose_hardware(TWO_T4)
    assert (hardware.device, hardware.teacher_device, hardware.profile) == ("cuda:0", "cuda:1", "t4x2")
    assert "teacher on cuda:1" in hardware.reason


def test_an_h100_computes_in_bf16():
    hardware = choose_hardware(H100)
    assert (hardware.precision, hardware.profile) == ("bf16", "gpu")
    assert "has bf16 units" in hardware.reason


def test_bf16_on_a_t4_is_refused():
    message = refusal(T4, "auto", "bf16")
    assert message.startswith("train.precision: expected fp16 or fp32 on Tesla T4, got 'bf16'")


def test_fp16_on_a_cpu_is_refused():
    assert refusal(CudaFacts(), "cpu", "fp16").startswith("train.precision: expected fp32 or bf16 on a CPU")


@pytest.mark.parametrize(
    ("facts", "precision"), [(T4, "fp32"), (T4, "fp16"), (H100, "fp16"), (H100, "bf16"), (CudaFacts(), "bf16")]
)
def test_a_precision_that_the_device_has_is_taken(facts, precision):
    assert choose_hardware(facts, precision=precision).precision == precision


def test_a_gpu_whose_backward_fails_is_refused_with_the_error():
    error = "CUDA error: no kernel image is available for execution on the device"
    assert error in refusal(CudaFacts(T4.names, T4.capability, T4.memory_bytes, KAGGLE_ARCHS, error))


@pytest.mark.parametrize(
    ("capability", "arch_list", "supported"),
    [
        ((7, 5), ("sm_75",), True),
        ((7, 5), ("sm_70",), True),
        ((7, 0), ("sm_75",), False),
        ((8, 0), ("sm_75",), False),
        ((6, 0), ("sm_70", "sm_80"), False),
        ((6, 0), ("sm_50",), False),
        ((9, 0), ("compute_70",), True),
        ((7, 0), ("compute_75",), False),
        ((9, 0), ("sm_90a",), True),
        ((10, 0), ("sm_100",), True),
        ((12, 0), ("sm_100",), False),
        ((1, 0), ("sm_100",), False),
        ((8, 9), ("sm_70", "sm_86"), True),
        ((7, 5), (), False),
    ],
)
def test_an_architecture_list_serves_a_capability(capability, arch_list, supported):
    assert architecture_is_supported(capability, arch_list) is supported


def test_a_tiny_backward_runs_on_the_cpu():
    assert tiny_backward("cpu") == ""


def test_a_tiny_backward_returns_the_error_in_one_line():
    message = tiny_backward("meta")
    assert "meta tensors" in message and "\n" not in message


@pytest.mark.parametrize(
    ("precision", "teacher", "autocast"),
    [
        ("fp32", torch.float32, None),
        ("fp16", torch.float16, torch.float16),
        ("bf16", torch.bfloat16, torch.bfloat16),
    ],
)
def test_the_precision_decides_the_dtypes(precision, teacher, autocast):
    hardware = choose_hardware(H100, precision=precision)
    assert (DTYPES[hardware.answer_precision], hardware.autocast_dtype) == (teacher, autocast)


def test_a_wish_for_the_cpu_does_not_look_for_gpus(monkeypatch):
    monkeypatch.setattr("kdkit.machine.hardware.read_cuda", lambda: pytest.fail("the GPU was looked at"))
    assert find_hardware("cpu").device == "cpu"


@pytest.mark.parametrize(("instructions", "teacher"), [("avx512_bf16", torch.bfloat16), ("", torch.float32)])
def test_a_cpu_that_multiplies_bf16_runs_the_teacher_in_it_and_says_so(instructions, teacher):
    hardware = choose_hardware(CudaFacts(), cpu_bf16=instructions)
    assert (hardware.precision, DTYPES[hardware.answer_precision], hardware.autocast_dtype) == ("fp32", teacher, None)
    assert ("teacher in bf16" in hardware.reason and instructions in hardware.reason) is bool(instructions)
    asked = choose_hardware(CudaFacts(), precision="fp32", cpu_bf16=instructions)
    assert DTYPES[asked.answer_precision] == torch.float32, "whoever asks for fp32 gets it everywhere"
