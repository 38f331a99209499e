"""Kill the server under load, again and again; count what clients lose.

    python bench/kills.py --kills 200 [--json FILE]

Clients generate models, with and without textures, send jobs and ask for their status, follow
events, get files and delete jobs. They note everything that they receive: the bytes of each file,
each job that is said to be completed, each deletion that is confirmed. At a random moment, the
process gets SIGKILL. The next one must serve all of it:

- `lost_files`: a file that a client had received is not served with the same bytes;
- `lost_completions`: a job that was said to be completed is not;
- `returned`: a job whose deletion was confirmed is served again.

All three must be 0.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.record import Record, add_option  # noqa: E402 - after the path is set
from bench.server import HOST, Server, draw_picture, png  # noqa: E402

CLIENTS: Final = 6
PICTURES: Final = [base64.b64encode(png(draw_picture(k, 64))).decode() for k in range(8)]


class Promises:
    """What clients have received. Thread-safe by the interpreter's lock.

    Attributes:
        files: SHA-256 of each received file, by job and name.
        completed: jobs that were said to be completed.
        deleted: jobs whose deletion was confirmed.
        touched: jobs whose deletion was requested: whether they are there is not known.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], str] = {}
        self.completed: set[str] = set()
        self.deleted: set[str] = set()
        self.touched: set[str] = set()


class Client:
    """Sends requests until the server is gone."""

    def __init__(self, port: int, seed: int, promises: Promises) -> None:
        self.port = port
        self.random = random.Random(seed)  # noqa: S311 - no secret
        self.promises = promises
        self.requests = 0

    def request(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        self.requests += 1
        return connection.getresponse()

    def run(self) -> None:
        kinds = (self.generate, self.send, self.send, self.follow, self.get, self.delete)
        with contextlib.suppress(OSError, http.client.HTTPException):
            while True:
                self.random.choice(kinds)()

    def fields(self, **more: Any) -> dict[str, Any]:
        picture, seed = self.random.choice(PICTURES), self.random.randrange(10**6)
        return {
            "image": picture,
            "seed": seed,
            "texture_size": 256,
            "decimation_target": 1000,
        } | more

    def generate(self) -> None:
        texture = self.random.random() < 0.5
        reply = self.request("POST", "/generate", self.fields(texture=texture))
        content = reply.read()
        if reply.status == 200:
            name = "textured.glb" if texture else "shape.glb"
            self.note_file(reply.headers["X-Job-Id"], name, content)

    def note_file(self, uid: str, name: str, content: bytes) -> None:
        self.promises.files[uid, name] = hashlib.sha256(content).hexdigest()

    def send(self) -> None:
        reply = self.request("POST", "/send", self.fields(texture=True))
        if reply.status != 200:
            return
        uid = json.loads(reply.read())["uid"]
        pause = threading.Event()
        for _ in range(200):
            job = json.loads(self.request("GET", f"/jobs/{uid}").read())
            if job.get("status") == "completed":
                self.promises.completed.add(job["uid"])
            if job.get("status") in {"completed", "error", None}:
                break
            pause.wait(0.01)

    def follow(self) -> None:
        reply = self.request("POST", "/send", self.fields(texture=False))
        if reply.status != 200:
            return
        events = self.request("GET", f"/events/{json.loads(reply.read())['uid']}")
        for line in events:
            if line.startswith(b"data: "):
                job = json.loads(line[6:])
                if job["status"] == "completed":
                    self.promises.completed.add(job["uid"])

    def choose(self) -> str | None:
        jobs = json.loads(self.request("GET", "/jobs?limit=30").read())["jobs"]
        for job in jobs:
            if job["status"] == "completed":
                self.promises.completed.add(job["uid"])
        return self.random.choice(jobs)["uid"] if jobs else None

    def get(self) -> None:
        uid = self.choose()
        for name in ("input.png", "shape.glb", "textured.glb") if uid else ():
            reply = self.request("GET", f"/jobs/{uid}/{name}")
            content = reply.read()
            if uid and reply.status == 200:
                self.note_file(uid, name, content)

    def delete(self) -> None:
        uid = self.choose()
        if uid is None or self.random.random() < 0.5:
            return
        status = json.loads(self.request("GET", f"/jobs/{uid}").read()).get("status")
        if status == "completed":
            self.promises.touched.add(uid)
            reply = self.request("DELETE", f"/jobs/{uid}")
            if reply.status == 204:
                self.promises.deleted.add(uid)


def check(server: Server, promises: Promises) -> dict[str, list[str]]:
    """What of the promises the server does not keep."""
    lost: dict[str, list[str]] = {"lost_files": [], "lost_completions": [], "returned": []}
    for (uid, name), digest in promises.files.items():
        if uid not in promises.touched:
            status, _, content = server.request("GET", f"/jobs/{uid}/{name}")
            if status != 200 or hashlib.sha256(content).hexdigest() != digest:
                lost["lost_files"].append(f"{uid} {name}: {status}")
    for uid in promises.completed - promises.touched:
        status, _, content = server.request("GET", f"/jobs/{uid}")
        if status != 200 or json.loads(content)["status"] != "completed":
            lost["lost_completions"].append(f"{uid}: {status} {content[:200]!r}")
    for uid in promises.deleted:
        if server.request("GET", f"/jobs/{uid}")[0] != 404:
            lost["returned"].append(uid)
    return lost


def config(folder: Path) -> dict[str, Any]:
    return {
        "model": {"engine": "preview", "background": "none"},
        "export": {"glb_decimation_target": 1000, "glb_texture_size": 256},
        "server": {"log_level": "error"},
        "worker": {
            "result_dir": str(folder / "results"),
            "max_queue_length": 50,
            "job_max_age_seconds": 36_000,
        },
    }


def start(folder: Path) -> Server:
    file = folder / "config.json"
    file.write_text(json.dumps(config(folder)), encoding="utf-8")
    server = Server([sys.executable, "api_server_trellis2.py", "--config", str(file)])
    server.wait_for_health((200,))
    return server


def load_and_kill(server: Server, promises: Promises, seed: int, max_load_s: float) -> int:
    """Have clients work until the server is killed; return how many requests they sent."""
    clients = [Client(server.port, seed * CLIENTS + k, promises) for k in range(CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    for thread in threads:
        thread.start()
    moment = random.Random(seed)  # noqa: S311 - no secret
    threading.Event().wait(moment.uniform(0.3, max_load_s))
    server.process.kill()
    server.process.wait()
    for thread in threads:
        thread.join()
    return sum(client.requests for client in clients)


def run(kills: int, seed: int, max_load_s: float) -> dict[str, Any]:
    result: dict[str, Any] = {"kills": 0, "requests": 0, "files": 0, "completions": 0}
    result |= {"deletions": 0, "lost_files": 0, "lost_completions": 0, "returned": 0}
    examples: list[str] = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        older = Promises()
        server = start(Path(folder))
        try:
            for number in range(kills):
                promises = Promises()
                result["requests"] += load_and_kill(server, promises, seed + number, max_load_s)
                result["kills"] += 1
                server = start(Path(folder))
                older.deleted |= promises.deleted
                promises.deleted = older.deleted
                lost = check(server, promises)
                result["files"] += len(promises.files)
                result["completions"] += len(promises.completed)
                for kind, found in lost.items():
                    result[kind] += len(found)
                    examples += [f"kill {number}: {kind}: {each}" for each in found]
        finally:
            server.process.kill()
            server.process.wait()
    result["deletions"] = len(older.deleted)
    result["seconds"] = round(time.monotonic() - begin)
    result["examples"] = examples[:10]
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="how often to kill (50)")
    parser.add_argument("--seed", type=int, default=0, help="of clients and moments (0)")
    parser.add_argument("--load-seconds", type=float, default=3.0, help="until a kill, at most (3)")
    add_option(parser)
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    result = run(arguments.kills, arguments.seed, arguments.load_seconds)
    record.add("kills", result)
    for key, value in result.items():
        print(f"{key:20} {value}")
    return int(any(result[kind] for kind in ("lost_files", "lost_completions", "returned")))


if __name__ == "__main__":
    sys.exit(main())
