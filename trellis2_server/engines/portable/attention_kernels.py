"""Which of PyTorch's attention kernels serves a call, by device, lengths, batch and dtype.

    flash       FlashAttention 2: no plans, any length; NVIDIA from Ampere (8.0) on, AMD
    cudnn       1.7 times as fast on Hopper, from 4,096 queries on (measured on an H100)
    efficient   older devices and float32
    varlen      FlashAttention 2 on packed sequences, `torch.nn.attention.varlen`
    math        stores the matrix of scores
    pytorch     what PyTorch takes by itself, cuDNN excluded

cuDNN compiles a plan for each exact shape: 38 to 256 ms on an H100. It keeps plans in a
cache without a limit, one per thread, in memory that `torch.cuda.memory_allocated` does not
count, and every job has new lengths. From 2.10 on PyTorch takes cuDNN first on Hopper and on
data-centre Blackwell. So `configure` disables it for the process, the image encoder and compiled
models included, and only the long calls that `choose` gives to it enable it, with plans that are
shared between lengths:

- `TORCH_CUDNN_SDPA_AVOID_RECOMPILE=1` makes PyTorch round lengths up to powers of two in a plan's
  key. It needs q, k and v as contiguous [B, T, H, D]. PyTorch reads it once, at the first
  attention by cuDNN.
- From 2.14 on the key also holds the exact shape of the output, which is the queries'. There
  queries are padded to a multiple of `QUERY_STEP`: a padded row changes no other row.

`varlen` needs no rounded lengths: FlashAttention takes bounds and maxima as arguments of its
kernel and has no plans. By cuDNN it would need them, and it must not run there: PyTorch up to
2.13 never keeps the plan of a packed call, so that each call compiles one (42 ms). 2.13 does not
offer cuDNN for it, later versions do not take it while cuDNN is disabled.

Plans are kept by thread: all attention must run on the device thread, and a new device thread
compiles them again.

Read in PyTorch's sources (`cudnn/MHA.cpp`, `transformers/cuda/sdp_utils.cpp`,
`torch/nn/attention/varlen.py`; 2.11, 2.13 and main after it). docs/gpu.md has the measurements.
Below 4,096 queries nothing was measured; cuDNN's gain there is small in absolute terms, and short
sequences have more different lengths.

Does not know: TRELLIS.2, how attention is called.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

torch: Any = importlib.import_module("torch")
Tensor = Any

logger = logging.getLogger(__name__)

Kernel = Literal["flash", "cudnn", "efficient", "varlen", "math", "pytorch"]
Setting = Literal["auto", "flash", "cudnn", "efficient", "varlen", "math"]

#: Number of queries up to which FlashAttention 2 is used; above it cuDNN, where it is faster.
LONG: Final = 2048
#: Queries are padded to a multiple of this where plans depend on the output's shape.
QUERY_STEP: Final = 2048
PLAN_VARIABLE: Final = "TORCH_CUDNN_SDPA_AVOID_RECOMPILE"
#: Last version of cuDNN with wrong results where a length is no multiple of 128.
_WRONG_CUDNN: Final = 91500
#: Number of lengths that are remembered as checked.
_MOST_LENGTHS: Final = 4096
_HALF: Final = ("float16", "bfloat16")
_GPUS: Final = ("cuda", "rocm")


@dataclass(frozen=True, slots=True)
class Device:
    """What a choice depends on.

    Attributes:
        kind: "cuda" for NVIDIA, "rocm" for AMD, otherwise PyTorch's name: "mps", "cpu".
        capability: NVIDIA's compute capability; (0, 0) on others.
        torch: major and minor version of PyTorch.
        cudnn: version of cuDNN, for example 91900; 0: none.
        shares_plans: whether cuDNN's plans are shared between lengths, see the module.
        has_varlen: whether `torch.nn.attention.varlen` exists.
    """

    kind: str
    capability: tuple[int, int] = (0, 0)
    torch: tuple[int, int] = (2, 13)
    cudnn: int = 0
    shares_plans: bool = False
    has_varlen: bool = False

    @property
    def query_step(self) -> int:
        """The multiple to which queries are padded for cuDNN."""
        return QUERY_STEP if self.torch >= (2, 14) else 1

    @property
    def prefers_cudnn(self) -> bool:
        """Whether cuDNN is faster on long sequences, without a plan for each length.

        The devices are those on which PyTorch takes cuDNN first: it says so for compute
        capability 9.0, 10.0 and 10.3. Only 9.0 is measured.
        """
        return (
            self.capability in {(9, 0), (10, 0), (10, 3)}
            and self.torch >= (2, 10)
            and self.shares_plans
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One call of attention, with lengths rounded up to powers of two.

    Attributes:
        batch: number of sequences.
        queries: upper bound of the longest sequence of queries.
        keys: upper bound of the longest sequence of keys.
        head_size: channels of a head in queries and keys.
        value_size: channels of a head in values.
        dtype: for example "bfloat16".
        is_packed: whether sequences of different lengths come in one tensor.
    """

    batch: int
    queries: int
    keys: int
    head_size: int
    value_size: int
    dtype: str
    is_packed: bool = False


@dataclass(frozen=True, slots=True)
class _Need:
    """What a kernel needs.

    Attributes:
        kinds: kinds of devices.
        largest: largest number of channels of a head.
        step: divisor of that number.
        dtypes: dtypes of the tensors.
        is_ampere: whether NVIDIA's devices before 8.0 are excluded.
        is_square: whether heads of keys and values must have the same number of channels.
    """

    kinds: tuple[str, ...]
    largest: int
    step: int = 8
    dtypes: tuple[str, ...] = _HALF
    is_ampere: bool = True
    is_square: bool = True


_NEEDS: Final[dict[Kernel, _Need]] = {
    "flash": _Need(_GPUS, 256, step=1),
    "varlen": _Need(("cuda",), 256),
    "cudnn": _Need(("cuda",), 128, is_square=False),
    "efficient": _Need(_GPUS, 65536, 8, (*_HALF, "float32"), is_ampere=False, is_square=False),
}


def choose(
    setting: Setting, device: Device, call: Call, refused: frozenset[Kernel] = frozenset()
) -> tuple[Kernel, str]:
    """Return the kernel, and why the requested one cannot run; empty if it can.

    Args:
        setting: `model.attention`.
        device: the device of the tensors.
        call: shapes and dtype.
        refused: kernels that failed before.
    """
    if setting != "auto":
        # FlashAttention of packed sequences is `varlen`; the other kernels take them one by one.
        if setting == "flash" and call.is_packed and "varlen" not in refused:
            setting = "flash" if unmet_need("varlen", device, call) else "varlen"
        unmet = "it failed before" if setting in refused else unmet_need(setting, device, call)
        return (setting, "") if not unmet else (choose("auto", device, call, refused)[0], unmet)
    can_run: list[Kernel] = [
        kernel
        for kernel in ("cudnn", "varlen", "flash")
        if kernel not in refused and not unmet_need(kernel, device, call)
    ]
    if device.kind != "cuda" or "flash" not in can_run:
        return "pytorch", ""
    if "cudnn" in can_run and device.prefers_cudnn and call.queries > LONG:
        return "cudnn", ""
    return ("varlen" if call.is_packed and "varlen" in can_run else "flash"), ""


def unmet_need(kernel: Kernel, device: Device, call: Call) -> str:
    """Return why a kernel cannot run, by PyTorch's own rules; empty if it can."""
    need = _NEEDS.get(kernel)
    if need is None:
        return ""
    sizes = (call.head_size, call.value_size)
    older = f"compute capability {device.capability[0]}.{device.capability[1]}"
    is_ampere = device.kind == "rocm" or device.capability >= (8, 0)
    broken = {
        f"not on {device.kind}": device.kind not in need.kinds,
        "PyTorch has no torch.nn.attention.varlen": kernel == "varlen" and not device.has_varlen,
        f"cuDNN {device.cudnn} is too old": kernel == "cudnn" and device.cudnn <= _WRONG_CUDNN,
        f"not with {older}": need.is_ampere and not is_ampere,
        f"not with {call.dtype} and {older}": call.dtype == "bfloat16" and not is_ampere,
        f"not with {call.dtype}": call.dtype not in need.dtypes,
        f"not with heads of {sizes[0]} and {sizes[1]} channels": max(sizes) > need.largest
        or any(size % need.step for size in sizes)
        or (need.is_square and sizes[0] != sizes[1]),
        "not with a single key": kernel == "cudnn" and call.keys == 1,
    }
    return next((why for why, is_broken in broken.items() if is_broken), "")


def describe(device: Any) -> Device:
    """Describe a `torch.device` of this process."""
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    numbers = (int(version[1]), int(version[2])) if version else (0, 0)
    if device.type != "cuda":
        return Device(device.type, torch=numbers)
    if torch.version.hip:
        return Device("rocm", torch=numbers)
    return Device(
        "cuda",
        capability=torch.cuda.get_device_capability(device),
        torch=numbers,
        cudnn=torch.backends.cudnn.version() or 0,
        shares_plans=os.environ.get(PLAN_VARIABLE) == "1",
        has_varlen=importlib.util.find_spec("torch.nn.attention.varlen") is not None,
    )


class Selector:
    """Chooses a kernel for tensors; logs each choice once. For one thread."""

    def __init__(
        self, setting: Setting = "auto", describe_device: Callable[[Any], Device] = describe
    ) -> None:
        self._setting: Setting = setting
        self._describe = describe_device
        self._devices: dict[Any, Device] = {}
        self._chosen: dict[tuple[Any, ...], Kernel] = {}
        self._refused: frozenset[Kernel] = frozenset()
        self._lengths: set[tuple[Any, tuple[int, int]]] = set()
        self._has_warned = False

    def device(self, device: Any) -> Device:
        """Return the description of a `torch.device`."""
        if device not in self._devices:
            self._devices[device] = self._describe(device)
        return self._devices[device]

    def kernel(
        self, q: Tensor, v: Tensor, batch: int, longest: tuple[int, int], *, is_packed: bool = False
    ) -> Kernel:
        """Return the kernel for a call.

        Args:
            q: queries, [..., D].
            v: values, [..., Dv].
            batch: number of sequences.
            longest: lengths of the longest sequences of queries and of keys, over 0.
            is_packed: whether sequences of different lengths come in one tensor.
        """
        sizes = (q.shape[-1], v.shape[-1])
        bounds = (_power_of_two(longest[0]), _power_of_two(longest[1]))
        key = (q.device, q.dtype, batch, bounds, sizes, is_packed)
        kernel = self._chosen.get(key)
        if kernel is None:
            call = Call(batch, *bounds, *sizes, str(q.dtype).removeprefix("torch."), is_packed)
            kernel = self._chosen[key] = self._choose(q.device, call)
        return kernel

    def is_first(self, device: Any, lengths: tuple[int, int]) -> bool:
        """Whether these exact numbers of queries and keys are new; notes them."""
        if (device, lengths) in self._lengths:
            return False
        if len(self._lengths) >= _MOST_LENGTHS:
            self._lengths.clear()
        self._lengths.add((device, lengths))
        return True

    def _choose(self, device: Any, call: Call) -> Kernel:
        kernel, unmet = choose(self._setting, self.device(device), call, self._refused)
        if unmet and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the kernel of model.attention cannot run",
                extra={"requested": self._setting, "why": unmet, "kernel": kernel},
            )
        logger.info(
            "attention kernel",
            extra={
                "kernel": kernel,
                "queries": f"<= {call.queries}",
                "keys": f"<= {call.keys}",
                "batch": call.batch,
                "dtype": call.dtype,
                "device": str(device),
            },
        )
        return kernel

    def refuse(self, kernel: Kernel, error: Exception) -> None:
        """Never choose a kernel again, after an error."""
        self._refused = frozenset[Kernel]((*self._refused, kernel))
        self._chosen = {key: name for key, name in self._chosen.items() if name != kernel}
        self._has_warned = True
        logger.warning(
            "attention kernel failed and is not used again",
            extra={"kernel": kernel, "why": str(error)},
        )


#: What the attention functions use. They run on the device thread.
selector: Selector = Selector()


def configure(setting: Setting) -> None:
    """Use a kernel from now on, and disable cuDNN for all other attention of the process.

    Must come before the first attention on the device: PyTorch reads `PLAN_VARIABLE` once. An
    operator's value of it is kept; with 0 `auto` does not use cuDNN.
    """
    global selector  # noqa: PLW0603 - the functions that stand in for flash_attn have no object
    os.environ.setdefault(PLAN_VARIABLE, "1")
    enable(cudnn=False)
    selector = Selector(setting)


def enable(**kernels: bool) -> None:
    """Enable or disable kernels (flash, mem_efficient, math, cudnn) for the process.

    Costs 0.4 µs for each on a slow core; `torch.nn.attention.sdpa_kernel` costs 16, and 31 with a
    priority, which PyTorch also replaces at the first attention on a device.
    """
    for name, is_enabled in kernels.items():
        switch = getattr(torch.backends.cuda, f"enable_{name}_sdp", None)
        if switch is not None:  # cuDNN's was added in PyTorch 2.5
            switch(is_enabled)


def _power_of_two(length: int) -> int:
    return 1 << max(0, length - 1).bit_length()
