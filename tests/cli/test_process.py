from __future__ import annotations

import ctypes
import gc
import sys
from types import SimpleNamespace

import pytest

from trellis2_server.cli.process import (
    allow_descriptors,
    leave_out_of_collections,
    limit_malloc_arenas,
)


@pytest.mark.skipif(sys.platform != "linux", reason="limits are another matter elsewhere")
def test_the_limit_of_open_files_is_raised_for_its_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import resource

    kind = resource.RLIMIT_NOFILE
    soft, hard = resource.getrlimit(kind)
    try:
        resource.setrlimit(kind, (700, hard))
        allow_descriptors(100)
        assert resource.getrlimit(kind) == (700, hard)
        allow_descriptors(400)
        assert resource.getrlimit(kind) == (912, hard)
        assert not caplog.records
        if hard != resource.RLIM_INFINITY:
            allow_descriptors(hard)
            assert resource.getrlimit(kind) == (hard, hard)
            assert f"may open {hard} files, too few" in caplog.text
    finally:
        resource.setrlimit(kind, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_threads_share_two_arenas_where_the_library_has_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *given: calls.append(given))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    limit_malloc_arenas()
    assert calls == [(-8, 2)]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())  # musl
    limit_malloc_arenas()
    assert len(calls) == 1


def test_what_exists_is_left_out_of_later_collections() -> None:
    was_frozen = gc.get_freeze_count() > 0  # by those who run the tests
    gc.unfreeze()
    try:
        leave_out_of_collections()
        assert gc.get_freeze_count() > 1000
    finally:
        if not was_frozen:
            gc.unfreeze()
