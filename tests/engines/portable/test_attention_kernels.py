from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.engines.portable import attention_kernels as kernels  # noqa: E402
from trellis2_server.engines.portable.attention_kernels import Call, Device  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trellis2_server.engines.portable.attention_kernels import Kernel, Setting

H100 = Device("cuda", (9, 0), (2, 13), 91900, shares_plans=True, has_varlen=True)
B200 = replace(H100, capability=(10, 0))
B300 = replace(H100, capability=(10, 3))
A100 = replace(H100, capability=(8, 0))
RTX_5090 = replace(H100, capability=(12, 0))
T4 = replace(H100, capability=(7, 5))
MI300 = Device("rocm")
MPS = Device("mps")
CPU = Device("cpu")

SHORT = Call(1, 2048, 2048, 128, 128, "bfloat16")
LONG = Call(1, 32768, 32768, 128, 128, "bfloat16")
CROSS = replace(LONG, keys=2048)
FLOAT = replace(LONG, dtype="float32")
PACKED = replace(SHORT, batch=3, is_packed=True)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave PyTorch's flags and the module's selector as they were."""
    selector, variable = kernels.selector, os.environ.get(kernels.PLAN_VARIABLE)
    is_enabled = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    kernels.selector = selector
    torch.backends.cuda.enable_cudnn_sdp(is_enabled)
    os.environ.pop(kernels.PLAN_VARIABLE, None)
    if variable is not None:
        os.environ[kernels.PLAN_VARIABLE] = variable


@pytest.mark.parametrize(
    ("device", "call", "kernel"),
    [
        (H100, SHORT, "flash"),
        (H100, replace(SHORT, queries=kernels.LONG), "flash"),
        (H100, replace(SHORT, queries=4096), "cudnn"),
        (H100, LONG, "cudnn"),
        (B300, LONG, "cudnn"),
        (replace(H100, capability=(10, 4)), LONG, "flash"),
        (H100, CROSS, "cudnn"),
        (H100, replace(SHORT, keys=8192), "flash"),
        (H100, replace(LONG, dtype="float16"), "cudnn"),
        (H100, FLOAT, "pytorch"),
        (H100, replace(LONG, head_size=64, value_size=64), "cudnn"),
        (H100, replace(LONG, head_size=192, value_size=192), "flash"),
        (H100, replace(LONG, head_size=100, value_size=100), "flash"),
        (H100, replace(LONG, head_size=512, value_size=512), "pytorch"),
        (H100, replace(LONG, value_size=64), "pytorch"),
        (H100, PACKED, "varlen"),
        (H100, replace(LONG, batch=3, is_packed=True), "cudnn"),
        (replace(H100, has_varlen=False), PACKED, "flash"),
        (replace(H100, torch=(2, 14)), LONG, "cudnn"),
        (replace(H100, torch=(2, 9)), LONG, "flash"),
        (replace(H100, cudnn=91500), LONG, "flash"),
        (replace(H100, cudnn=0), LONG, "flash"),
        (replace(H100, shares_plans=False), LONG, "flash"),
        (B200, LONG, "cudnn"),
        (B200, SHORT, "flash"),
        (A100, SHORT, "flash"),
        (A100, LONG, "flash"),
        (A100, replace(LONG, batch=3, is_packed=True), "varlen"),
        (A100, FLOAT, "pytorch"),
        (RTX_5090, LONG, "flash"),
        (T4, LONG, "pytorch"),
        (T4, replace(SHORT, dtype="float16"), "pytorch"),
        (T4, PACKED, "pytorch"),
        (MI300, LONG, "pytorch"),
        (MI300, PACKED, "pytorch"),
        (MPS, LONG, "pytorch"),
        (CPU, LONG, "pytorch"),
    ],
)
def test_auto_chooses_by_device_lengths_and_dtype(
    device: Device, call: Call, kernel: Kernel
) -> None:
    assert kernels.choose("auto", device, call) == (kernel, "")


@pytest.mark.parametrize(
    ("setting", "device", "call", "kernel"),
    [
        ("cudnn", H100, SHORT, "cudnn"),
        ("cudnn", A100, LONG, "cudnn"),
        ("cudnn", H100, PACKED, "cudnn"),
        ("flash", H100, LONG, "flash"),
        ("flash", H100, replace(LONG, batch=2, is_packed=True), "varlen"),
        ("flash", replace(A100, has_varlen=False), PACKED, "flash"),
        ("flash", MI300, LONG, "flash"),
        ("varlen", A100, LONG, "varlen"),
        ("efficient", T4, FLOAT, "efficient"),
        ("efficient", H100, LONG, "efficient"),
        ("math", MPS, LONG, "math"),
        ("math", H100, LONG, "math"),
    ],
)
def test_a_requested_kernel_is_chosen_where_it_can_run(
    setting: Setting, device: Device, call: Call, kernel: Kernel
) -> None:
    assert kernels.choose(setting, device, call) == (kernel, "")


@pytest.mark.parametrize(
    ("setting", "device", "call", "kernel", "why"),
    [
        ("flash", H100, FLOAT, "pytorch", "not with float32"),
        ("flash", T4, LONG, "pytorch", "not with compute capability 7.5"),
        ("flash", H100, replace(LONG, head_size=512, value_size=512), "pytorch", "512 channels"),
        ("efficient", T4, LONG, "pytorch", "not with bfloat16 and compute capability 7.5"),
        ("cudnn", replace(H100, cudnn=91002), LONG, "flash", "cuDNN 91002 is too old"),
        ("cudnn", MI300, LONG, "pytorch", "not on rocm"),
        ("cudnn", H100, replace(LONG, keys=1), "flash", "single key"),
        ("cudnn", CPU, LONG, "pytorch", "not on cpu"),
        ("varlen", replace(A100, has_varlen=False), LONG, "flash", "no torch.nn.attention.varlen"),
        ("varlen", MPS, PACKED, "pytorch", "not on mps"),
    ],
)
def test_a_requested_kernel_that_cannot_run_is_replaced_by_the_automatic_choice(
    setting: Setting, device: Device, call: Call, kernel: Kernel, why: str
) -> None:
    chosen, unmet = kernels.choose(setting, device, call)
    assert chosen == kernel
    assert why in unmet


def test_a_kernel_that_failed_is_not_chosen_again() -> None:
    assert kernels.choose("auto", H100, LONG, frozenset({"cudnn"})) == ("flash", "")
    assert kernels.choose("cudnn", H100, LONG, frozenset({"cudnn"}))[0] == "flash"
    assert kernels.choose("flash", H100, PACKED, frozenset({"varlen"})) == ("flash", "")
    assert kernels.choose("auto", H100, PACKED, frozenset({"varlen"})) == ("flash", "")


def select(setting: Setting, device: Device) -> kernels.Selector:
    def describe(_: Any) -> Device:
        return device

    return kernels.Selector(setting, describe)


def ask(selector: kernels.Selector, queries: int, keys: int = 2048, batch: int = 1) -> Kernel:
    tensor = torch.empty(1, 128, dtype=torch.bfloat16)
    return selector.kernel(tensor, tensor, batch, (queries, keys))


def test_each_choice_is_logged_once_for_lengths_up_to_a_power_of_two(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    selector = select("auto", H100)
    lengths = (30_000, 17_000, 32_768, 1025, 2048, 2049, 30_000)
    assert [ask(selector, n) for n in lengths] == [
        *["cudnn"] * 3,
        *["flash"] * 2,
        *["cudnn"] * 2,
    ]
    logged: list[Any] = [r for r in caplog.records if r.message == "attention kernel"]
    assert [(r.kernel, r.queries) for r in logged] == [
        ("cudnn", "<= 32768"),
        ("flash", "<= 2048"),
        ("cudnn", "<= 4096"),
    ]
    assert {(r.keys, r.batch, r.dtype, r.device) for r in logged} == {
        ("<= 2048", 1, "bfloat16", "cpu")
    }
    ask(selector, 30_000, batch=2)
    assert len([r for r in caplog.records if r.message == "attention kernel"]) == 4


def test_a_kernel_that_cannot_run_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    selector = select("cudnn", replace(H100, cudnn=91002))
    assert [ask(selector, n) for n in (100, 1000, 30_000)] == ["flash"] * 3
    warnings: list[Any] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [(r.requested, r.kernel) for r in warnings] == [("cudnn", "flash")]


def test_a_kernel_that_fails_is_one_warning_and_a_new_choice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    selector = select("auto", H100)
    assert ask(selector, 30_000) == "cudnn"
    selector.refuse("cudnn", RuntimeError("no plan"))
    assert [ask(selector, n) for n in (30_000, 60_000)] == ["flash"] * 2
    warnings: list[Any] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert [(r.kernel, r.why) for r in warnings] == [("cudnn", "no plan")]


def test_a_device_is_described_once() -> None:
    described: list[Any] = []

    def describe(device: Any) -> Device:
        described.append(device)
        return A100

    selector = kernels.Selector("auto", describe)
    for queries in (100, 1000, 10_000):
        ask(selector, queries)
    assert described == [torch.device("cpu")]


def test_lengths_that_are_known_stay_known_when_no_more_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A CUDA graph is rehearsed with known lengths, and a comparison would wait for the device.
    monkeypatch.setattr(kernels, "_MOST_LENGTHS", 2)
    selector = kernels.Selector()
    assert [selector.is_first("cuda", (n, 1)) for n in (1, 2, 1, 2)] == [True, True, False, False]
    assert selector.is_first("cuda", (3, 1))
    assert not selector.is_first("cuda", (3, 1))


def test_this_machine_is_described() -> None:
    device = kernels.describe(torch.device("cpu"))
    assert device.kind == "cpu"
    assert device.torch >= (2, 0)
    assert device.query_step in {1, kernels.QUERY_STEP}


def test_a_cuda_device_is_described_from_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu130")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setenv(kernels.PLAN_VARIABLE, "1")
    device = kernels.describe(torch.device("cuda", 1))
    assert device == replace(H100, torch=(2, 14), has_varlen=device.has_varlen)
    assert device.query_step == kernels.QUERY_STEP
    monkeypatch.setenv(kernels.PLAN_VARIABLE, "0")
    assert not kernels.describe(torch.device("cuda", 1)).shares_plans
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert kernels.describe(torch.device("cuda", 1)).kind == "rocm"


CONFIGURE = """
import os, torch
from trellis2_server.engines.portable import attention_kernels as kernels
before = torch.backends.cuda.cudnn_sdp_enabled()
kernels.configure("auto")
print(before, torch.backends.cuda.cudnn_sdp_enabled(), os.environ[kernels.PLAN_VARIABLE])
"""


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_configuring_disables_cudnn_and_keeps_the_operators_variable(
    given: str | None, expected: str
) -> None:
    environ = {k: v for k, v in os.environ.items() if k != kernels.PLAN_VARIABLE}
    if given is not None:
        environ[kernels.PLAN_VARIABLE] = given
    run = subprocess.run(
        [sys.executable, "-c", CONFIGURE], check=True, capture_output=True, text=True, env=environ
    )
    assert run.stdout.split() == ["True", "False", expected]
