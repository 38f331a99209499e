"""Groups of `bench/same.py` that are about requests: routes, bodies, fields, keys, limits."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from bench import same_files
from bench.same_models import SMALL, encoded, fields
from bench.same_server import HOST, PATIENCE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from bench.same_server import Server, Side

NO_UID: Final = "00000000-0000-4000-8000-000000000000"
NO_HASH: Final = "0123456789abcdef0123456789abcdef"
PATHS: Final = (
    "/generate", "/generate_texture", "/send", "/status/test", "/status/nobody",
    f"/status/{NO_UID}", f"/status/{NO_HASH}", "/health", "/healthcheck", "/worker_status",
    "/jobs", "/jobs/nobody", f"/jobs/{NO_UID}", "/jobs/nobody/shape.glb", "/jobs/nobody/export",
    "/events/nobody", "/nothing", "/generate/", "/jobs/", "/status", "/events", "//generate",
    "/Generate", "/status/%00", "/status/a%2Fb", "/jobs/%C3%A9",
)  # fmt: skip
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "WRONG")


def routes(side: Side) -> None:
    """Every route with every method, as it is and under /api; CORS; request ids; raw HTTP."""
    with side.serving("routes") as server:
        for path in PATHS:
            for prefix in ("", "/api", "/api/api"):
                for method in METHODS if prefix != "/api/api" else ("GET", "POST"):
                    server.ask(f"{method} {prefix}{path}", method, prefix + path)
        for path in ("/docs", "/redoc", "/docs/oauth2-redirect", "/page/nothing", "/page/",
                     "/page/..%2fapp.py", "/metrics/", "/api/", "/api/page/options"):  # fmt: skip
            server.ask(f"GET {path}", "GET", path)
        for method in ("HEAD", "POST", "DELETE"):
            for path in ("/", "/page/options", "/metrics", "/openapi.json", "/docs"):
                server.ask(f"{method} {path}", method, path)
        for given in ("mine-1", "x" * 128, "x" * 300, "a b", "a\tb", "_.:-", "ä".encode()):
            headers = {"X-Request-Id": given}
            server.ask(f"request id {len(given)} {given!r:.30}", "GET", "/nothing", headers=headers)
        _cors(server)
        for label, data in RAW.items():
            side.note(f"raw: {label}", _raw(server, data))


def _cors(server: Server) -> None:
    server.ask("origin", "GET", "/health", headers={"Origin": "https://a.example"})
    server.ask("origin, refused", "GET", "/jobs/x", headers={"Origin": "https://a.example"})
    for method in ("GET", "POST", "DELETE", "PUT"):
        for asked in ("Content-Type", "X-API-Key, Authorization, Range", "X-Other", ""):
            headers = {
                "Origin": "https://a.example",
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": asked,
            }
            server.ask(f"preflight {method} {asked}", "OPTIONS", "/generate", headers=headers)


_ONE: Final = b"Host: a\r\nConnection: close\r\n"
RAW: Final[dict[str, bytes]] = {
    "no HTTP": b"hello there\r\n\r\n",
    "HTTP/1.0": b"GET /health HTTP/1.0\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    "long head": b"GET /health HTTP/1.1\r\n" + _ONE + b"X: " + b"x" * 40_000 + b"\r\n\r\n",
    "bad header": b"GET /health HTTP/1.1\r\n" + _ONE + b"a b: c\r\n\r\n",
    "bad length": b"POST /generate HTTP/1.1\r\n" + _ONE + b"Content-Length: x\r\n\r\n",
    "bad chunk": b"POST /send HTTP/1.1\r\n" + _ONE + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    "upgrade": b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\n"
    b"Upgrade: websocket\r\n\r\n",
    "whole address": b"GET http://a/health HTTP/1.1\r\n" + _ONE + b"\r\n",
    "declared too large": b"POST /generate HTTP/1.1\r\n"
    + _ONE
    + b"Content-Length: 9999999\r\n\r\n",
}


def _raw(server: Server, data: bytes) -> str:
    """What comes back until the connection is closed; without what differs by nature."""
    with socket.create_connection((HOST, server.port), timeout=PATIENCE_S) as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65_536):
                received += part
        except ConnectionResetError:
            pass
    lines = received.decode("latin-1").split("\r\n")
    unlike = ("date:", "x-request-id:")
    return "\n".join(
        line.split(":")[0] if line.lower().startswith(unlike) else line for line in lines
    )


# ---- bodies --------------------------------------------------------------------------------


def _chunks(content: bytes) -> Generator[bytes]:
    for start in range(0, len(content), 50_000):
        yield content[start : start + 50_000]


def _json_bodies() -> dict[str, bytes]:
    good = json.dumps(fields(1))
    noise = np.random.default_rng(1).integers(0, 255, (300, 300, 4), np.uint8)
    noise[..., 3] = np.where(noise[..., 3] > 250, 0, 255)
    long = encoded(same_files.saved(Image.fromarray(noise)))
    small = json.dumps(SMALL)[1:]
    return {
        "empty": b"", "white space": b" \n", "open": b"{", "list": b"[]", "null": b"null",
        "number": b"1", "text": b"hello", "not UTF-8": b'{"a": "\xff"}', "BOM": b"\xef\xbb\xbf{}",
        "deep": b'{"a":' + b"[" * 100_000, "trailing": good.encode() + b" x",
        "long number": b'{"seed": ' + b"9" * 5000 + b"}", "NaN": b'{"seed": NaN}',
        "nothing": b"{}", "twice": b'{"seed": 1, "seed": 2}', "single quotes": b"{'a': 1}",
        "good": good.encode(), "UTF-16": good.encode("utf-16"),
        "long": f'{{"image": "{long}", {small}'.encode(),
        "long, escaped": f'{{"image": "{long}", {small}'.replace("/", "\\/").encode(),
        "long, \\u": f'{{"image": "{long.replace("A", chr(92) + "u0041")}", {small}'.encode(),
        "long, cut short": f'{{"image": "{long}'.encode(),
        "long, broken": f'{{"image": "{long[:90_000]}!{long[90_000:]}", {small}'.encode(),
        "long, prefix": f'{{"image": "data:image/png;base64,{long}", {small}'.encode(),
        "long, no picture": f'{{"image": "{"AAAA" * 30_000}", {small}'.encode(),
        "long, twice": f'{{"image": "x", "image": "{long}", {small}'.encode(),
        "long elsewhere": f'{{"other": "{long}", {good[1:]}'.encode(),
        "long, nested": f'{{"a": {{"image": "{long}"}}, {small}'.encode(),
    }  # fmt: skip


def bodies(side: Side) -> None:
    """Bodies of every form, whole and broken."""
    picture = same_files.picture(1)
    text = encoded(picture)
    with side.serving("bodies") as server:
        json_type = {"Content-Type": "application/json"}
        for label, content in _json_bodies().items():
            server.ask(label, "POST", "/generate", content=content, headers=json_type)
            server.ask(f"{label}: chunked", "POST", "/send", content=_chunks(content))
        good = json.dumps(fields(1)).encode()
        for kind in (
            "text/plain", "application/x-www-form-urlencoded", "application/xml", "image/png",
            "image/anything", "application/octet-stream", "multipart/form-data",
            "multipart/form-data; boundary=x", "APPLICATION/JSON; charset=latin-1", "",
        ):  # fmt: skip
            for what, content in (("JSON", good), ("picture", picture), ("nothing", b"")):
                server.ask(
                    f"{what} as {kind}", "POST", "/generate?seed=3&texture_size=256",
                    content=content, headers={"Content-Type": kind},
                )  # fmt: skip
        server.ask("urlencoded", "POST", "/generate", data={"image": text, "seed": "3"})
        for number, value in enumerate((
            1, True, [], {}, "", " ", "!!!!", "é", "data:image/png;base64,", "data:image/png,AA",
            "data:" + text, f"data:image/png;base64,{text}", text.rstrip("="), text + "====",
            text.replace("+", "-").replace("/", "_"), "\n".join(text), "AAAA", "A", None,
        )):  # fmt: skip
            for name in ("image", "mesh"):
                body = {**fields(2), name: value}
                server.ask(f"{name} {number}", "POST", "/generate", json=body)
                server.ask(f"{name} {number}: sent", "POST", "/send", json=body)
        _forms(server, picture)
        for body in (
            {}, {"image_hash": 1}, {"image_hash": ""}, {"image_hash": NO_HASH}, {"uid": NO_UID},
            {"uid": []}, {"uid": None, "image_hash": None}, {"image": encoded(b"x")},
            {"image": text, "remove_background": False}, {"text": "a chair"}, fields(77),
        ):  # fmt: skip
            server.ask(f"texture of {body!s:.60}", "POST", "/generate_texture", json=body)
        for label, body in (
            ("text alone", {"text": "a chair"}), ("text null", {"text": None}),
            ("text and image", fields(3, text="a chair")),
            ("text and mesh", {"text": "", "mesh": text}),
        ):  # fmt: skip
            server.ask(label, "POST", "/generate", json=body)
        for size in (3_999_000, 4_000_001):
            content = b'{"image": "' + b"A" * (size - 13) + b'"}'
            server.ask(f"{size} bytes", "POST", "/generate", content=content)
            server.ask(f"{size} bytes, chunked", "POST", "/generate", content=_chunks(content))
        server.ask("random", "POST", "/generate", json=fields(4, seed=-1), body=False)


def _forms(server: Server, picture: bytes) -> None:
    files: dict[str, Any] = {
        "file": [("image", ("a.png", picture, "image/png"))],
        "file without a name": [("image", ("", picture))],
        "empty file": [("image", ("a.png", b""))],
        "text instead": [("image", (None, encoded(picture)))],
        "other file": [("image", ("a.png", picture)), ("seed", ("s.txt", b"5"))],
        "three files": [("image", ("a.png", picture))] * 3,
        "two pictures": [("image", ("a.png", b"no")), ("image", ("b.png", picture))],
        "mesh": [("image", ("a.png", picture)), ("mesh", ("m.stl", same_files.stl()))],
        "many fields": [(f"f{n}", (None, "1")) for n in range(201)],
        "large": [("image", ("a.png", bytes(4_100_000)))],
    }
    data = {name: str(value) for name, value in SMALL.items()}
    for label, parts in files.items():
        for path in ("/generate", "/api/send"):
            how = {"files": parts, "data": data if label != "many fields" else {}}
            server.ask(f"form, {label}: {path}", "POST", path, **how)
    for label, content in (
        ("cut short", b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc'),
        ("no name", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"),
        ("charset", b'--x\r\nContent-Disposition: form-data; name="seed"\r\n\r\n\xff\r\n--x--\r\n'),
        ("unknown charset",
         b'--x\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\nno\r\n--x--\r\n'),
    ):  # fmt: skip
        headers = {"Content-Type": "multipart/form-data; boundary=x; charset=nothing"}
        server.ask(f"form, {label}", "POST", "/generate", content=content, headers=headers)


# ---- keys and limits -----------------------------------------------------------------------


def keys(side: Side) -> None:
    """What is open with API keys, what is not, whose jobs are seen; origins; a path prefix."""
    file = side.folder / "keys.txt"
    file.write_text("# two more\nthird-key\n\n  fourth-key  \n", encoding="utf-8")
    file.chmod(0o600)
    secured = {"api_keys": ["first-key", "second-key"], "api_keys_file": str(file)}
    one, two = {"X-API-Key": "first-key"}, {"Authorization": "Bearer second-key"}
    environment = {"TRELLIS2_SERVER_API_KEYS": "fifth-key, sixth-key"}
    with side.serving("keys", server=secured, environment=environment) as server:
        for path in (*PATHS, "/", "/docs", "/metrics", "/openapi.json", "/page/options"):
            for method in ("GET", "POST", "OPTIONS"):
                server.ask(f"{method} {path}", method, path)
        for headers in (
            one, two, {"X-API-Key": "third-key"}, {"x-api-key": "fourth-key"},
            {"X-API-Key": "fifth-key"}, {"Authorization": "bearer sixth-key"},
            {"Authorization": "Basic first-key"}, {"Authorization": "first-key"},
            {"X-API-Key": "wrong"}, {"X-API-Key": "FIRST-KEY"}, {"X-API-Key": "first key"},
            {"X-API-Key": "first-key", "Authorization": "Bearer wrong"}, {"X-API-Key": ""},
            {"Authorization": "Bearer  first-key"}, {"X-API-Key": "é".encode("latin-1")},
        ):  # fmt: skip
            for path in ("/jobs", "/healthcheck", "/api/worker_status"):
                server.ask(f"{path} with {headers}", "GET", path, headers=headers)
        made = server.ask("made", "POST", "/generate", json=fields(1, texture=True), headers=one)
        uid, image_hash = made.headers["x-job-id"], made.headers["x-image-hash"]
        server.exportable(uid, headers=one)
        for who, headers in (("owner", one), ("other", two), ("nobody", {})):
            for path in ("", "/shape.glb", "/textured.obj"):
                server.ask(f"{who}: job{path}", "GET", f"/jobs/{uid}{path}", headers=headers)
            for path in (f"/status/{uid}", f"/status/{image_hash}", f"/events/{uid}", "/jobs"):
                label = f"{who}: {side.normal(path)}"
                server.ask(label, "GET", path, headers=headers)
            server.ask(f"{who}: export", "POST", f"/jobs/{uid}/export", headers=headers)
            body = {"image_hash": image_hash}
            server.ask(f"{who}: texture", "POST", "/generate_texture", json=body, headers=headers)
            if who != "owner":
                server.ask(f"{who}: delete", "DELETE", f"/jobs/{uid}", headers=headers)
        _cors(server)
        server.ask("other's own", "POST", "/generate", json=fields(1), headers=two)
    more = {"cors_origins": ["https://a.example"], "root_path": "/models"}
    with side.serving("origins", server={**more, "api_keys": ["first-key"]}) as server:
        _cors(server)
        headers = {**one, "Origin": "https://b.example"}
        server.ask("other origin", "GET", "/jobs", headers=headers)
        for path in (
            "/models/health",
            "/models/",
            "/models/page/options",
            "/models/jobs",
            "/health",
        ):
            server.ask(f"prefix {path}", "GET", path)
        server.ask("prefix docs", "GET", "/models/docs", headers=one)


def limits(side: Side) -> None:
    """429, 503 of a full queue, 408, 409, slow bodies; a model that cannot be loaded yet."""
    paced = {"rate_per_minute": 3, "transfer_timeout_seconds": 1}
    with side.serving("rate", server=paced) as server:
        for client in ("192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "::ffff:192.0.2.1"):
            headers = {"X-Forwarded-For": client}
            for number in range(4):
                server.ask(f"{client} {number}", "POST", "/send", json={}, headers=headers)
            server.ask(f"{client} GET", "GET", "/jobs", headers=headers)
        head = b"POST /send HTTP/1.1\r\n" + _ONE + b"Content-Length: 100\r\n\r\nabc"
        side.note("slow body", _raw(server, head))
        side.note("slow head", _raw(server, head[:30]))
    worker = {"limit_model_concurrency": 1, "max_queue_length": 2, "max_jobs_per_client": 2,
              "texture_timeout_seconds": 0.01, "max_waiting_bytes": 65_536}  # fmt: skip
    with side.serving("queue", worker=worker) as server:
        _queue(server)
    empty = side.folder / "numba"
    environment = {"NUMBA_CACHE_DIR": str(empty)}
    with side.serving("loading", ready=False, environment=environment) as server:
        health = server.client.get("/healthcheck")
        says = {name for name in health.json() if name not in {"stage", "progress"}}
        side.note_json("loading: health", [health.status_code, sorted(says)])
        for path in ("/generate", "/send", "/generate_texture", "/jobs/nobody/export"):
            server.ask(f"loading: {path}", "POST", path, json=fields(1))
        for path in ("/health", "/worker_status", "/status/test", "/jobs", f"/status/{NO_HASH}"):
            server.ask(f"loading: {path}", "GET", path)


def _queue(server: Server) -> None:
    """Fill the queue behind a job that takes seconds."""
    a, b = ({"X-Forwarded-For": f"192.0.2.{n}"} for n in (1, 2))
    slow = {
        "image": encoded(same_files.picture(1, 1024)), "texture": True, "seed": 1,
        "texture_size": 4096, "decimation_target": 400_000, "remesh": True,
    }  # fmt: skip
    ask = server.ask
    with ThreadPoolExecutor(1) as executor:
        waiter = executor.submit(
            server.client.post, "/generate", json=slow, headers=a, timeout=PATIENCE_S
        )
        until(lambda: server.client.get("/worker_status").json()["queue_length"] == 1, "one job")
        running = server.client.get("/jobs").json()["jobs"][0]["uid"]
        until(lambda: server.client.get(f"/jobs/{running}").json()["files"], "a job that runs")
        waiting = ask("waits", "POST", "/send", json=fields(2), headers=a).json()["uid"]
        ask("too many of one client", "POST", "/send", json=fields(3), headers=a)
        ask("known, of one client", "POST", "/send", json=fields(2), headers=a)
        large = same_files.saved(Image.fromarray(
            np.random.default_rng(2).integers(0, 255, (160, 160, 4), np.uint8)))  # fmt: skip
        body = {"image": encoded(large), **SMALL}
        ask("too many bytes", "POST", "/send", json=body, headers=b)
        ask("waits too", "POST", "/send", json=fields(4), headers=b)
        for path in ("/send", "/generate"):
            ask(f"full: {path}", "POST", path, json=fields(5), headers={})
        ask("busy", "GET", "/worker_status")
        job = server.client.get(f"/jobs/{waiting}").json()
        server.side.note_json("second", [job["status"], job["queue_position"], job["files"]])
        ask("texture not in time", "POST", "/generate_texture", json={"uid": waiting})
        ask("export of what is not there", "POST", f"/jobs/{waiting}/export")
        ask("file of what is not there", "GET", f"/jobs/{waiting}/shape.glb")
        ask("wanted by another too", "POST", "/send", json=fields(2), headers=b)
        for label, headers in (("another gives it up", b), ("its own gives it up", a)):
            ask(label, "DELETE", f"/jobs/{waiting}", headers=headers)
            ask(f"{label}: status", "GET", f"/status/{waiting}")
        ask("cancelled while it runs", "DELETE", f"/jobs/{running}", headers=a)
        server.side.note_reply("cancelled while somebody waits", waiter.result())
    job = server.finished(running)
    server.side.note_json("cancelled", [job["status"], job["error"]])
    server.ask("cancelled: status", "GET", f"/status/{running}")
    server.ask("cancelled: texture", "POST", "/generate_texture", json={"uid": running})
    server.ask("cancelled: export", "POST", f"/jobs/{running}/export")


GROUPS: Final[dict[str, Callable[[Side], None]]] = {
    "routes": routes,
    "bodies": bodies,
    "keys": keys,
    "limits": limits,
}
