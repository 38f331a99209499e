"""Stand-ins for the packages `rembg` and `onnxruntime`, and a server for their model's file.

And what tests need of the real ones.

The stand-in resolves, checks and downloads its model as versions of rembg do: "old" as 2.0.60,
"new" as 2.0.86. Its model finds what is not grey.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

needs_opencv = pytest.mark.skipif(
    not importlib.util.find_spec("cv2"), reason="OpenCV is not installed"
)
#: The stand-in downloads with it, too.
needs_pooch = pytest.mark.skipif(
    not importlib.util.find_spec("pooch"), reason="rembg is not installed"
)

#: Name of the model.
NAME = "stand-in"
#: Content of its file.
MODEL = b"model" + bytes(range(256)) * 1000

_SESSIONS = """
import os
import numpy as np
import pooch
from PIL import Image


class InvalidProtobuf(Exception):
    pass


class Base:
    def __init__(self, model_name, sess_opts, *args, **kwargs):
        with open(type(self).download_models(*args, **kwargs), "rb") as file:
            if not file.read().startswith(b"model"):
                raise InvalidProtobuf("no model")

    def predict(self, img, *args, **kwargs):
        red, green, blue = np.moveaxis(np.asarray(img).astype(int), 2, 0)
        mask = ((abs(red - green) > 15) | (abs(green - blue) > 15)).astype(np.uint8) * 255
        half = mask.copy()
        half[: len(half) // 2] = 0
        return [Image.fromarray(half), Image.fromarray(mask - half)]

    @classmethod
    def checksum_disabled(cls):
        return os.getenv("MODEL_CHECKSUM_DISABLED") is not None

    @classmethod
    def u2net_home(cls):
        return os.environ["U2NET_HOME"]

    @classmethod
    def known_hash(cls):
        return None if cls.checksum_disabled() else {known_hash!r}

    @classmethod
    def name(cls):
        return {name!r}


class Old(Base):
    @classmethod
    def download_models(cls, *args, **kwargs):
        fname = f"{{cls.name()}}.onnx"
        pooch.retrieve(
            {url!r}, cls.known_hash(), fname=fname, path=cls.u2net_home(), progressbar=True
        )
        return os.path.join(cls.u2net_home(), fname)


class New(Base):
    @classmethod
    def is_local(cls):
        return True

    @classmethod
    def model_dir(cls):
        return os.path.join(cls.u2net_home(), "models", cls.name())

    @classmethod
    def resolve_existing(cls, fname):
        for folder in (cls.model_dir(), cls.u2net_home()):
            if os.path.exists(os.path.join(folder, fname)):
                return os.path.join(folder, fname)
        return None

    @classmethod
    def download_models(cls, *args, **kwargs):
        fname = f"{{cls.name()}}.onnx"
        existing = cls.resolve_existing(fname)
        if existing is not None:
            return existing
        pooch.retrieve(
            {url!r}, cls.known_hash(), fname=fname, path=cls.model_dir(), progressbar=True
        )
        return os.path.join(cls.model_dir(), fname)


class Elsewhere(Base):
    @classmethod
    def is_local(cls):
        return False

    @classmethod
    def name(cls):
        return "elsewhere"


print("a library that prints")
sessions_class = [{version}, Elsewhere]
"""
_ONNXRUNTIME = """
class SessionOptions:
    def add_session_config_entry(self, name, value):
        pass
"""


class Origin:
    """Where the model is downloaded from.

    Attributes:
        content: what it sends.
        status: status of its replies.
        cut_at: bytes after which it closes the connection; None: it sends everything.
        downloads: number of requests.
        reached: set by each request.
        may_end: the second half of a reply comes slowly until this is set.
    """

    def __init__(self) -> None:
        self.content = MODEL
        self.status = 200
        self.cut_at: int | None = None
        self.downloads = 0
        self.reached = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()
        self.port = 0


@contextmanager
def stand_in_packages(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: Literal["old", "new"] = "new",
    *,
    has_hash: bool = True,
) -> Generator[Origin]:
    """Let processes that are started find the stand-ins, and models in `folder/home`."""
    origin = Origin()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            origin.downloads += 1
            self.send_response(origin.status)
            self.send_header("Content-Length", str(len(origin.content)))
            self.end_headers()
            if origin.cut_at is not None:
                self.wfile.write(origin.content[: origin.cut_at])
                self.close_connection = True
                return
            half = len(origin.content) // 2
            self.wfile.write(origin.content[:half])
            origin.reached.set()
            # Byte by byte, so that the download does not end by itself.
            while not origin.may_end.wait(0.5):
                self.wfile.write(origin.content[half : half + 1])
                half += 1
            self.wfile.write(origin.content[half:])

        def log_message(self, *_: Any) -> None: ...

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:  # the process was killed
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = hashlib.md5(MODEL, usedforsecurity=False).hexdigest()
    origin.port = server.server_address[1]
    packages = folder / "packages"
    (packages / "rembg" / "sessions").mkdir(parents=True)
    (packages / "rembg" / "__init__.py").touch()
    (packages / "rembg" / "sessions" / "__init__.py").write_text(
        _SESSIONS.format(
            url=f"http://127.0.0.1:{origin.port}/model.onnx",
            known_hash=f"md5:{digest}" if has_hash else None,
            name=NAME,
            version=version.capitalize(),
        )
    )
    (packages / "onnxruntime").mkdir()
    (packages / "onnxruntime" / "__init__.py").write_text(_ONNXRUNTIME)
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("U2NET_HOME", str(folder / "home"))
    monkeypatch.delenv("MODEL_CHECKSUM_DISABLED", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield origin
    finally:
        origin.may_end.set()
        server.shutdown()
        server.server_close()


def model_path(folder: Path, version: Literal["old", "new"] = "new") -> Path:
    """Where that version of rembg puts the model's file."""
    home = folder / "home"
    return (home if version == "old" else home / "models" / NAME) / f"{NAME}.onnx"


def model_home() -> Path:
    """The folder of a real model; skips the test if there is none."""
    home = Path(os.environ.get("U2NET_HOME", ""))
    if not (home / "isnet-general-use.onnx").is_file():
        pytest.skip("U2NET_HOME has no isnet-general-use.onnx")
    pytest.importorskip("onnxruntime")
    if not importlib.util.find_spec("rembg"):
        pytest.skip("rembg is not installed")
    return home
