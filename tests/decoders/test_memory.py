"""Memory files where there is no space, or no folder, for them."""

from __future__ import annotations

import errno
import os
import tempfile
from typing import Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import ON_RAY, encoded, fields, serving
from trellis2_server.decoders import memory
from trellis2_server.decoders.memory import create_memory, fill_memory
from trellis2_server.errors import NoSpaceError, UnavailableError

FULL = [errno.ENOSPC, errno.EFBIG, errno.EDQUOT] if hasattr(errno, "EDQUOT") else [errno.ENOSPC]
OTHERS = [errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENOENT]


def failing(number: int) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number), "/tmp/secret")  # noqa: S108

    return fail


@pytest.mark.parametrize("number", [*FULL, *OTHERS])
def test_a_folder_that_is_full_or_read_only_is_told_apart(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = NoSpaceError if number in FULL else UnavailableError
    monkeypatch.setattr(tempfile, "TemporaryFile", failing(number))
    with pytest.raises(UnavailableError) as caught:
        create_memory(9, is_named=True)
    assert type(caught.value) is expected
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no anonymous memory")
def test_memory_that_cannot_grow_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    memfd_create = os.memfd_create

    def observed(*arguments: Any) -> int:
        made.append(memfd_create(*arguments))
        return made[-1]

    monkeypatch.setattr(os, "memfd_create", observed)
    monkeypatch.setattr(os, "ftruncate", failing(errno.EFBIG))
    with pytest.raises(NoSpaceError):
        create_memory(9)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_a_named_file_has_its_space_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = create_memory(100_000, is_named=True)
    try:
        status = os.fstat(descriptor)
        assert (status.st_size, status.st_blocks * 512 >= 100_000) == (100_000, True)
        os.close(create_memory(0, is_named=True))
        monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
        with pytest.raises(NoSpaceError):
            create_memory(9, is_named=True)
        monkeypatch.delattr(os, "posix_fallocate")
        os.close(create_memory(9, is_named=True))
    finally:
        os.close(descriptor)


def test_a_disk_that_becomes_full_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "open", failing(errno.ENOSPC), raising=False)
    with pytest.raises(NoSpaceError, match="no space for temporary files"):
        fill_memory(0, b"x")


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EROFS, 503)])
def test_a_client_is_told_so_and_is_served_when_there_is_space_again(
    number: int, status: int
) -> None:
    with serving(GatedEngine()) as server:
        server.wait_until_loaded()
        mesh = server.generate(fields(texture=False)).content
        sent = fields(1, texture=False, mesh=encoded(mesh))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("trellis2_server.decoders.transport.create_memory", _create(number))
            reply = server.generate(sent)
            assert (reply.status_code, reply.json()["error_code"]) == (status, 3)
            assert int(reply.headers["Retry-After"]) > 0
            assert "temporary files" in reply.json()["text"]
        assert server.generate(sent).is_success


def _create(number: int) -> Any:
    def create(*_: object, **__: object) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", failing(number))
            return create_memory(9, is_named=True)

    return create
