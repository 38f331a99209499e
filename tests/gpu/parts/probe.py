"""What the device and PyTorch's kernels do, without TRELLIS.2: versions, speeds, kernels, errors.

Does not know: the engine, TRELLIS.2.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

from bench.record import cores
from tests.gpu.meter import GIB
from tests.gpu.parts import probe_attention, probe_convolution
from tests.gpu.standins import check_standins, limit

if TYPE_CHECKING:
    from tests.gpu.session import Session

#: The modelled H100: of bfloat16 products, and of memory that is read and written.
_MODEL_TFLOPS: Final = 550.0
_MODEL_TB_S: Final = 2.7
_VERSIONS: Final = (
    "numpy",
    "numba",
    "transformers",
    "triton",
    "safetensors",
    "fastapi",
    "flash-attn",
)

#: Beginnings of variables that change what is measured.
_VARIABLES: Final = (
    "PYTORCH_",
    "TORCH_CUDNN",
    "CUDA_VISIBLE",
    "ATTN_",
    "SPARSE_",
    "TRITON_",
    "OMP_",
)


def run(session: Session) -> None:
    """Probe, the most valuable first."""
    session.about(**versions(session))
    session.attempt("speed", {"what": "launches"}, 0.5, lambda: _launches(session))
    session.attempt("speed", {"what": "products and memory"}, 1.0, lambda: _throughput(session))
    for pinned in (False, True):
        session.attempt(
            "transfers",
            {"what": "pinned" if pinned else "pageable"},
            2.0,
            lambda pinned=pinned: _transfers(session, pinned=pinned),
        )
    probe_attention.run(session)
    _standins(session)
    probe_convolution.run(session)


def versions(session: Session) -> dict[str, Any]:
    """Device, driver, clocks and versions; what cannot be read is left out."""
    torch = session.torch
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cores": cores(),
    }
    found["environment"] = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES)}
    installed = {d.name.lower(): d.version for d in importlib.metadata.distributions()}
    found |= {name: installed[name] for name in _VERSIONS if name in installed}
    if not session.is_cuda:
        return found
    properties = torch.cuda.get_device_properties(session.device)
    found |= {
        "device_name": f"{properties.name}, {properties.total_memory / GIB:.0f} GiB",
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
        "used_by_others_mb": session.meter.outside() / 1e6,
    }
    return found | _driver(session.device)


def _driver(device: str) -> dict[str, Any]:
    """Driver, clocks, power limit and temperature, by `nvidia-smi` where it is."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    names = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    command = [program, f"--query-gpu={names}", "--format=csv,noheader"]
    command += ["-i", device.partition(":")[2] or "0"]
    try:
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names.split(","), (v.strip() for v in answer.stdout.split(",")), strict=False))


def _launches(session: Session) -> dict[str, Any]:
    """Time of the host to start a kernel, and to start one and wait for it."""
    torch, meter = session.torch, session.meter
    one = torch.ones(8, device=session.device)
    count = 2_000

    def start() -> None:
        for _ in range(count):
            one.add_(1)

    def wait() -> None:
        for _ in range(200):
            one.add_(1)
            meter.now()

    start()
    return {
        "start_us": 1e6 * meter.fastest(start) / count,
        "start_and_wait_us": 1e6 * meter.fastest(wait) / 200,
    }


def _throughput(session: Session) -> dict[str, Any]:
    """Speed of products and of memory; corrects the estimates of all parts."""
    torch, meter = session.torch, session.meter
    edge = 256 if session.is_tiny else 8192
    a = torch.randn(edge, edge, device=session.device, dtype=torch.bfloat16)
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    tflops = 2 * edge**3 / meter.fastest(lambda: torch.mm(a, a, out=out), 5) / 1e12
    size = 2**20 if session.is_tiny else 2**30
    source = torch.zeros(size, dtype=torch.uint8, device=session.device)
    target = torch.empty_like(source)
    target.copy_(source)
    tb_s = 2 * size / meter.fastest(lambda: target.copy_(source), 5) / 1e12
    # Most of a job is products and attention, a third is bound by memory.
    slowness = 0.7 * _MODEL_TFLOPS / tflops + 0.3 * _MODEL_TB_S / tb_s
    if not session.is_tiny:
        session.note_speed(slowness)
    return {"bfloat16_tflops": tflops, "memory_tb_s": tb_s, "slower_than_the_model": slowness}


def _transfers(session: Session, *, pinned: bool) -> dict[str, Any]:
    """Speed of copies; a new host buffer is what TRELLIS.2's `low_vram` writes to."""
    torch, meter = session.torch, session.meter
    size = 2**20 if session.is_tiny else 2**28
    if pinned and not session.is_cuda:
        return {"unavailable": "only on a GPU"}
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
    there = torch.zeros(size, dtype=torch.uint8, device=session.device)
    row = {
        "to_device_gb_s": size
        / meter.fastest(lambda: there.copy_(host, non_blocking=pinned))
        / 1e9,
        "to_host_gb_s": size / meter.fastest(lambda: host.copy_(there, non_blocking=pinned)) / 1e9,
    }
    if not pinned:
        row["to_new_host_memory_gb_s"] = size / meter.fastest(lambda: there.clone().cpu()) / 1e9
    return row


def _standins(session: Session) -> None:
    """Errors of the stand-ins against float64."""
    torch = session.torch
    try:
        with torch.inference_mode():
            errors = check_standins(torch, session.device, 64 if session.is_tiny else 1024)
    except Exception as error:  # noqa: BLE001 - the other rows follow
        session.attempt("stand-ins against float64", {"what": "all"}, 0.0, _raiser(error))
        return
    for name, error in errors.items():
        row: dict[str, Any] = {"relative_error": error, "limit": limit(name)}
        if not error <= limit(name):
            row["error"] = f"{error:.1e} is over {limit(name):.1e}"
        session.row("stand-ins against float64", what=name, **row)


def _raiser(error: Exception) -> Any:
    def fail() -> dict[str, Any]:
        raise error

    return fail
