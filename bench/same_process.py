"""Groups of `bench/same.py` that are about restarts, pages, metrics and logs."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any, Final

from bench import same_files
from bench.same_models import encoded, fields
from bench.same_server import Record, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.same_server import Server, Side

# ---- restarts --------------------------------------------------------------------------


def restarts(side: Side) -> None:
    """Jobs before and after a restart, and a folder that OLD wrote, read by both."""
    folder = side.folder / "results"
    before = _make_jobs(side, folder)
    with side.serving("again", worker={"result_dir": str(folder)}) as server:
        _ask_for_all(server, "after", before)
        _ask_again(server, "after", before)
        server.ask("texture of an older shape", "POST", "/generate_texture",
                   json={"uid": before["shape"]})  # fmt: skip
    # The other side waits for OLD's folder, which it knows by its place beside its own.
    olds = side.folder.parent / "OLD" / "results"
    done = side.folder.parent / "OLD" / "done.json"
    if side.name == "OLD":
        draft = done.with_suffix(".part")
        draft.write_text(json.dumps(before), encoding="utf-8")
        draft.replace(done)
    else:
        until(done.exists, "OLD's results")
        before = json.loads(done.read_text(encoding="utf-8"))
    side.uids.clear()  # from here on they are the same on both sides
    shared = side.folder / "shared"
    shutil.copytree(olds, shared, ignore=shutil.ignore_patterns("lock"))
    with side.serving("shared", worker={"result_dir": str(shared)}) as server:
        _ask_for_all(server, "OLD's", before)
        _ask_again(server, "OLD's", before)
        jobs = server.client.get("/jobs").json()["jobs"]
        times = [[job["uid"], job["created_at"], job.get("finished_at"), job["timings"]]
                 for job in jobs]  # fmt: skip
        # As they are: both sides must say what stands in the one folder.
        side.records.append(Record("OLD's: times", json.dumps(times, indent=1)))


def _make_jobs(side: Side, folder: Path) -> dict[str, str]:
    """Names of jobs of each kind, which are finished and written down."""
    names: dict[str, str] = {}
    mesh = encoded(same_files.meshes()["glb moved"])
    with side.serving("before", worker={"result_dir": str(folder)}) as server:
        for name, body in (
            ("textured", fields(1, texture=True)),
            ("shape", fields(2, texture=False)),
            ("packed", fields(3, texture=True, compress="meshopt", tex_rescale_t=3)),
            ("given", fields(4, texture=True, mesh=mesh, geo_rotation=30)),
            ("newer", fields(1, texture=True, seed=77)),
        ):
            made = server.ask(f"made {name}", "POST", "/generate", json=body)
            names[name] = made.headers["x-job-id"]
        for name, file_type in (("sent", "glb"), ("sent obj", "obj")):
            body = fields(2, texture=file_type == "glb", type=file_type)
            names[name] = server.client.post("/send", json=body).json()["uid"]
        names["failed"] = server.client.post("/send", json={"image": "AAAA"}).json()["uid"]
        for name in ("textured", "packed", "given", "newer", "sent", "sent obj"):
            server.exportable(names[name])
        server.finished(names["failed"])
        names["hash"] = server.client.get(f"/jobs/{names['textured']}").json()["image_hash"]
        server.ask("deleted", "DELETE", f"/jobs/{names['newer']}")
        _ask_for_all(server, "before", names)
    return names


def _ask_again(server: Server, when: str, names: dict[str, str]) -> None:
    """The same requests once more: the jobs are known, nothing is made."""
    packed = fields(3, texture=True, compress="meshopt", tex_rescale_t=3)
    for name, body in (("textured", fields(1, texture=True)), ("packed", packed)):
        reply = server.ask(f"{when}: {name} again", "POST", "/generate", json=body)
        is_known = reply.headers["x-job-id"] == names[name]
        server.side.note_json(f"{when}: {name} again: is known", is_known)


def _ask_for_all(server: Server, when: str, names: dict[str, str]) -> None:
    server.ask(f"{when}: jobs", "GET", "/jobs")
    for name in ("textured", "failed", "hash"):
        body = {"image_hash" if name == "hash" else "uid": names[name]}
        server.ask(f"{when}: {name}: texture", "POST", "/generate_texture", json=body)
    for name, uid in names.items():
        server.ask(f"{when}: {name}", "GET", f"/jobs/{uid}")
        server.ask(f"{when}: {name}: status", "GET", f"/status/{uid}")
        server.ask(f"{when}: {name}: events", "GET", f"/events/{uid}")
        for file in ("input.png", "shape.glb", "textured.glb", "textured.obj", "shape.zip"):
            server.ask(f"{when}: {name}: {file}", "GET", f"/jobs/{uid}/{file}")
        body = {"decimation_target": 1200}
        server.ask(f"{when}: {name}: export", "POST", f"/jobs/{uid}/export", json=body)


# ---- pages, metrics, logs --------------------------------------------------------------

#: Keys of OpenAPI's objects whose values are words, or follow from names in the code.
_WORDS: Final = frozenset({"description", "summary", "title", "operationId"})


def pages(side: Side) -> None:
    """The page and its files, the API's description, and what Prometheus reads."""
    with side.serving("pages") as server:
        index = server.ask("/", "GET", "/").text
        server.ask("options", "GET", "/page/options")
        server.ask("docs", "GET", "/docs")
        server.ask("redoc", "GET", "/redoc")
        document = server.client.get("/openapi.json").json()
        words = dict(_take_words(document, ""))
        side.note_json("openapi", document)
        for place, text in words.items():
            side.note(f"openapi{place}", text)
        waiting = re.findall(r'(?:href|src)="(page/[\w.-]+)"', index)
        seen: set[str] = set()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            reply = server.ask(path, "GET", f"/{path}")
            tag = reply.headers.get("etag", "")
            server.ask(f"{path} again", "GET", f"/{path}", headers={"If-None-Match": tag})
            if path.endswith(".js"):
                found = re.findall(r'from "\./([\w.-]+)"|import "\./([\w.-]+)"', reply.text)
                waiting += [f"page/{a or b}" for a, b in found]
        made = server.client.post("/generate", json=fields(1, texture=True))
        server.finished(made.headers["x-job-id"])
        server.client.post("/generate", json=fields(1))
        lines = server.client.get("/metrics").text.splitlines()
        named = {
            re.sub(r" -?[\d.e+-]+(nan|inf)?$", "", line, flags=re.IGNORECASE) for line in lines
        }
        side.note("metrics", "\n".join(sorted(named)))
        server.ask("metrics' headers", "GET", "/metrics", body=False)
        health = server.client.get("/healthcheck").json()
        side.note_json("health", health)


def _take_words(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Where words stand and what they say; they are removed."""
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _take_words(each, f"{place}.{number}")
    if isinstance(value, dict):
        for key in list(value):
            if key in _WORDS and isinstance(value[key], str):
                yield f"{place}.{key}", value.pop(key)
            else:
                yield from _take_words(value[key], f"{place}.{key}")


def logs(side: Side) -> None:
    """Messages, levels and names of the data of log lines, as JSON and as text."""
    for form in ("json", "text"):
        log = side.folder / f"{form}.log"
        server_section = {"log_format": form, "api_keys": ["first-key"], "host": "0.0.0.0"}  # noqa: S104
        results = {"result_dir": str(side.folder / "results")}
        with side.serving(form, server=server_section, worker=results) as server:
            server.client.headers["X-API-Key"] = "first-key"
            made = server.client.post("/generate", json=fields(1, texture=True))
            server.finished(made.headers["x-job-id"])
            server.client.post("/generate", json=fields(1, texture=True))
            for body in ({}, {"image": "AAAA"}, fields(2, seed="x")):
                server.client.post("/generate", json=body)
            server.client.get("/jobs", headers={"X-API-Key": "wrong"})
            server.client.get("/nothing")
            picture = same_files.pictures()["icc damaged"]
            server.client.post("/generate", content=picture, headers={"Content-Type": "image/png"})
            server.client.delete(f"/jobs/{made.headers['x-job-id']}")
        lines = log.read_text(encoding="utf-8").splitlines()
        said = {_line(line) if form == "json" else _text_line(line) for line in lines}
        side.note(f"{form} lines", "\n".join(sorted(said)))


def _line(line: str) -> str:
    data: dict[str, Any] = json.loads(line)
    says = f"{data.pop('level')}: {data.pop('message')}"
    shown = {key: data[key] for key in ("status", "method", "path") if key in data}
    return f"{says} {' '.join(sorted(data))} {shown}"


def _text_line(line: str) -> str:
    found = re.fullmatch(r"\S+Z (\w+) \S+: (.*)", line)
    if found is None:
        return f"not a line: {line}"
    said = re.sub(r"(?<= )(?!status|method|path)(\w+)=\S+", r"\1=", found[2])
    return f"{found[1]}: {said}"


GROUPS: Final[dict[str, Callable[[Side], None]]] = {
    "restarts": restarts,
    "pages": pages,
    "logs": logs,
}
