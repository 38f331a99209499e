"""Groups of `bench/same.py` that are about models: pictures, meshes, formats, files, events."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from bench import same_files
from bench.same_server import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.same_server import Server, Side

SMALL: Final = {"decimation_target": 1000, "texture_size": 256, "seed": 5}
TYPES: Final = ("glb", "obj", "ply", "stl", "obj_zip")
ENDINGS: Final = ("glb", "obj", "ply", "stl", "zip")


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def fields(shade: int = 0, **more: Any) -> dict[str, Any]:
    """A small request's JSON."""
    return {"image": encoded(same_files.picture(shade)), **SMALL, **more}


def pictures(side: Side) -> None:
    """Pictures of many kinds, whole and broken, with the background removed or not."""
    with side.serving("pictures") as server:
        for name, content in same_files.pictures().items():
            for remove in (True, False):
                label = f"{name}, remove_background {remove}".lower()
                body = {"image": encoded(content), **SMALL, "remove_background": remove}
                reply = server.ask(label, "POST", "/generate", json={**body, "texture": True})
                if reply.status_code == 200:
                    uid = reply.headers["x-job-id"]
                    server.ask(f"{label}: cut-out", "GET", f"/jobs/{uid}/input.png")
                    job = server.ask(f"{label}: job", "GET", f"/jobs/{uid}").json()
                    side.note_json(f"{label}: warnings", job.get("warnings"))


def meshes(side: Side) -> None:
    """Meshes of many kinds, whole and broken, textured after a picture."""
    with side.serving("meshes") as server:
        for name, content in same_files.meshes().items():
            body = fields(1, mesh=encoded(content), texture=True)
            server.ask(name, "POST", "/generate", json=body)
        whole, moved = same_files.glb(), same_files.meshes()["glb moved"]
        for angle in (90, -30.5, 720, "45"):
            body = fields(1, mesh=encoded(moved), texture=True, geo_rotation=angle)
            reply = server.ask(f"turned by {angle}", "POST", "/generate", json=body)
            job = server.ask(f"turned by {angle}: job", "GET", f"/jobs/{reply.headers['x-job-id']}")
            side.note_json(f"turned by {angle}: parameters", job.json()["parameters"])
        for file_type in TYPES[1:]:
            body = fields(1, mesh=encoded(whole), texture=True, type=file_type)
            server.ask(f"as {file_type}", "POST", "/generate", json=body)
        for texture in (False, None):
            body = fields(2, mesh=encoded(whole), texture=texture)
            server.ask(f"texture {texture}", "POST", "/generate", json=body)
        body = fields(3, mesh=encoded(whole))
        server.ask("generate_texture", "POST", "/generate_texture", json=body)
        server.ask("without a picture", "POST", "/generate", json={"mesh": encoded(whole)})
        for option, value in (("compress", "meshopt"), ("remesh", True), ("texture_format", "png")):
            body = fields(4, mesh=encoded(whole), texture=True, **{option: value})
            server.ask(f"with {option}", "POST", "/generate", json=body)
        served = server.ask("a shape", "POST", "/generate", json=fields(5))
        mesh = encoded(served.content)
        for how, body in (("alone", {"mesh": mesh}), ("with its picture", fields(5, mesh=mesh))):
            server.ask(f"that shape {how}", "POST", "/generate_texture", json=body)
        body = fields(6, mesh=mesh)
        server.ask("that shape with another picture", "POST", "/generate_texture", json=body)
        files = {"image": ("p.png", same_files.picture(7)), "mesh": ("m.glb", whole)}
        data = {name: str(value) for name, value in SMALL.items()}
        server.ask("as a form", "POST", "/generate_texture", files=files, data=data)
        job = server.finished(served.headers["x-job-id"])
        side.note_json("that shape: job", job)


def formats(side: Side) -> None:
    """Every type of file, texture format, compression and alpha mode; exports of a job."""
    clear = same_files.pictures()["png half clear"]
    with side.serving("formats") as server:
        for file_type in (*TYPES, "OBJ"):
            for texture in (False, True):
                body = fields(1, type=file_type, texture=texture)
                server.ask(f"{file_type}, texture {texture}", "POST", "/generate", json=body)
        options: dict[str, tuple[object, ...]] = {
            "texture_format": ("auto", "webp", "png", "jpeg", "JPEG"),
            "compress": ("meshopt", "draco", "none", None),
            "alpha_mode": ("auto", "OPAQUE", "MASK", "BLEND", "blend"),
            "remesh": (True, False),
            "decimation_target": (1000, 3000, 20_000),
            "texture_size": (256, 512),
        }
        for name, values in options.items():
            for value in values:
                body = fields(2, texture=True, **{name: value})
                server.ask(f"{name} {value}", "POST", "/generate", json=body)
                if name in {"alpha_mode", "texture_format"}:
                    body = {**SMALL, "image": encoded(clear), "texture": True, name: value}
                    server.ask(f"half clear, {name} {value}", "POST", "/generate", json=body)
        for pipeline_type in ("512", "1024", "1536_cascade"):
            body = fields(3, texture=True, pipeline_type=pipeline_type)
            server.ask(f"pipeline_type {pipeline_type}", "POST", "/generate", json=body)
        server.ask("the same seed again", "POST", "/generate", json=fields(3, texture=True, seed=5))
        server.ask("another seed", "POST", "/generate", json=fields(3, texture=True, seed=6))
        _exports(server)


def _exports(server: Server) -> None:
    made = server.ask("to export", "POST", "/generate", json=fields(4, texture=True))
    uid = made.headers["x-job-id"]
    server.exportable(uid)
    path = f"/jobs/{uid}/export"
    server.ask("export: nothing said", "POST", path)
    server.ask("export: by hash", "POST", f"/jobs/{made.headers['x-image-hash']}/export", json={})
    server.ask("export: in the query", "POST", f"{path}?texture_size=512&type=obj")
    server.ask("export: by form", "POST", path, data={"face_count": "1500"})
    for name, value in (
        ("decimation_target", 1500), ("texture_size", 512), ("texture", False), ("texture", True),
        ("alpha_mode", "BLEND"), ("texture_format", "png"), ("compress", "meshopt"),
        ("compress", "draco"), ("remesh", True), ("seed", 9), ("unknown", 1),
        ("decimation_target", "many"), ("type", "fbx"), ("texture", "perhaps"),
        *(("type", file_type) for file_type in TYPES),
    ):  # fmt: skip
        server.ask(f"export: {name} {value}", "POST", path, json={name: value})
    server.ask("export: bad JSON", "POST", path, content=b"{")
    body = {"type": "stl", "texture": False, "remesh": True}
    server.ask("export: several", "POST", path, json=body)
    shape = server.ask("a shape to export", "POST", "/generate", json=fields(5, texture=False))
    path = f"/jobs/{shape.headers['x-job-id']}/export"
    server.finished(shape.headers["x-job-id"])
    server.ask("export: of a shape", "POST", path, json={"decimation_target": 1500})
    server.ask("export: a texture that is not there", "POST", path, json={"texture": True})
    server.ask("export: no such job", "POST", "/jobs/nobody/export")
    body = fields(6, mesh=encoded(same_files.glb()), texture=True)
    given = server.ask("a given mesh to export", "POST", "/generate", json=body)
    server.exportable(given.headers["x-job-id"])
    path = f"/jobs/{given.headers['x-job-id']}/export"
    for body in ({}, {"texture": False}, {"texture_size": 512}, {"type": "ply"}, {"remesh": True}):
        server.ask(f"export: of a given mesh, {json.dumps(body)}", "POST", path, json=body)
    packed = server.ask(
        "packed", "POST", "/generate", json=fields(7, texture=True, compress="draco")
    )
    uid = packed.headers["x-job-id"]
    server.exportable(uid)
    for ending in ENDINGS:
        server.ask(f"packed: {ending}", "GET", f"/jobs/{uid}/textured.{ending}")
        server.ask(f"packed: export {ending}", "POST", f"/jobs/{uid}/export", json={"type": ending})


def files(side: Side) -> None:
    """Files of jobs: names, entity tags, ranges; lists; deleting."""
    with side.serving("files") as server:
        made = server.ask("made", "POST", "/generate", json=fields(1, texture=True))
        uid, image_hash = made.headers["x-job-id"], made.headers["x-image-hash"]
        server.finished(uid)
        shape = server.ask("shape only", "POST", "/generate", json=fields(2, texture=False))
        shape_uid = shape.headers["x-job-id"]
        server.finished(shape_uid)
        names = [
            "input.png",
            *(f"{kind}.{end}" for kind in ("shape", "textured") for end in ENDINGS),
        ]
        for name in (*names, "shape.gltf", "Shape.glb", "geometry", "shape.glb/x", "..%2fx"):
            for method in ("GET", "HEAD"):
                server.ask(f"{method} {name}", method, f"/jobs/{uid}/{name}")
            server.ask(f"{name} by hash", "GET", f"/jobs/{image_hash}/{name}")
            server.ask(f"{name} of a shape", "GET", f"/jobs/{shape_uid}/{name}")
            server.ask(f"{name} under /api", "GET", f"/api/jobs/{uid.upper()}/{name}")
        for name in ("textured.glb", "textured.obj"):
            _ranges(server, f"/jobs/{uid}/{name}", name)
        server.ask("no such job", "GET", "/jobs/00000000-0000-4000-8000-000000000000/shape.glb")
        server.ask("a file cannot be posted", "POST", f"/jobs/{uid}/shape.glb")
        for shade in range(3, 7):
            body = fields(shade, texture=False)
            more = server.ask(f"more {shade}", "POST", "/generate", json=body)
            server.finished(more.headers["x-job-id"])
        for query in (
            "", "?limit=2", "?limit=100", "?limit=0", "?limit=101", "?limit=x", "?limit=1.5",
            f"?before={uid}", f"?before={shape_uid}&limit=1", f"?before={image_hash}&limit=4",
            "?before=nobody", "?before=", "?unknown=1",
        ):  # fmt: skip
            server.ask(f"jobs{side.normal(query)}", "GET", f"/jobs{query}")
        next_page = server.client.get("/jobs?limit=3").json()["next"]
        server.ask("next page", "GET", f"/jobs?limit=3&before={next_page}")
        for label, name in (
            ("by uid", uid), ("by hash", image_hash), ("by UID", uid.upper()),
            ("by hash with a space", f"%20{image_hash}"), ("nobody", "nobody"),
            ("of a shape", shape_uid),
        ):  # fmt: skip
            server.ask(f"job {label}", "GET", f"/jobs/{name}")
            server.ask(f"status {label}", "GET", f"/status/{name}")
        again = server.ask("other parameters", "POST", "/generate", json=fields(1, seed=8))
        server.finished(again.headers["x-job-id"])
        server.ask("hash means the newer", "GET", f"/jobs/{image_hash}")
        server.ask("older by its uid", "GET", f"/jobs/{uid}")
        for label in ("deleted", "deleted twice"):
            server.ask(label, "DELETE", f"/jobs/{uid}")
        server.ask("delete by hash", "DELETE", f"/jobs/{image_hash}")
        server.ask("gone", "GET", f"/jobs/{uid}")
        server.ask("gone file", "GET", f"/jobs/{uid}/shape.glb")
        server.ask("gone by hash", "GET", f"/status/{image_hash}")
        server.ask("jobs at the end", "GET", "/jobs")


def _ranges(server: Server, path: str, name: str) -> None:
    tag = server.client.head(path).headers["etag"]
    for value in (tag, f"W/{tag}", f'"x", {tag}', "*", '"x"'):
        label = f"{name} if-none-match {server.side.normal(value)}"
        server.ask(label, "GET", path, headers={"If-None-Match": value})
    for value in (
        "bytes=0-0", "bytes=10-99", "bytes=100-", "bytes=-7", "bytes=-0", "bytes=99999999-",
        "bytes=0-1,3-4", "bytes=9-3", "chunks=0-1", "bytes=x", "bytes=-99999999", "bytes = 1 - 2",
    ):  # fmt: skip
        server.ask(f"{name} range {value}", "GET", path, headers={"Range": value})
    for value in (tag, '"x"', f"W/{tag}", "Wed, 21 Oct 2015 07:28:00 GMT"):
        headers = {"Range": "bytes=1-5", "If-Range": value}
        label = f"{name} if-range {server.side.normal(value)}"
        server.ask(label, "GET", path, headers=headers)
    server.ask(f"{name} range HEAD", "HEAD", path, headers={"Range": "bytes=1-5"})


#: Of events of a job in progress: timing decides which of them are there.
_SOMETIMES: Final = frozenset({
    "queue_position", "stage", "step", "steps", "progress", "eta_seconds", "image_hash",
    "background", "resolution", "warnings",
})  # fmt: skip
_STATUSES: Final = frozenset({"shape_processing", "texture_processing"})


def events(side: Side) -> None:
    """Streams of events, and what is said of jobs that are made in the background."""
    with side.serving("events") as server:
        for kind, more in (
            ("texture", {"texture": True}),
            ("shape", {"texture": False}),
            ("slow", {"texture": True, "texture_size": 1024, "decimation_target": 60_000}),
            ("broken", {"image": encoded(b"no picture")}),
            ("given", {"texture": True, "mesh": encoded(same_files.glb())}),
        ):
            sent = server.ask(f"{kind}: sent", "POST", "/send", json={**fields(1), **more})
            uid = sent.json()["uid"]
            _stream(server, kind, uid, is_followed=kind != "broken")
            server.finished(uid)
            server.ask(f"{kind}: status", "GET", f"/status/{uid}")
            server.ask(f"{kind}: job", "GET", f"/jobs/{uid}")
            with server.client.stream("GET", f"/events/{uid}") as reply:
                reply.read()
            side.note_reply(f"{kind}: events afterwards", reply)
        server.ask("no such job", "GET", "/events/nobody")
        for number, file_type in enumerate(TYPES):
            body = fields(2 + number, type=file_type, texture=bool(number % 2))
            uid = server.client.post("/send", json=body).json()["uid"]
            until(
                lambda uid=uid: server.client.get(f"/status/{uid}").json()["status"] == "completed",
                "completed",
            )
            server.ask(f"sent as {file_type}", "GET", f"/status/{uid}")


def _stream(server: Server, kind: str, uid: str, *, is_followed: bool) -> None:
    """Record the last event; of the others what is always there, and what never was before."""
    shapes: set[str] = set()
    odd: set[str] = set()
    last = ""
    with server.client.stream("GET", f"/events/{uid}") as reply:
        for line in reply.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                last = value
            elif name == "data" and last == "status":
                data = json.loads(value)
                always = {key: type(data[key]).__name__ for key in data if key not in _SOMETIMES}
                shapes.add(json.dumps(always))
                odd |= {data["status"]} - _STATUSES
            elif name == "data":
                server.side.note(f"{kind}: last event", f"{last}\n{value}")
            elif line:
                odd.add(line)
    if is_followed:  # one that fails may have failed before
        server.side.note_json(f"{kind}: events", [sorted(shapes), sorted(odd)])


GROUPS: Final[dict[str, Callable[[Side], None]]] = {
    "pictures": pictures,
    "meshes": meshes,
    "formats": formats,
    "files": files,
    "events": events,
}
