from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from tests.support.voxels import random_voxels  # noqa: E402
from trellis2_server.engines.portable import convolution, kernel_choice  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

Tensor = Any
MODULE = "trellis2_server.engines.portable.implicit_gemm"
CONV = convolution.sparse_submanifold_conv3d
H100, TURING, CPU = (9, 0), (7, 5), torch.device("cpu")


class FakeKernel(ModuleType):
    """Counts its calls, and raises or returns what it is told to."""

    def __init__(self, convolve: Callable[..., Tensor]) -> None:
        super().__init__(MODULE)
        self.calls = 0
        self._convolve = convolve

    def convolve(self, *args: Tensor) -> Tensor:
        self.calls += 1
        return self._convolve(*args)


def raising(error: Exception) -> Callable[..., Tensor]:
    def convolve(*args: Tensor) -> Tensor:
        del args
        raise error

    return convolve


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeKernel]:
    """Install a kernel for the CPU in a fresh process' state."""

    def install(convolve: Callable[..., Tensor]) -> FakeKernel:
        fake = FakeKernel(convolve)
        monkeypatch.setitem(sys.modules, MODULE, fake)
        monkeypatch.setattr(kernel_choice, "_DEVICES", {"cpu"})
        monkeypatch.setattr(convolution, "_kernel", kernel_choice.KernelChoice())
        return fake

    return install


def layer() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    coords = random_voxels(8, 0.5)
    return torch.randn(len(coords), 4), coords, (), torch.randn(6, 3, 3, 3, 4), torch.randn(6)


def test_the_kernel_gets_a_map_with_tiles_and_flat_weights(
    kernel: Callable[..., FakeKernel],
) -> None:
    seen: list[Any] = []

    def convolve(*args: Any) -> Tensor:
        seen.extend(args)
        return torch.zeros(1)

    fake = kernel(convolve)
    feats, coords, _, weight, bias = layer()
    out, neighbors = CONV(feats, coords, (), weight, bias)
    assert out.shape == (1,)
    assert fake.calls == 1
    assert seen[0] is feats
    assert seen[1] is neighbors
    assert neighbors.tiles is not None
    assert torch.equal(seen[2], weight.view(6, 27, 4))
    assert seen[3] is bias


def test_after_a_failure_pytorch_computes_the_same_with_one_warning(
    kernel: Callable[..., FakeKernel],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected, _ = CONV(*layer())
    fake = kernel(raising(RuntimeError("PassManager::run failed")))
    first, neighbors = CONV(*layer())
    monkeypatch.setattr(convolution, "CHUNK_BYTES", 27 * 4 * 4 * 50)
    in_chunks, _ = CONV(*layer(), neighbors)
    assert neighbors.tiles is not None
    assert torch.allclose(first, expected, atol=1e-5)
    assert torch.allclose(in_chunks, expected, atol=1e-5)
    assert fake.calls == 1
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert caplog.records[0].why == "RuntimeError: PassManager::run failed"  # type: ignore[attr-defined]
    assert CONV(*layer())[1].tiles is None


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        MemoryError(),
    ],
)
def test_lack_of_memory_is_raised_and_the_kernel_stays(
    kernel: Callable[..., FakeKernel], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    fake = kernel(raising(error))
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            CONV(*layer())
        assert caught.value is error
    assert fake.calls == 2
    assert not caplog.records


def test_a_kernel_that_is_asked_for_raises_its_error(kernel: Callable[..., FakeKernel]) -> None:
    kernel(raising(RuntimeError("out of resource: shared memory")))
    convolution._kernel.select("triton")
    with pytest.raises(RuntimeError, match="out of resource"):
        CONV(*layer())


def test_the_variable_chooses_pytorch(
    kernel: Callable[..., FakeKernel], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = kernel(raising(RuntimeError()))
    monkeypatch.setenv(kernel_choice.VARIABLE, "gather")
    assert CONV(*layer())[1].tiles is None
    assert fake.calls == 0


def test_an_unknown_algorithm_is_an_error_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(kernel_choice.VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"TRELLIS2_SERVER_CONVOLUTION must be auto.*'fast'"):
        kernel_choice.KernelChoice().is_used_on(CPU)


def test_a_layer_with_other_dtypes_or_gradients_is_left_to_pytorch(
    kernel: Callable[..., FakeKernel],
) -> None:
    fake = kernel(raising(RuntimeError()))
    feats, coords, shape, weight, bias = layer()
    CONV(feats.double(), coords, shape, weight.double(), bias.double())
    CONV(feats, coords, shape, weight.requires_grad_(), bias)
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        CONV(feats, coords, shape, weight.double(), bias)
    assert fake.calls == 0


@pytest.mark.parametrize(
    ("device", "capability", "is_used"),
    [("cuda:0", H100, True), ("cuda:1", TURING, False), ("cpu", H100, False), ("mps", H100, False)],
)
def test_the_kernel_is_used_on_gpus_from_ampere_on(
    device: str,
    capability: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_used: bool,
) -> None:
    kernel_choice._is_recent.cache_clear()
    monkeypatch.setitem(sys.modules, MODULE, FakeKernel(raising(RuntimeError())))
    asked: list[Any] = []

    def get_device_capability(which: Any) -> tuple[int, int]:
        asked.append(which)
        return capability

    monkeypatch.setattr(torch.cuda, "get_device_capability", get_device_capability)
    choice = kernel_choice.KernelChoice()
    assert [choice.is_used_on(torch.device(device)) for _ in range(3)] == [is_used] * 3
    assert len(asked) == device.startswith("cuda")
    kernel_choice._is_recent.cache_clear()


@pytest.mark.parametrize("error", [ModuleNotFoundError("No module named 'triton'"), OSError("so")])
def test_without_triton_pytorch_computes(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def import_module(name: str) -> ModuleType:
        del name
        raise error

    monkeypatch.setattr(kernel_choice, "_DEVICES", {"cpu"})
    monkeypatch.setattr(kernel_choice.importlib, "import_module", import_module)
    choice = kernel_choice.KernelChoice()
    assert not choice.is_used_on(CPU)
    assert not choice.is_used_on(CPU)
    # A broken package is a warning; Triton is not on every platform.
    assert len(caplog.records) == (not isinstance(error, ModuleNotFoundError))
