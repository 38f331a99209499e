"""Attention at the lengths of the pipeline types: which kernel runs, its time, and new lengths.

A library that plans for each exact length (cuDNN) takes time and memory, which PyTorch's
allocator does not count, whenever a job brings a new one.

Does not know: the models.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.gpu.session import Session

_HEADS: Final = 12
_WIDTH: Final = 128
LENGTHS: Final = (4_096, 24_576, 49_152)
TINY_LENGTHS: Final = (64, 96)
#: Our name → member of `torch.nn.attention.SDPBackend`; None: PyTorch's choice.
BACKENDS: Final = {
    "default": None,
    "flash": "FLASH_ATTENTION",
    "cudnn": "CUDNN_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
}
#: Added to a length: new lengths, of which two are no multiples of 16.
_STEPS: Final = (1, 17, 32)
KERNELS: Final = f"attention, [1, {_HEADS}, T, {_WIDTH}], bfloat16"
NEW_LENGTHS: Final = "a new length: first call against the second, and memory outside of PyTorch"
#: Variable with which cuDNN's plans serve all lengths up to the next power of two.
SHARED_PLANS: Final = "TORCH_CUDNN_SDPA_AVOID_RECOMPILE=1"
#: Kernels that are measured with it too.
_SHARING: Final = ("cudnn", "cudnn, contiguous q, k, v")
#: What the stand-in for flash_attn chooses.
_SERVER: Final = "this server's choice"
_OTHER: Final = Path(__file__).resolve().parent.parent / "shared_plans.py"
#: Of attention, on the modelled H100, for the time of a call.
_MODEL_TFLOPS: Final = 370.0


def run(session: Session) -> None:
    """Measure each kernel at each length, then new lengths of each kernel."""
    names = [name for name in _kernels(session.torch) if name != _SERVER]
    usable = measure_kernels(session, names, KERNELS)
    measure_new_lengths(session, usable, NEW_LENGTHS)
    _share_plans(session, [_SERVER, *(name for name in usable if name in _SHARING)])


def measure_kernels(session: Session, kernels: Sequence[str], table: str) -> list[str]:
    """Measure kernels at each length; return those that can run."""
    usable: list[str] = []
    known = _kernels(session.torch)
    with session.torch.inference_mode():
        for length in TINY_LENGTHS if session.is_tiny else LENGTHS:
            for name in kernels:
                # To warm up, for the profiler, and three measured.
                found = session.attempt(
                    table,
                    {"what": name, "T": length},
                    6 * _modelled_s(length),
                    lambda length=length, name=name: _measure(session, length, known[name]),
                )
                if found is not None and "ms" in found and name not in usable:
                    usable.append(name)
    return usable


def measure_new_lengths(session: Session, kernels: Sequence[str], table: str) -> None:
    """Measure lengths that the process has not seen, for some kernels."""
    known = _kernels(session.torch)
    with session.torch.inference_mode():
        for name in kernels:
            for length in TINY_LENGTHS if session.is_tiny else LENGTHS:
                session.attempt(
                    table,
                    {"what": name, "T": length},
                    4 * len(_STEPS) * _modelled_s(length) + 1.5,
                    lambda name=name, length=length: _new_lengths(session, length, known[name]),
                )


def _share_plans(session: Session, kernels: list[str]) -> None:
    """Measure where cuDNN shares plans, as in the server; PyTorch decides that once a process."""
    if not session.fits(15.0):
        return
    options = {"device": session.device, "size": session.size, "kernels": kernels}
    session.attempt(
        "other process", {"what": SHARED_PLANS}, 15.0, lambda: _run_other(session, options)
    )


def _run_other(session: Session, options: dict[str, Any]) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, str(_OTHER), json.dumps({**options, "left_s": session.left_s})],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        timeout=max(session.left_s, 1.0),
        env={**os.environ, SHARED_PLANS.partition("=")[0]: "1"},
    )
    rows = [json.loads(line[4:]) for line in run.stdout.splitlines() if line.startswith("ROW ")]
    for row in rows:
        session.row(**row)
    if run.returncode:
        raise RuntimeError(f"the process ended with status {run.returncode}")
    return {"rows": len(rows)}


def _modelled_s(length: int) -> float:
    return 4 * length**2 * _HEADS * _WIDTH / _MODEL_TFLOPS / 1e12


def _kernels(torch: Any) -> dict[str, Callable[[Any], Any]]:
    """Our name → a function of `qkv` [T, 3, heads, width], the layout that TRELLIS.2 has."""
    found: dict[str, Callable[[Any], Any]] = {
        name: _forced(torch, member) for name, member in BACKENDS.items()
    }
    found["default, contiguous q, k, v"] = _contiguous(torch, None)
    found["cudnn, contiguous q, k, v"] = _contiguous(torch, BACKENDS["cudnn"])
    found["varlen"] = _varlen
    found[_SERVER] = _standin
    return found


def _forced(torch: Any, member: str | None) -> Callable[[Any], Any]:
    def attend(qkv: Any) -> Any:
        q, k, v = (x.transpose(0, 1)[None] for x in qkv.unbind(1))
        with _only(member):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return attend


def _only(member: str | None) -> Any:
    if member is None:
        return contextlib.nullcontext()
    attention: Any = importlib.import_module("torch.nn.attention")
    return attention.sdpa_kernel(getattr(attention.SDPBackend, member))


def _contiguous(torch: Any, member: str | None) -> Callable[[Any], Any]:
    def attend(qkv: Any) -> Any:
        q, k, v = qkv.permute(1, 2, 0, 3).contiguous()[:, None]
        with _only(member):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    return attend


def _varlen(qkv: Any) -> Any:
    attention: Any = importlib.import_module("torch.nn.attention.varlen")
    q, k, v = qkv.unbind(1)
    bounds = qkv.new_tensor([0, len(qkv)], dtype=importlib.import_module("torch").int32)
    return attention.varlen_attn(q, k, v, bounds, bounds, len(qkv), len(qkv))


def _standin(qkv: Any) -> Any:
    attention: Any = importlib.import_module("trellis2_server.engines.portable.attention")
    torch: Any = importlib.import_module("torch")
    bounds = torch.tensor([0, len(qkv)], dtype=torch.int32, device=qkv.device)
    return attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, len(qkv))


def _input(session: Session, length: int) -> Any:
    shape = (length, 3, _HEADS, _WIDTH)
    return session.torch.randn(shape, device=session.device, dtype=session.torch.bfloat16)


def _measure(session: Session, length: int, attend: Callable[[Any], Any]) -> dict[str, Any]:
    qkv = _input(session, length)
    try:
        first_s = _seconds(session, lambda: attend(qkv))
    except (RuntimeError, ImportError, AttributeError) as error:
        if isinstance(error, session.torch.OutOfMemoryError):
            raise
        # No kernel for this device: a result. What breaks the device fails again here.
        session.meter.now()
        return {"unavailable": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
    seconds = session.meter.fastest(lambda: attend(qkv))
    return {
        "ms": 1e3 * seconds,
        "tflops": 4 * length**2 * _HEADS * _WIDTH / seconds / 1e12,
        "first_call_ms": 1e3 * first_s,
        "kernel": kernel_name(session, lambda: attend(qkv)),
    }


def _seconds(session: Session, work: Callable[[], Any]) -> float:
    start = session.meter.now()
    work()
    return session.meter.now() - start


def kernel_name(session: Session, work: Callable[[], Any]) -> str:
    """Name of the kernel that takes the longest, by PyTorch's profiler."""
    profiler = session.torch.profiler
    activity = profiler.ProfilerActivity
    with profiler.profile(activities=[activity.CUDA if session.is_cuda else activity.CPU]) as seen:
        work()
        session.meter.now()
    side = "device" if session.is_cuda else "cpu"
    averages = [(getattr(e, f"self_{side}_time_total"), e.key) for e in seen.key_averages()]
    return max(averages)[1][:80] if averages else "unknown"


def _new_lengths(session: Session, length: int, attend: Callable[[Any], Any]) -> dict[str, Any]:
    first_s: list[float] = []
    second_s: list[float] = []
    session.release()
    before = session.meter.outside()
    for step in _STEPS:
        qkv = _input(session, length + step)
        first_s.append(_seconds(session, lambda qkv=qkv: attend(qkv)))
        second_s.append(_seconds(session, lambda qkv=qkv: attend(qkv)))
        del qkv
    session.release()
    grown = session.meter.outside() - before
    return {
        "new_length_ms": 1e3 * sum(first_s) / len(first_s),
        "again_ms": 1e3 * sum(second_s) / len(second_s),
        "outside_kb_per_length": grown / len(_STEPS) / 1e3,
    }
