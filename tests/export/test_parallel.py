from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.export import parallel


def test_every_index_is_visited_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(start: int, stop: int, visits: np.ndarray) -> None:
        visits[start:stop] += 1

    for threads in (1, 3):
        monkeypatch.setattr(parallel, "_THREADS", threads)
        for length in (0, 1, 999, 10_000):
            visits = np.zeros(length, int)
            parallel.parallel_for(count, length, visits, grain=10)
            assert (visits == 1).all()


def test_an_exception_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(start: int, _stop: int) -> None:
        if start > 0:
            raise ArithmeticError

    monkeypatch.setattr(parallel, "_THREADS", 3)
    with pytest.raises(ArithmeticError):
        parallel.parallel_for(fail, 100, grain=1)


def test_the_bytes_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    field, original = shapes.field(32), shapes.noisy_blob()
    results = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(parallel, "_THREADS", threads)
        mesh = export.prepare(original, decimation_target=1500)
        results.append(export.textured_glb(mesh, field, original=original, texture_size=256))
    assert results[0] == results[1] == results[2]
