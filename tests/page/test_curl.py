"""The curl command that the page shows, run by a real shell and a real curl."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Generator

PROGRAMS = ("curl", "node", "sh")
MISSING = [program for program in PROGRAMS if shutil.which(program) is None]
SCRIPT = Path(__file__).resolve().parents[2] / "trellis2_server" / "page" / "curl.js"
NODE = f"""
const {{ curlCommand, stemOf }} = await import({json.dumps(SCRIPT.as_uri())});
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const [pictures, fields, server] = JSON.parse(Buffer.concat(chunks).toString());
server.name = stemOf(pictures[0][1]);
process.stdout.write(curlCommand(pictures, fields, server));
"""
#: What shells, curl and multipart bodies treat specially, and other scripts.
CHARACTERS = "ab.,;:'\"\\ $`!#&|<>()[]{}*?=@%+-^~\t\né日😀"

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


class Received:
    """The parts of the bodies that the server has received."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.key: str | None = None
        self.url = ""


@contextmanager
def receiving() -> Generator[Received]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            boundary = self.headers["Content-Type"].partition("boundary=")[2].encode()
            received.key = self.headers["X-API-Key"]
            for part in body.split(b"--" + boundary)[1:-1]:
                head, _, content = part.partition(b"\r\n\r\n")
                name = re.findall(rb'form-data; name="(\w+)"', head)[0].decode()
                received.parts[name] = content.removesuffix(b"\r\n")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"the model")

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    received.url = f"http://127.0.0.1:{server.server_port}/generate"
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def received() -> Generator[Received]:
    with receiving() as each:
        yield each


def command(name: str, fields: dict[str, Any], url: str, *, has_key: bool) -> str:
    given = json.dumps([[["image", name]], fields, {"url": url, "hasKey": has_key}])
    done = subprocess.run(
        ["node", "--input-type=module", "-e", NODE],
        input=given.encode(), capture_output=True, check=True,
    )  # fmt: skip
    return done.stdout.decode()


def run(line: str, folder: Path) -> None:
    done = subprocess.run(
        ["sh", "-ec", line], cwd=folder, capture_output=True, check=False,
        stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "TRELLIS2_API_KEY": "k y"},
    )  # fmt: skip
    assert done.returncode == 0, (line, done.stderr)


names = (
    st.text(CHARACTERS, min_size=1, max_size=12)
    .map(lambda text: text + ".png")
    .filter(lambda name: "\x00" not in name)
)


@pytest.mark.costly
@given(names)
@example("na,me.png")
@example("na;type=text.png")
@example('a "quoted" name.png')
@example("it's $HOME `id`.png")
@example("back\\slash\\.png")
@example("\\")
@example("-")
@example(" <@-.png")
@example("日本 😀.png")
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_picture_of_any_name_is_sent_and_its_model_saved(received: Received, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        picture, model = Path(folder) / name, Path(folder) / model_name(name)
        picture.write_bytes(name.encode() + b"\x00\xff")
        received.parts.clear()
        run(command(name, {"seed": 7, "texture": True}, received.url, has_key=False), Path(folder))
        assert received.parts == {
            "image": name.encode() + b"\x00\xff", "seed": b"7", "texture": b"true",
        }  # fmt: skip
        assert model.read_bytes() == b"the model"
        assert sorted(Path(folder).iterdir()) == sorted([picture, model])


def model_name(name: str) -> str:
    stem, dot, _ = name.rpartition(".")
    return ((stem if dot else name) or "model") + ".glb"


@given(st.text(CHARACTERS, max_size=12))
@example(";type=text/plain")
@example("@/etc/passwd")
@example("</etc/passwd")
@example('"')
@example(" ")
@example(": ")
@hypothesis_settings(max_examples=10, deadline=None)
def test_a_value_is_sent_as_it_is(received: Received, value: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "toy.png").write_bytes(b"png")
        fields = {"field": value, "interval": [0.1, 0.8], "left_out": None}
        received.parts.clear()
        run(command("toy.png", fields, received.url, has_key=True), Path(folder))
        assert received.parts == {"image": b"png", "field": value.encode(), "interval": b"0.1,0.8"}
        assert received.key == "k y"
