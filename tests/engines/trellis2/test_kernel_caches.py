from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from trellis2_server.engines.trellis2 import kernel_caches
from trellis2_server.engines.trellis2.kernel_caches import (
    FLEX_GEMM_VARIABLE,
    TRITON_VARIABLE,
    cache_folders,
    keep,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {"HOME": "/h"}, ["/h/.cache"]),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "/x"}, ["/x", "/h/.cache"]),
        ("linux", {"HOME": "/h", "XDG_CACHE_HOME": "relative"}, ["/h/.cache"]),
        ("darwin", {"HOME": "/h"}, ["/h/Library/Caches"]),
        ("win32", {"LOCALAPPDATA": "/l", "HOME": "/h"}, ["/l", "/h/AppData/Local"]),
    ],
)
def test_the_cache_folder_is_that_of_the_platform(
    platform: str, environ: dict[str, str], expected: list[str]
) -> None:
    assert cache_folders(environ, platform) == [Path(folder) for folder in expected]


def test_tuned_kernels_are_kept_in_a_private_folder_that_begins_with_the_shipped_ones(
    tmp_path: Path,
) -> None:
    shipped = tmp_path / ".flex_gemm" / "autotune_cache.json"
    shipped.parent.mkdir()
    shipped.write_text('{"NVIDIA A100": {}}')
    environ = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    keep(environ)
    file = Path(environ[FLEX_GEMM_VARIABLE])
    assert file == tmp_path / "cache" / "trellis2-server" / "flex_gemm" / "autotune_cache.json"
    assert json.loads(file.read_text()) == {"NVIDIA A100": {}}
    if sys.platform != "win32":
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o700
    assert TRITON_VARIABLE not in environ  # its default is in the home folder
    file.write_text('{"tuned": {}}')
    del environ[FLEX_GEMM_VARIABLE]
    keep(environ)
    assert json.loads(file.read_text()) == {"tuned": {}}


def test_variables_that_are_set_stay_and_their_folder_is_made(tmp_path: Path) -> None:
    file = tmp_path / "mine" / "cache.json"
    before = {
        "HOME": str(tmp_path),
        FLEX_GEMM_VARIABLE: str(file),
        TRITON_VARIABLE: str(tmp_path / "triton"),
    }
    environ = dict(before)
    keep(environ)
    assert environ == before
    assert file.parent.is_dir()


def test_a_damaged_file_is_removed_since_flexgemm_could_not_be_imported_with_it(
    tmp_path: Path,
) -> None:
    environ = {"HOME": str(tmp_path)}
    keep(environ)
    file = Path(environ.pop(FLEX_GEMM_VARIABLE))
    file.write_text('{"NVIDIA A100": {')
    keep(environ)
    assert not file.exists()


@posix
def test_triton_gets_a_folder_where_the_home_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    access = kernel_caches.os.access
    monkeypatch.setattr(
        kernel_caches.os, "access", lambda path, mode: path != home and access(path, mode)
    )
    environ = {"HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    keep(environ)
    assert environ[TRITON_VARIABLE] == str(tmp_path / "cache" / "trellis2-server" / "triton")


@posix
def test_a_folder_that_others_can_write_to_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / ".cache" / "trellis2-server"
    shared.mkdir(parents=True)
    shared.chmod(0o777)
    monkeypatch.setattr(kernel_caches.tempfile, "tempdir", str(tmp_path))
    environ = {"HOME": str(tmp_path)}
    keep(environ)
    file = Path(environ[FLEX_GEMM_VARIABLE])
    assert not file.is_relative_to(shared)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert "lost at the next start" in caplog.text


def test_a_file_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    keep({"HOME": str(tmp_path), FLEX_GEMM_VARIABLE: str(tmp_path / "file" / "cache.json")})
    assert "FLEX_GEMM_AUTOSAVE_AUTOTUNE_CACHE=0" in caplog.text
