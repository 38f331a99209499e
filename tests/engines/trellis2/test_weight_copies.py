from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from trellis2_server.engines.trellis2 import weight_copies
from trellis2_server.engines.trellis2.weight_copies import WeightCopies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Cuda:
    """PyTorch with a CUDA device; notes what is called on which stream.

    Attributes:
        calls: (stream, what).
        stream: current stream.
        most_pinned: bytes that one piece of pinned memory can have.
    """

    def __init__(self, most_pinned: int = 10**9) -> None:
        self.calls: list[tuple[str, str]] = []
        self.stream = "compute"
        self.most_pinned = most_pinned
        self.uint8 = "uint8"
        self.cuda = SimpleNamespace(
            Stream=lambda device: Stream(self, f"copy on {device}"),
            current_stream=lambda _: Stream(self, self.stream),
            stream=self.use,
            Event=lambda: Event(self),
        )

    def note(self, what: str) -> None:
        self.calls.append((self.stream, what))

    @contextlib.contextmanager
    def use(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream.name
        yield
        self.stream = before

    @contextlib.contextmanager
    def inference_mode(self, *, mode: bool) -> Iterator[None]:
        assert mode is False
        yield

    def empty(self, size: int, dtype: str, *, pin_memory: bool = False) -> Tensor:
        assert dtype == "uint8"
        if pin_memory and size > self.most_pinned:
            raise RuntimeError("CUDA error: out of memory\nmore")
        return Tensor(self, "pinned" if pin_memory else "pageable")

    def empty_like(self, tensor: Tensor, device: str) -> Tensor:
        assert tensor.place == "pinned"
        self.note(f"allocate on {device}")
        return Tensor(self, device)


class Stream:
    def __init__(self, torch: Cuda, name: str) -> None:
        self._torch, self.name = torch, name

    def wait_stream(self, other: Stream) -> None:
        self._torch.calls.append((self.name, f"wait for {other.name}"))

    def wait_event(self, event: Event) -> None:
        self._torch.calls.append((self.name, f"wait for event on {event.recorded}"))


class Event:
    recorded = ""

    def __init__(self, torch: Cuda) -> None:
        self._torch = torch

    def record(self, stream: Stream) -> None:
        self.recorded = stream.name
        self._torch.note("record")


class Tensor:
    def __init__(self, torch: Cuda, place: str) -> None:
        self._torch, self.place = torch, place

    def to(self, device: str, *, non_blocking: bool) -> Tensor:
        self._torch.note(f"{self.place} to {device}, non_blocking={non_blocking}")
        return Tensor(self._torch, device)

    def copy_(self, source: Tensor, *, non_blocking: bool) -> None:
        self._torch.note(f"{source.place} to {self.place}, non_blocking={non_blocking}")

    def record_stream(self, stream: Stream) -> None:
        self._torch.note(f"used by {stream.name}")


def test_a_copy_ahead_runs_on_its_own_stream_between_an_event_and_a_wait() -> None:
    torch: Any = Cuda()
    copies = WeightCopies(torch, "cuda:1")
    slab = copies.host_slab(100)
    assert slab.place == "pinned"
    upload = copies.upload([slab], ahead=True)
    side = "copy on cuda:1"
    assert torch.calls == [
        ("compute", "allocate on cuda:1"),  # so that the computing stream frees it
        (side, "wait for compute"),  # which may still use that memory
        (side, "pinned to cuda:1, non_blocking=True"),
        (side, f"used by {side}"),
        (side, "record"),
    ]
    torch.calls.clear()
    copies.wait(upload)
    copies.wait(upload)
    assert torch.calls == [("compute", f"wait for event on {side}")]


def test_a_copy_that_is_needed_now_runs_in_the_order_of_the_computing_stream() -> None:
    torch: Any = Cuda()
    copies = WeightCopies(torch, "cuda")
    upload = copies.upload([copies.host_slab(100)])
    copies.wait(upload)
    assert torch.calls == [("compute", "pinned to cuda, non_blocking=True")]


@pytest.mark.parametrize("limit", ["the driver's", "the machine's"])
def test_memory_that_cannot_be_pinned_is_ordinary_and_one_line_of_the_log(
    limit: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch: Any = Cuda(150 if limit == "the driver's" else 10**9)
    if limit == "the machine's":
        monkeypatch.setattr(weight_copies, "_machine_memory", lambda: 300.0)
    copies = WeightCopies(torch, "cuda")
    assert copies.can_copy_ahead
    places = [copies.host_slab(size).place for size in (100, 200, 100)]
    assert places == ["pinned", "pageable", "pageable"]
    assert not copies.can_copy_ahead
    assert len(caplog.records) == 1
    copies.upload([Tensor(torch, "pageable")], ahead=True)  # pyright: ignore[reportArgumentType]
    assert torch.calls == [("compute", "pageable to cuda, non_blocking=False")]


def test_devices_other_than_cuda_have_ordinary_copies(torch: Any) -> None:
    copies = WeightCopies(torch, "cpu")
    assert not copies.can_copy_ahead
    assert not copies.host_slab(10).is_pinned()
    assert 10**6 < weight_copies._machine_memory() <= float("inf")


def test_a_container_with_less_memory_than_the_machine_has_less_to_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = weight_copies._machine_memory()
    files = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(weight_copies, "_CONTAINER_LIMITS", files)
    files[0].write_text("max\n")
    assert weight_copies._machine_memory() >= machine
    files[1].write_text("1000000\n")
    assert weight_copies._machine_memory() == 1_000_000
