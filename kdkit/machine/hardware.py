"""Choice of device and precision, with its reason; what a P100, a T4 and a CPU can and cannot do.

The decision is made once, carries its reason as a sentence, and is printed by every notebook that
computes. `read_cuda` inspects the machine; `choose_hardware` is a pure function of what it found.
"""

import re
from dataclasses import dataclass

import torch

from kdkit.errors import UserError

BF16_CAPABILITY = (8, 0)
"""First compute capability with bf16 units. torch's own answer is True by emulation below it."""

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

CPU_BF16 = ("amx_bf16", "avx512_bf16")
"""Instructions that multiply bf16 faster than fp32, from the best on, as torch names them. A teacher answers without
gradients, so it loses no more than the rounding of its weights; students are trained in fp32."""

TRITON_CAPABILITY = (7, 0)
"""First compute capability that Triton, and so torch.compile, makes kernels for."""

FP16_BUILD_ADVICE = (
    "install a torch build for it (Pascal: pip install 'torch==2.10.0+cu126' from PyTorch's cu126 index, "
    "then restart), or set train.device=cpu"
)


@dataclass(frozen=True)
class CudaFacts:
    """Facts about the GPUs of this machine, from torch and the driver."""

    names: tuple[str, ...] = ()
    """One name per GPU; empty: no usable CUDA."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of the first GPU."""
    memory_bytes: int = 0
    """Memory of the first GPU."""
    arch_list: tuple[str, ...] = ()
    """Architectures that this torch build holds kernels for, such as `sm_75`."""
    backward_error: str = ""
    """What a tiny elementwise + reduction + backward raised on the first GPU; empty: it ran."""


@dataclass(frozen=True)
class Hardware:
    """Where to compute, in which precision, and the reason in words."""

    device: str
    """`cpu` or `cuda:0`: the student's device."""
    teacher_device: str
    """`cuda:1` on two GPUs, else the student's device."""
    precision: str
    """`fp32`, `fp16` (autocast and GradScaler) or `bf16` (autocast)."""
    profile: str
    """`p100`, `t4`, `t4x2`, `cpu` or `gpu`."""
    reason: str
    """Why this device and this precision."""
    cpu_bf16: str = ""
    """Instructions by which a teacher on this CPU answers in bf16; empty: it answers in the precision of the rest."""
    capability: tuple[int, int] = (0, 0)
    """Compute capability of the GPU; (0, 0) on a CPU."""
    memory_bytes: int = 0
    """Memory of the GPU; 0 on a CPU."""

    @property
    def compiles(self) -> bool:
        """Whether Triton and torch.compile can make kernels for it."""
        return self.device == "cpu" or self.capability >= TRITON_CAPABILITY

    @property
    def experts_implementation(self) -> str:
        """How transformers runs experts: grouped products where there is a kernel for them.

        On 2 CPU cores `grouped_mm` trained a small Qwen3-MoE 6.7 times faster than `eager`.
        """
        return experts_implementation(self.capability)

    def reasons(self, maps_in_loss: bool) -> list[str]:
        """Return every decision with its reason, a line each.

        Args:
            maps_in_loss: whether the loss compares attention maps.
        """
        number = ".".join(map(str, self.capability))
        compiling = "possible, and not used" if self.compiles else f"none: capability {number} is below 7.0"
        if self.device == "cpu":
            experts = "a CPU has grouped products"
        else:
            experts = f"capability {number} has {'' if self.capability >= BF16_CAPABILITY else 'no '}grouped products"
        return [
            f"profile {self.profile}: {self.reason}",
            "attention: " + ": ".join(choose_attention(maps_in_loss)),
            f"torch.compile and Triton: {compiling}",
            f"experts of a mixture: {self.experts_implementation}: {experts}",
            f"processes: {self._processes()}",
        ]

    def _processes(self) -> str:
        """Say in how many processes a student is trained, and why; nn.DataParallel would copy it in every step."""
        if self.teacher_device == self.device:
            return "one"
        return "one, as the teacher has the second GPU; an embedding model can take two, by accelerate; no DataParallel"

    @property
    def answer_precision(self) -> str:
        """Precision of a frozen teacher that only answers while a student is trained."""
        return "bf16" if self.cpu_bf16 else self.precision

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of a frozen model: half where autocast is half."""
        return DTYPES[self.precision]

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Dtype for autocast; None: no autocast."""
        return None if self.precision == "fp32" else self.dtype


PLANNED = {
    "p100": CudaFacts(("Tesla P100-PCIE-16GB",), (6, 0), 16_280 * 2**20, ("sm_60",)),
    "t4": CudaFacts(("Tesla T4",), (7, 5), 15_095 * 2**20, ("sm_75",)),
    "t4x2": CudaFacts(("Tesla T4", "Tesla T4"), (7, 5), 15_095 * 2**20, ("sm_75",)),
    "cpu": CudaFacts(),
}
"""Devices that can be planned for without having them, and what a torch build for them finds there. The memory is what
the driver leaves of 16 GB, with error correction on the T4."""


def find_hardware(device: str = "auto", precision: str = "auto") -> Hardware:
    """Inspect this machine and choose; see `choose_hardware` for what is refused."""
    return choose_hardware(read_cuda() if device != "cpu" else CudaFacts(), device, precision, read_cpu_bf16())


def choose_attention(maps_in_loss: bool) -> tuple[str, str]:
    """Return transformers' name of the attention kernel, and the reason.

    Args:
        maps_in_loss: whether attention maps are wanted: of a causal LM only the layers that are compared run so.
    """
    if maps_in_loss:
        return "eager", "the loss compares attention maps, which no other kernel returns"
    return "sdpa", "torch's own, which keeps no maps; flash-attention needs capability 8.0"


def experts_implementation(capability: tuple[int, int]) -> str:
    """Return transformers' name of the way in which experts are run on a GPU, or on a CPU, whose capability is (0, 0).

    Below capability 8.0 there is no kernel for grouped products.
    """
    return "grouped_mm" if capability == (0, 0) or capability >= BF16_CAPABILITY else "eager"


def read_cpu_bf16() -> str:
    """Return the CPU's best instructions for bf16; empty: it has none, and would be slower than in fp32."""
    found = torch.cpu.get_capabilities()
    return next((name for name in CPU_BF16 if found.get(name)), "")


def read_cuda() -> CudaFacts:
    """Read the GPUs from torch, and try a tiny backward on the first: only running it shows that it works."""
    if not torch.cuda.is_available():
        return CudaFacts()
    properties = torch.cuda.get_device_properties(0)
    return CudaFacts(
        names=tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())),
        capability=torch.cuda.get_device_capability(0),
        memory_bytes=properties.total_memory,
        arch_list=tuple(torch.cuda.get_arch_list()),
        backward_error=tiny_backward("cuda:0"),
    )


def tiny_backward(device: str) -> str:
    """Run elementwise, reduction and backward kernels; return the error, or an empty string.

    On a GPU whose architecture the build lacks, a matrix product can still work while these fail.
    """
    try:
        x = torch.ones(64, device=device, requires_grad=True)
        (x.sin() * x).sum().backward()
        return "" if bool(torch.isfinite(x.grad).all()) else "the gradient is not finite"
    except RuntimeError as error:
        return str(error).splitlines()[0]


def architecture_is_supported(capability: tuple[int, int], arch_list: tuple[str, ...]) -> bool:
    """Return whether a build with these architectures has code for this GPU.

    Machine code `sm_70` serves 7.0 and later 7.x; portable code `compute_70` serves 7.0 and all later.
    """
    for arch in arch_list:
        # a letter at the end (sm_90a) ties code to exactly that architecture; AMD's names do not match at all
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
        if match is None:
            continue
        kind, major, minor, exact = match.groups()
        built = (int(major), int(minor))
        if exact or kind == "sm":
            if built[0] == capability[0] and built[1] <= capability[1]:
                return True
        elif built <= capability:
            return True
    return False


def choose_hardware(facts: CudaFacts, device: str = "auto", precision: str = "auto", cpu_bf16: str = "") -> Hardware:
    """Choose device and precision from the facts and the wishes of the configuration.

    Args:
        facts: what `read_cuda` found.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `fp32`, `fp16` or `bf16`.
        cpu_bf16: what `read_cpu_bf16` found.

    Raises:
        UserError: CUDA wanted and absent, a GPU this torch build has no kernels for, a precision
            that the device does not have.
    """
    if device == "cuda" and not facts.names:
        raise UserError(
            "train.device: expected a CUDA GPU, got none that torch can see; choose a GPU accelerator in the "
            "notebook's settings, or set train.device=auto"
        )
    if device == "cpu" or not facts.names:
        return _choose_cpu(device, precision, cpu_bf16)
    name, capability = facts.names[0], ".".join(map(str, facts.capability))
    if facts.backward_error or not architecture_is_supported(facts.capability, facts.arch_list):
        seen = facts.backward_error or f"no kernels for sm_{capability.replace('.', '')}"
        raise UserError(
            f"train.device: expected a GPU this torch build ({', '.join(facts.arch_list)}) can run on, "
            f"got {name} (capability {capability}): {seen}; {FP16_BUILD_ADVICE}"
        )
    has_bf16 = facts.capability >= BF16_CAPABILITY
    if precision == "bf16" and not has_bf16:
        raise UserError(
            f"train.precision: expected fp16 or fp32 on {name}, got 'bf16'; capability {capability} only "
            "emulates bf16 (8.0 and later have it), so set train.precision=fp16"
        )
    chosen, why = (precision, "asked for by train.precision")
    if precision == "auto":
        chosen = "bf16" if has_bf16 else "fp16"
        why = (
            f"capability {capability} {'has bf16 units' if has_bf16 else 'has no bf16 units, so fp16 with GradScaler'}"
        )
    profile = _profile(facts)
    where = f"{name}, {facts.memory_bytes / 2**30:.0f} GB"
    teacher = "cuda:1" if len(facts.names) > 1 else "cuda:0"
    split = "; teacher on cuda:1, student on cuda:0" if len(facts.names) > 1 else ""
    reason = f"{where}: {chosen}, {why}{split}"
    return Hardware("cuda:0", teacher, chosen, profile, reason, "", facts.capability, facts.memory_bytes)


def _choose_cpu(device: str, precision: str, cpu_bf16: str) -> Hardware:
    """Choose for a machine, or a wish, without a GPU."""
    if precision == "fp16":
        raise UserError(
            "train.precision: expected fp32 or bf16 on a CPU, got 'fp16'; fp16 training needs a GPU, "
            "so set train.precision=auto"
        )
    chosen = "fp32" if precision == "auto" else precision
    why = "asked for by train.device" if device == "cpu" else "no CUDA GPU is visible"
    if precision != "auto" or not cpu_bf16:
        return Hardware("cpu", "cpu", chosen, "cpu", f"CPU: {chosen}, {why}")
    why += f"; teacher in bf16, which this CPU multiplies faster ({cpu_bf16}; train.precision=fp32 for fp32)"
    return Hardware("cpu", "cpu", chosen, "cpu", f"CPU: {chosen}, {why}", cpu_bf16)


def _profile(facts: CudaFacts) -> str:
    """Name the machine's profile by its first GPU."""
    if "P100" in facts.names[0]:
        return "p100"
    if "T4" in facts.names[0]:
        return "t4x2" if len(facts.names) > 1 else "t4"
    return "gpu"


def place_teacher(device: str, hardware: Hardware) -> tuple[str, torch.dtype]:
    """Choose where a frozen teacher computes, and in which dtype: on a CPU never in fp16, which it has no units for.

    Args:
        device: `teacher.device`.

    Raises:
        UserError: no device's name, or a GPU that this machine does not have.
    """
    device = hardware.teacher_device if device == "auto" else device
    if device == "cpu":
        return device, torch.float32 if hardware.precision == "fp16" else hardware.dtype
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if device not in ("cuda", *gpus) or not gpus:
        raise UserError(f"teacher.device: expected one of {', '.join(['auto', 'cpu', *gpus])}, got {device!r}; set it")
    return device, hardware.dtype
