from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import trimesh
from PIL import Image

from tests.support.documents import ROOT, block

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize("name", ["run", "tests"])
def test_a_command_is_one_line(name: str) -> None:
    assert block(name).count("\n") == 1


def is_ok(port: int) -> bool:
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    ) as connection:
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the server as the README says, with another port and smaller textures."""
    config = tmp_path_factory.mktemp("server") / "config.json"
    config.write_text(
        json.dumps(
            {
                "model": {"engine": "preview", "background": "grabcut"},
                "export": {"glb_texture_size": 512, "glb_decimation_target": 5000},
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, ROOT / "api_server_trellis2.py", "--config", config),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
    )
    try:
        pause = threading.Event()
        for _ in range(1200):
            if is_ok(port):
                break
            assert server.poll() is None, "the server left"
            pause.wait(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        assert server.wait(20) == 0


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Make an opaque photo.jpg, the README's picture on a backdrop, and chair.glb beside it."""
    rocket = Image.open(ROOT / "docs" / "rocket.png").convert("RGBA")
    backdrop = Image.linear_gradient("L").resize(rocket.size)
    picture = Image.merge(
        "RGB", [backdrop.point(lambda v, k=k: 150 + k + v // 5) for k in (9, 5, 0)]
    )
    picture.paste(rocket, mask=rocket.getchannel("A"))
    picture.save(tmp_path / "photo.jpg", quality=92)
    trimesh.creation.box((1, 2, 1)).export(tmp_path / "chair.glb")
    return tmp_path / "photo.jpg"


def run_example(name: str, address: str, folder: Path) -> None:
    """Run an example as it stands, in a folder, against the server at an address."""
    example = block(name).replace("localhost:8082", address)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRELLIS2_SERVER": f"http://{address}"}
    if name.startswith(("curl", "terminal")):
        bash = shutil.which("bash")
        if not (bash and shutil.which("curl")):
            pytest.skip("bash and curl are not installed")
        example = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n{example}'
        command = [bash, "-euo", "pipefail", "-c", example]
    else:
        command = [sys.executable, "-c", example]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=120)


def is_glb(file: Path) -> bool:
    return file.read_bytes()[:4] == b"glTF"


@pytest.mark.costly
@pytest.mark.parametrize("name", ["curl", "python", "client", "client-progress", "client-async"])
def test_the_example_makes_both_models(name: str, address: str, photo: Path) -> None:
    run_example(name, address, photo.parent)
    shape, textured = photo.parent / "shape.glb", photo.parent / "textured.glb"
    assert is_glb(shape)
    assert is_glb(textured)
    assert shape.read_bytes() != textured.read_bytes()


@pytest.mark.parametrize(
    ("name", "file"),
    [("terminal", "photo.glb"), ("curl-raw", "shape.glb"), ("curl-mesh", "textured.glb")],
)
def test_the_example_makes_a_model(name: str, file: str, address: str, photo: Path) -> None:
    run_example(name, address, photo.parent)
    assert is_glb(photo.parent / file)


@pytest.mark.costly
def test_the_example_follows_exports_and_deletes_a_job(address: str, photo: Path) -> None:
    run_example("curl", address, photo.parent)
    headers = (photo.parent / "headers.txt").read_text().lower()
    image_hash = headers.partition("x-image-hash: ")[2].split()[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("hash", image_hash)
        run_example("curl-job", address, photo.parent)
    assert is_glb(photo.parent / "textured.glb")
    assert is_glb(photo.parent / "small.glb")


@pytest.mark.costly
def test_one_picture_is_made_without_http(photo: Path) -> None:
    config = photo.parent / "config.json"
    small = {"glb_texture_size": 256, "glb_decimation_target": 2000}
    config.write_text(json.dumps({"model": {"background": "grabcut"}, "export": small}))
    script = str(ROOT / "api_server_trellis2.py")
    subprocess.run(
        [sys.executable, script, "--config", config, "--image", photo, "--output", "out"],
        cwd=photo.parent,
        check=True,
        timeout=120,
    )
    made = sorted(file.name for file in (photo.parent / "out").iterdir())
    assert made == ["photo_shape.glb", "photo_textured.glb"]
