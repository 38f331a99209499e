"""The Triton kernel: right in Triton's interpreter, and compiled for GPUs that are not there."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")
triton = pytest.importorskip("triton", reason="needs triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from trellis2_server.engines.portable import convolution_kernel, implicit_gemm  # noqa: E402

KERNEL: Any = convolution_kernel.convolve_tile
#: GPU → threads of a warp, bytes of shared memory that a program can have. NVIDIA's are those of
#: the smaller GPUs with the same instructions.
GPUS = {
    80: (32, 99 << 10),  # A100, GeForce 30 and 40
    90: (32, 227 << 10),  # H100
    120: (32, 99 << 10),  # GeForce 50
    "gfx942": (64, 64 << 10),  # MI300
    "gfx1100": (32, 64 << 10),  # Radeon 7000
}


def test_the_sizes_of_blocks_depend_on_channels_only_and_are_what_the_kernel_can_have() -> None:
    for inputs in (1, 16, 33, 64, 1024):
        for outputs in (1, 16, 33, 64, 4096):
            for element_bytes in (2, 4):
                blocks = implicit_gemm.choose_blocks(inputs, outputs, element_bytes)
                assert blocks == implicit_gemm.choose_blocks(inputs, outputs, element_bytes)
                assert blocks.columns in {16, 32, 64, 128}
                assert blocks.depth in {16, 32, 64}


@pytest.mark.parametrize(
    ("outputs", "element_bytes", "columns", "depth", "warps"),
    [
        (1, 2, 16, 64, 4),
        (32, 2, 32, 64, 4),
        (33, 2, 64, 64, 8),
        (64, 2, 64, 64, 8),
        (65, 2, 128, 32, 8),
        (4096, 2, 128, 32, 8),
        (32, 4, 32, 32, 4),
        (64, 4, 64, 32, 8),
        (4096, 4, 64, 32, 8),
    ],
)
def test_half_precision_has_larger_blocks_than_float32(
    outputs: int, element_bytes: int, columns: int, depth: int, warps: int
) -> None:
    blocks = implicit_gemm.choose_blocks(1024, outputs, element_bytes)
    assert (blocks.columns, blocks.depth, blocks.warps) == (columns, depth, warps)


def test_the_kernel_starts_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Any] = []

    def choose(device: Any) -> contextlib.AbstractContextManager[None]:
        chosen.append(device)
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.cuda, "device", choose)
    second = torch.device("cuda", 1)
    for device in (torch.device("cpu"), second):
        with implicit_gemm._on(device):
            pass
    assert chosen == [second]


def test_float32_is_multiplied_as_the_process_allows() -> None:
    class OnCuda:
        device = torch.device("cuda")

    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        for chosen in ("tf32", "ieee"):
            matmul.fp32_precision = chosen
            assert implicit_gemm._precision(OnCuda()) == chosen
            assert implicit_gemm._precision(torch.zeros(1)) == "ieee"
    finally:
        matmul.fp32_precision = before


@pytest.mark.costly
def test_the_kernel_is_right_in_tritons_interpreter() -> None:
    # Its numpy calls may warn of overflow in lanes that are masked out.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore::RuntimeWarning"]
    command += ["-p", "no:cacheprovider", str(Path(__file__).with_name("interpreted_kernels.py"))]
    done = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert re.search(r"\d\d passed", done.stdout)
    assert "skipped" not in done.stdout


def compiled(gpu: int | str, dtype: str, inputs: int, outputs: int) -> Any:
    blocks = implicit_gemm.choose_blocks(inputs, outputs, 4 if dtype == "fp32" else 2)
    constants = {
        "CELLS": 27,
        "HAS_BIAS": True,
        "PRECISION": "ieee",
        "WIDENS": False,
        "TILE": 128,
        "COLUMNS": blocks.columns,
        "DEPTH": blocks.depth,
    }
    pointers = dict.fromkeys(("feats", "weight", "bias", "out"), f"*{dtype}")
    pointers |= dict.fromkeys(("rows", "order", "cells", "counts"), "*i32")
    names = KERNEL.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    aligned = [*pointers, *(["inputs"] if inputs % 16 == 0 else [])]
    source = ASTSource(
        KERNEL,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = GPUTarget("hip" if isinstance(gpu, str) else "cuda", gpu, GPUS[gpu][0])
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages}
    return triton.compile(source, target=target, options=options)


@pytest.mark.parametrize(
    ("dtype", "inputs", "outputs"),
    [("fp16", 64, 64), ("bf16", 128, 1024), ("fp16", 6, 7), ("fp32", 64, 64)],
)
@pytest.mark.parametrize("gpu", GPUS)
def test_the_kernel_compiles_for_a_gpu_and_fits(  # noqa: PLR0913, PLR0917 - parameters
    gpu: int | str,
    dtype: str,
    inputs: int,
    outputs: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = compiled(gpu, dtype, inputs, outputs)
    # Half is enough for two programs on a multiprocessor: one loads while the other computes.
    assert kernel.metadata.shared <= GPUS[gpu][1] / 2
    if isinstance(gpu, str) and dtype != "fp32":
        spilled = re.findall(r"\.vgpr_spill_count: *(\d+)", kernel.asm["amdgcn"])
        assert set(spilled) == {"0"}
    if isinstance(gpu, int) and inputs >= 16:
        # Rows are loaded while earlier ones are multiplied.
        assert "cp.async" in kernel.asm["ptx"]
