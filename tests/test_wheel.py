"""The package as it is installed: its files, its commands, away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import venv
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.engines import PATIENCE_S
from tests.support.server import COMPILING_S, picture, until
from trellis2_server import __version__
from trellis2_server.api.routes import page

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "trellis2_server"
#: What a build needs of the checkout beside the package.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", ".ci")
COMMANDS = Path("Scripts" if os.name == "nt" else "bin")


def pip(*arguments: str | Path) -> None:
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir", "-q")
    subprocess.run([*command, *arguments], check=True, timeout=120)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources."""
    pytest.importorskip("setuptools", "77", "needs setuptools 77 or newer: pip install setuptools")
    folder = tmp_path_factory.mktemp("sources")
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=without_caches)
    for name in SOURCES:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
    pip("wheel", folder, "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist")
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and with the packages of this environment.

    pip finds the wheel's requirements met, or fails: it may not download any.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    python = folder / COMMANDS / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "these.pth").write_text("\n".join(sorted(ours)))
    pip("--python", python, "install", "--no-index", wheel)
    reuse_compiled_loops(packages / PACKAGE.name)
    return folder


def reuse_compiled_loops(installed: Path) -> None:
    """Copy numba's caches, which take a minute to make; they hold for a file's size and time."""
    for folder in PACKAGE.rglob("__pycache__"):
        target = installed / folder.relative_to(PACKAGE)
        for cache in folder.glob("*.nb[ci]"):
            target.mkdir(exist_ok=True)
            shutil.copy2(cache, target)
    for source in PACKAGE.rglob("*.py"):
        copy, status = installed / source.relative_to(PACKAGE), source.stat()
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


@contextmanager
def serving(environment: Path, folder: Path) -> Generator[str]:
    """The installed command serves, configured by the file in the current folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    url = f"http://127.0.0.1:{port}"
    command = environment / COMMANDS / "trellis2-server"
    process = subprocess.Popen(
        [command, "--host", "127.0.0.1", "--port", port], cwd=folder, env=outside()
    )

    def is_ready() -> bool:
        assert process.poll() is None, "the server exited"
        try:
            return httpx.get(f"{url}/healthcheck", timeout=PATIENCE_S).is_success
        except httpx.TransportError:
            return False

    try:
        until(is_ready, "ready", patience_s=COMPILING_S)
        yield url
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == 0


def outside() -> dict[str, str]:
    """This process' environment, without paths to the checkout."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


@pytest.mark.costly("wheel")
def test_the_wheel_has_all_modules_and_the_pages_files_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        file.relative_to(ROOT).as_posix()
        for pattern in ("**/*.py", "page/*", "py.typed")
        for file in PACKAGE.glob(pattern)
    }
    assert names == expected
    assert "trellis2_server/export/kernels/charts.py" in names


@pytest.mark.costly("wheel")
def test_the_commands_say_their_version(environment: Path, tmp_path: Path) -> None:
    for name in ("trellis2-server", "trellis2"):
        done = subprocess.run(
            [environment / COMMANDS / name, "--version"],
            cwd=tmp_path, env=outside(), capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert done.stdout.strip() == __version__


@pytest.mark.costly("wheel")
def test_it_serves_and_the_client_makes_a_model(environment: Path, tmp_path: Path) -> None:
    python = environment / COMMANDS / "python"
    where = "import trellis2_server; print(trellis2_server.__file__)"
    found = subprocess.run(
        [python, "-c", where],
        cwd=tmp_path, env=outside(), capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert Path(found.stdout.strip()).is_relative_to(environment)
    (tmp_path / "photo.png").write_bytes(picture())
    configured = {
        "model": {"engine": "preview", "background": "none"},
        "export": {"glb_texture_size": 256, "glb_decimation_target": 2000},
    }
    (tmp_path / "api_server_config_default.json").write_text(json.dumps(configured))
    with serving(environment, tmp_path) as url:

        def get(path: str) -> httpx.Response:
            return httpx.get(f"{url}{path}", timeout=PATIENCE_S)

        markup = get("")
        assert markup.headers["content-type"] == "text/html; charset=utf-8"
        # A package brings no node_modules: browsers fetch the viewer from the CDN.
        assert page.VIEWER.cdn_url in markup.text
        for file in (PACKAGE / "page").iterdir():
            if file.name != "index.html":
                assert get(f"/page/{file.name}").content == file.read_bytes()
        size = get("/page/options").json()["properties"]["texture_size"]
        assert size["default"] == 256
        client = environment / COMMANDS / "trellis2"
        asked = [client, "--server", url, "photo.png", "--with-shape", "--output", "out/"]
        done = subprocess.run(
            asked, cwd=tmp_path, env=outside(), capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["photo.glb", "photo_shape.glb"]
    assert all(file.read_bytes()[:4] == b"glTF" for file in files)
