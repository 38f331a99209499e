"""Files that tools read, by path and by URL, and write."""

from __future__ import annotations

import asyncio
import base64
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.engines import PATIENCE_S
from trellis2_server.client import ClientError, UnreachableError, UsageError
from trellis2_server.mcp import files, remote_files
from trellis2_server.mcp.files import MAX_FILE_BYTES, FileAccess
from trellis2_server.mcp.remote_files import RemoteFiles
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

LIMIT = 1000


class Replies(BaseHTTPRequestHandler):
    """Replies by path: a file of that size, a redirect, or never."""

    released = threading.Event()

    def do_GET(self) -> None:
        kind, _, value = self.path.strip("/").partition("/")
        if kind == "never":
            self.released.wait(PATIENCE_S)
            return
        self.send_response({"size": 200, "redirect": 302}.get(kind, 404))
        if kind == "redirect":
            self.send_header("Location", f"/size/{value}")
        self.end_headers()
        if kind == "size":
            self.wfile.write(b"x" * int(value))

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Replies)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Replies.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(url: str, *, allows_private: bool = True, timeout_s: float = 20) -> bytes:
    remote = RemoteFiles(allows_private=allows_private, timeout_s=timeout_s)
    return asyncio.run(remote.fetch("image", url, LIMIT))


def test_a_file_up_to_the_limit_is_fetched_and_a_larger_one_is_not(address: str) -> None:
    assert fetch(f"{address}/size/{LIMIT}") == b"x" * LIMIT
    assert fetch(f"{address}/size/0") == b""
    with pytest.raises(UsageError, match="over the limit of 1000 bytes"):
        fetch(f"{address}/size/{LIMIT + 1}")


def test_redirects_errors_and_silence_are_errors(address: str) -> None:
    with pytest.raises(UsageError, match="sends to another address"):
        fetch(f"{address}/redirect/10")
    with pytest.raises(UsageError, match="answers 404"):
        fetch(f"{address}/nothing")
    with pytest.raises(UnreachableError, match="does not answer"):
        fetch(f"{address}/never", timeout_s=0.2)
    with pytest.raises(UnreachableError, match="there is no host"):
        fetch("http://nothing.invalid/a.png")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:8.8.8.8]/",
        "http://[2002:808:808::]/",
        "http://100.64.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://0.0.0.0/",
    ],
)
def test_addresses_of_private_networks_are_refused(url: str) -> None:
    with pytest.raises((UsageError, UnreachableError), match=r"private network|there is no host"):
        asyncio.run(RemoteFiles().fetch("image", url, LIMIT))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://", "not a URL"),
        ("http://a:0/", "not a URL"),
        ("http://a:70000/", "not a URL"),
        ("http://[::1/", "not a URL"),
        ("http://user:word@a.example/", "must not have a user"),
        ("http://a.example/\n", "not a URL"),
    ],
)
def test_what_is_no_url_is_refused(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        fetch(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://a.example/b.png", ("http://203.0.113.1/b.png", "a.example")),
        ("https://a.example/b.png", ("https://203.0.113.1/b.png", "a.example")),
        ("https://a.example:80/b.png#c", ("https://203.0.113.1:80/b.png", "a.example:80")),
    ],
)
def test_a_url_without_a_port_has_that_of_its_scheme(
    url: str, expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append((str(request.url), request.headers["Host"]))
        return httpx.Response(200, stream=httpx.ByteStream(b"content"))

    client = partial(httpx.AsyncClient, transport=httpx.MockTransport(reply))
    monkeypatch.setattr(remote_files.httpx, "AsyncClient", client)
    address = ip_address("203.0.113.1")
    downloaded = remote_files._download("image", urlsplit(url), address, LIMIT)
    assert asyncio.run(downloaded) == b"content"
    assert asked == [expected]


# ---- paths and base64 ----------------------------------------------------------------------------


def access(**changes: Any) -> FileAccess:
    allowed: dict[str, Any] = {"reads_all": True, "folder": None, "output": None}
    return FileAccess(RemoteFiles(), **{**allowed, **changes})


def read(source: str, **changes: Any) -> bytes:
    return asyncio.run(access(**changes).read("image", source))


@pytest.mark.parametrize("length", [48, 254, 255, 256])
def test_base64_is_decoded_in_every_alphabet_and_with_lines(length: int) -> None:
    content = bytes(range(256))[-length:]
    for text in (base64.b64encode(content), base64.urlsafe_b64encode(content).rstrip(b"=")):
        assert read(text.decode()) == content
        assert read(f"data:image/png;base64,{text.decode()}") == content
    assert read(base64.encodebytes(content).decode()) == content
    with pytest.raises(UsageError, match="not base64"):
        read("data:image/png;base64,!")


def test_short_base64_is_a_path(tmp_path: Path) -> None:
    name = "a" * 63
    (tmp_path / name).write_bytes(b"content")
    assert read(name, folder=tmp_path) == b"content"
    with pytest.raises(UsageError, match="No such file"):
        read("b" * 63, folder=tmp_path)


def test_the_largest_file_is_the_largest_that_a_server_takes_as_base64() -> None:
    assert Settings().server.max_body_bytes // 4 * 3 == MAX_FILE_BYTES


def test_base64_over_the_limit_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 300)
    assert read(base64.b64encode(bytes(300)).decode()) == bytes(300)
    with pytest.raises(UsageError, match="over the limit of 300 bytes"):
        read(base64.b64encode(bytes(303)).decode())


def test_paths_are_read_where_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    assert read(str(tmp_path / "a.png")) == b"content"
    assert read("a.png", folder=tmp_path, reads_all=False) == b"content"
    with pytest.raises(UsageError, match="reads no files"):
        read(str(tmp_path / "a.png"), reads_all=False)
    with pytest.raises(UsageError, match="only files inside of"):
        read(str(tmp_path / "a.png"), folder=tmp_path / "b", reads_all=False)
    with pytest.raises(UsageError, match="is no file"):
        read(str(tmp_path))
    long = tmp_path / ("folder" * 20)
    with pytest.raises(UsageError, match="No such file"):
        read(str(long / "a"))
    long.mkdir()
    with pytest.raises(UsageError, match="is no file"):
        read(str(long))
    jpeg = b"\xff\xd8\xff" + bytes(100)
    assert read(base64.b64encode(jpeg).decode()) == jpeg
    for wrong in ("none.png", "~" * 5000, "a\0b"):
        with pytest.raises(UsageError, match=r"^image: "):
            read(wrong)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(UsageError, match="over the limit"):
        read(str(path))


def test_no_more_files_of_a_name_are_written_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_MAX_VERSIONS", 3)
    writer = access(output=tmp_path)
    for _ in range(3):
        writer.write("cup", "glb", b"x")
    with pytest.raises(ClientError, match="has 3 files of that name"):
        writer.write("cup", "glb", b"x")
    assert len(list(tmp_path.iterdir())) == 3


def test_files_are_written_beside_each_other(tmp_path: Path) -> None:
    writer = access(output=tmp_path)
    names = [writer.write("cup 1.2", "glb", b"x").name for _ in range(3)]
    assert names == ["cup 1.2.glb", "cup 1.2-2.glb", "cup 1.2-3.glb"]
    with pytest.raises(UsageError, match="without --output"):
        access().write("cup", "glb", b"x")
    for wrong in ("", "a/b", "..", ".a", "a.", "a ", "a\\b", "a\n", "x" * 101):
        with pytest.raises(UsageError, match=r"^name: "):
            writer.write(wrong, "glb", b"x")
    assert writer.write("x" * 100, "glb", b"x").exists()
    with pytest.raises(ClientError, match="cannot be written"):
        access(output=tmp_path / "none").write("cup", "glb", b"x")
