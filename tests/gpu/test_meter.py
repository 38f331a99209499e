from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.gpu.full_model import FullModel
from tests.gpu.meter import GIB, Meter
from tests.gpu.sample_job import job


class Cuda:
    """Counts memory as PyTorch does.

    Attributes:
        now: bytes in use.
        most: peak since the last reset.
    """

    def __init__(self) -> None:
        self.now = self.most = 0

    def use(self, gib: int) -> None:
        """Use so much for a moment."""
        self.most = max(self.most, gib * GIB)

    def synchronize(self) -> None:
        """Do nothing."""

    def max_memory_allocated(self, device: str = "") -> int:
        del device
        return self.most

    def reset_peak_memory_stats(self, device: str = "") -> None:
        del device
        self.most = self.now


def test_a_peak_counts_although_the_engine_resets_it() -> None:
    cuda = Cuda()
    meter = Meter(SimpleNamespace(cuda=cuda, mps=None), "cuda")
    cuda.use(7)
    cuda.reset_peak_memory_stats("cuda")
    cuda.use(2)
    assert meter.peak() == 7
    cuda.use(3)
    assert meter.peak() == 3


def test_the_last_stage_of_a_job_has_its_peak() -> None:
    cuda = Cuda()
    meter = Meter(SimpleNamespace(cuda=cuda, mps=None), "cuda")

    def stage(*arguments: Any) -> Any:
        report = arguments[-1]
        for name, gib in (("structure", 2), ("decode", 9)):
            report(name, 0, 1)
            cuda.use(gib)
        cuda.reset_peak_memory_stats("cuda")
        return "made"

    engine: Any = SimpleNamespace(shape=stage, texture=stage)
    upstream: Any = None
    measured = FullModel(upstream, engine, None).measure(meter, job("512", 1, "tiny"))
    for times in measured.times.values():
        assert {name: gib for name, (_, gib) in times.measured.items()} == {
            "structure": 2,
            "decode": 9,
        }
