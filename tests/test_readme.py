from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trellis2_server.parameters import FIELDS
from trellis2_server.settings import Settings

if typing.TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> str:
    """The fenced block after `<!-- name -->`."""
    found = re.search(rf"<!-- {name} -->\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, name
    return found[1]


def bounds(section: type[BaseModel], key: str) -> str:
    field = section.model_fields[key]
    annotation: Any = field.annotation
    parts = (
        typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    )
    words: list[str] = []
    for part in parts:
        if typing.get_origin(part) is typing.Literal:
            words += [str(value) for value in typing.get_args(part)]
        elif part is bool:
            words += ["true", "false"]
        elif part is types.NoneType:
            words.append("null")
    limits = {type(rule).__name__: rule for rule in field.metadata}
    low = limits.get("Ge") or limits.get("Gt")
    high = limits.get("Le")
    if low and high:
        least = getattr(low, "ge", None)
        text = f"{least:,}" if least is not None else f"over {low.gt:,}"
        words.append(f"{text} … {high.le:,}")
    return ", ".join(words)


def settings_table() -> str:
    """What the README's table of settings must be."""
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        section: Any = field.annotation
        for key, setting in section.model_fields.items():
            default = setting.default
            shown = {(): "none", None: "null", False: "false", "": "empty"}.get(default, default)
            if isinstance(shown, tuple):
                shown = ", ".join(shown)
            rows.append(
                f"| `{name}.{key}` | {shown} | {bounds(section, key)} | {setting.description} |"
            )
    return "\n".join(rows)


def test_the_table_of_settings_is_what_the_server_knows() -> None:
    found = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", README, re.DOTALL)
    assert found
    assert found[1] == settings_table()


def test_every_field_of_a_request_is_in_the_readme() -> None:
    for field in FIELDS:
        stage = re.fullmatch(r"(?:ss|shape|tex)_(\w+)", field.name)
        assert f"`{stage[1] if stage else field.name}`" in README


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
    """The server, started as the README says but for its port and smaller textures."""
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
    """An opaque photo.jpg, in a folder of its own: the picture of the README on a backdrop."""
    rocket = Image.open(ROOT / "docs" / "rocket.png").convert("RGBA")
    backdrop = Image.linear_gradient("L").resize(rocket.size)
    picture = Image.merge(
        "RGB", [backdrop.point(lambda v, k=k: 150 + k + v // 5) for k in (9, 5, 0)]
    )
    picture.paste(rocket, mask=rocket.getchannel("A"))
    picture.save(tmp_path / "photo.jpg", quality=92)
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize("language", ["curl", "python", "client"])
def test_the_example_runs_as_it_stands(language: str, address: str, photo: Path) -> None:
    example = block(language).replace("localhost:8082", address)
    if language == "curl":
        bash = shutil.which("bash")
        if not (bash and shutil.which("curl")):
            pytest.skip("bash and curl are not installed")
        command = [bash, "-euo", "pipefail", "-c", example]
    else:
        command = [sys.executable, "-c", example]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=photo.parent, env=environment, check=True, timeout=120)
    for name in ("shape.glb", "textured.glb"):
        assert (photo.parent / name).read_bytes()[:4] == b"glTF"
    assert (photo.parent / "textured.glb").read_bytes() != (photo.parent / "shape.glb").read_bytes()


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
