from __future__ import annotations

import sys

import pytest

from trellis2_server.cli.process import allow_descriptors


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
