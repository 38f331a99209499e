"""Clients of the soak test that use finished models: exports, conversions, meshes, deletes."""

from __future__ import annotations

import base64
import json
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bench.server import draw_picture, png
from bench.soak_client import Client, Reply, UnexplainedError
from bench.soak_process import kill_a_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds between two decoders that are killed: a file whose decoder dies twice is refused.
KILL_INTERVAL_S: Final = 10.0
#: How the files begin that a model is converted to.
BEGINS: Final = {"glb": b"glTF", "obj": b"", "ply": b"ply", "stl": b"", "zip": b"PK"}


_DAMAGED: Final = base64.b64encode(png(draw_picture(1000, 128))).decode()


def tetrahedron(size: float) -> bytes:
    """Return a binary STL file."""
    corners = ((0, 0, 0), (size, 0, 0), (0, size, 0), (0, 0, size))
    faces = ((0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3))
    content = bytes(80) + struct.pack("<I", len(faces))
    for face in faces:
        numbers = [0.0, 0.0, 0.0, *(x for corner in face for x in corners[corner])]
        content += struct.pack("<12fH", *numbers, 0)
    return content


class ModelClient(Client):
    """A client that makes more of models than `Client` does."""

    _killed: ClassVar[list[float]] = [0.0]
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def _finished(self) -> str | None:
        """Return the uid of a finished, textured job; None: the server was full."""
        reply = self.request("POST", "/generate", self.fields(texture=True), (200, 409, 503))
        return reply.headers["x-job-id"] if reply.status == 200 else None

    @staticmethod
    def _check_file(what: str, reply: Reply, kind: str) -> None:
        if reply.status == 200 and not (reply.content and reply.content.startswith(BEGINS[kind])):
            raise UnexplainedError(f"{what}: not a {kind}")

    def exports(self) -> None:
        """Several exports again of one job, with other sizes, faces and formats."""
        uid = self._finished()
        for _ in range(3 if uid else 0):
            kind = self.random.choice(("glb", "obj", "ply", "stl"))
            body = {
                "texture_size": self.random.choice((128, 256, 512)),
                "decimation_target": self.random.choice((1000, 1500)),
                "type": kind,
            }
            # 404: it has aged out; 429: this key has as many exports as it may have.
            path = f"/jobs/{uid}/export"
            out = self.request("POST", path, body, (200, 404, 409, 429, 503))
            self._check_file(path, out, kind)

    def conversions(self) -> None:
        """A model in every file type, each of them twice: the second one is stored."""
        uid = self._finished()
        kinds = self.random.sample(("obj", "ply", "stl", "zip"), 3) if uid else ()
        for kind in kinds:
            path = f"/jobs/{uid}/textured.{kind}"
            allowed = (200, 404, 429, 503)
            first, second = (self.request("GET", path, allowed=allowed) for _ in range(2))
            self._check_file(path, first, kind)
            if first.status == second.status == 200 and first.content != second.content:
                raise UnexplainedError(f"{path}: different bytes")

    def meshes(self) -> None:
        """A mesh of the client's is textured."""
        mesh = base64.b64encode(tetrahedron(0.5 + self.random.random())).decode()
        fields = self.fields(mesh=mesh, texture=True)
        reply = self.request("POST", "/generate", fields, (200, 409, 503))
        self._check_file("/generate with a mesh", reply, "glb")

    def damaged_meshes(self) -> None:
        content = bytearray(tetrahedron(1.0))
        content[80] = 200  # more faces than there are
        # A picture of its own: its name stands for the last job with it, which fails.
        fields = self.fields(mesh=base64.b64encode(bytes(content)).decode(), image=_DAMAGED)
        self.request("POST", "/generate", fields, (400, 503))

    def deletes(self) -> None:
        """A finished job is deleted, while another request exports it."""
        reply = self.request(
            "POST", "/generate", self.fields(texture=True, seed=-1), (200, 409, 503)
        )
        if reply.status != 200:
            return
        uid = reply.headers["x-job-id"]
        errors: list[BaseException] = []

        def export() -> None:
            try:
                body = {"texture_size": 512}
                path = f"/jobs/{uid}/export"
                self.request("POST", path, body, (200, 404, 409, 429, 503))
            except BaseException as error:  # noqa: BLE001 - raised on the client's thread
                errors.append(error)

        exporting = threading.Thread(target=export)
        exporting.start()
        self.request("DELETE", f"/jobs/{uid}", allowed=(204,))
        exporting.join()
        if errors:
            raise errors[0]
        self.request("GET", f"/jobs/{uid}", allowed=(404,))

    def textures(self) -> None:
        """The texture of a picture whose model exists, or does not."""
        body: dict[str, Any] = {"image": self.random.choice(self.pictures)}
        # 404: there is no model of the picture.
        reply = self.request("POST", "/generate_texture", body, (200, 404, 409, 503))
        self._check_file("/generate_texture", reply, "glb")

    def ageing(self) -> None:
        """A job that many have asked for is asked for again, at any age: its new uid is served."""
        fields = {"image": self.pictures[0], "seed": 1, "texture": True}
        sent = self.request("POST", "/send", fields, (200, 503))
        if sent.status != 200:
            return
        uid = json.loads(sent.content)["uid"]
        self.request("GET", f"/jobs/{uid}", allowed=(200,))
        if json.loads(self.request("GET", f"/status/{uid}").content)["status"] == "completed":
            self.request("GET", f"/jobs/{uid}/textured.glb", allowed=(200,))

    def dead_decoders(self) -> None:
        """Kill a decoder, as the system does when memory is short; nobody may notice."""
        with self._lock:
            if time.monotonic() - self._killed[0] > KILL_INTERVAL_S:
                self._killed[0] = time.monotonic()
                kill_a_decoder(self.server.process.pid)

    def behaviours(self) -> list[Callable[[], None]]:
        known = super().behaviours()
        if "/jobs/{name}/export" in self.routes:
            known += [self.exports, self.deletes]
        if "/jobs/{name}/{file_name}" in self.routes:
            known += [self.conversions]
        if "/jobs/{name}" in self.routes:
            known += [self.ageing] * 2
        return [*known, self.meshes, self.damaged_meshes, self.textures, self.dead_decoders]
