"""Hostile clients: valid requests in numbers and at moments that hurt others.

Each function is an attack: it gets an `Attacker`, prepares up to its `yield`, and goes on when the
good client is there.

Does not know: what is allowed as a result.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

from bench.hostile_cage import command_line, descendants
from bench.hostile_pictures import encode, noise, png_bomb
from bench.hostile_send import BOUNDARY, Attacker, Outcome, form_part, head
from bench.hostile_witness import small_picture

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

_FORM: Final = f"multipart/form-data; boundary={BOUNDARY}"


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)


def slow_readers(attacker: Attacker) -> Iterator[None]:
    """A hundred downloads of one file that nobody reads."""
    photo = encode(noise(1024, "RGBA"), "PNG")
    uid = attacker.model(photo, texture_size=2048, texture_format="png")
    yield
    opened: list[socket.socket] = []
    for _ in range(100):
        with contextlib.suppress(OSError):
            connection = attacker.connect(4096)
            connection.sendall(head(f"/jobs/{uid}/textured.glb", method="GET"))
            opened.append(connection)
    _pause(attacker.long_s)
    for connection in opened:
        connection.close()
    attacker.request("GET", f"/jobs/{uid}")


def conversion_loops(attacker: Attacker) -> Iterator[None]:
    """Forty loops of conversions of one model."""
    uid = attacker.model(texture_size=1024)
    yield
    names = ("textured.obj", "textured.ply", "textured.stl", "textured.zip")
    attacker.loops(
        40,
        lambda k: attacker.request("GET", f"/jobs/{uid}/{names[k % len(names)]}"),
    )


def conversion_heads(attacker: Attacker) -> Iterator[None]:
    """Forty loops of HEAD on a file that is not stored."""
    uid = attacker.model(texture_size=1024)
    yield
    attacker.loops(40, lambda _: attacker.request("HEAD", f"/jobs/{uid}/textured.obj"))


def conversions_of_many(attacker: Attacker) -> Iterator[None]:
    """Conversions of twenty models in turn, so that no cache helps."""
    uids = [attacker.model(seed=k) for k in range(20)]
    yield
    attacker.loops(
        20,
        lambda k: attacker.request("GET", f"/jobs/{uids[(k * 7) % 20]}/textured.zip"),
    )


def export_loops(attacker: Attacker) -> Iterator[None]:
    """Twenty loops of exports, each with other parameters."""
    uid = attacker.model()
    yield
    counter = iter(range(10**9))

    def run(_: int) -> object:
        fields = {"decimation_target": 1000 + next(counter), "texture": True, "texture_size": 512}
        return attacker.json(f"/jobs/{uid}/export", fields)

    attacker.loops(20, run)


def range_flood(attacker: Attacker) -> Iterator[None]:
    """Requests for a thousand ranges of a file."""
    uid = attacker.model()
    yield
    ranges = {"Range": "bytes=" + ",".join(["0-"] * 1000)}
    for _ in range(50):
        attacker.request("GET", f"/jobs/{uid}/textured.glb", headers=ranges)


def large_texture(attacker: Attacker) -> Iterator[None]:
    """A texture far larger than the server's own, without compression."""
    yield
    attacker.form(image=small_picture(), texture="true", texture_size=8192, texture_format="png")


def event_streams(attacker: Attacker) -> Iterator[None]:
    """Three hundred streams of the events of a job that waits behind others."""
    uid = attacker.model(texture=False)
    yield
    picture, names = small_picture(), [uid]
    for _ in range(60):
        sent = attacker.form("/send", image=picture, seed=-1, texture="true", is_counted=False)
        names += [json.loads(sent.content)["uid"]] * (sent.status == 200)
    opened: list[socket.socket] = []
    for _ in range(300):
        with contextlib.suppress(OSError):
            connection = attacker.connect()
            connection.settimeout(5)
            connection.sendall(head(f"/events/{names[-1]}", method="GET"))
            first = connection.recv(100)[:12].decode("latin-1")
            attacker.outcomes.append(Outcome(int(first[9:] or 0), 0.0, first))
            opened.append(connection)
    attacker.request("GET", f"/status/{uid}")
    _pause(1)
    for connection in opened:
        connection.close()


def slow_lookups(attacker: Attacker) -> Iterator[None]:
    """Slow pictures, in tens, to the route that looks a picture up."""
    slow = png_bomb(1)
    yield
    attacker.together(*[lambda: attacker.form("/generate_texture", image=slow)] * 10)


def slow_pictures(attacker: Attacker) -> Iterator[None]:
    """Four slow pictures at the same time."""
    slow = png_bomb(1)
    yield
    attacker.together(*(lambda k=k: attacker.form(image=slow, seed=k) for k in range(4)))


def slow_uploads_and_gone(attacker: Attacker) -> Iterator[None]:
    """Slow pictures whose client goes away at once."""
    slow = png_bomb(1)
    yield
    part = form_part("image", slow) + f"--{BOUNDARY}--\r\n".encode()
    begin = head("/generate", f"Content-Type: {_FORM}", f"Content-Length: {len(part)}")
    for _ in range(8):
        with contextlib.suppress(OSError), attacker.connect() as connection:
            connection.sendall(begin + part)
            _pause(0.2)
    attacker.request("GET", "/health")


def cancel_storm(attacker: Attacker) -> Iterator[None]:
    """Jobs that are submitted and cancelled, eight at a time."""
    yield

    def run(_: int) -> object:
        picture = small_picture()
        sent = attacker.form("/send", image=picture, seed=-1, texture="true", is_counted=False)
        if sent.status != 200:
            return sent
        return attacker.request("DELETE", f"/jobs/{json.loads(sent.content)['uid']}")

    attacker.loops(8, run)


def disconnect_storm(attacker: Attacker) -> Iterator[None]:
    """Requests whose clients leave at a random moment."""
    yield
    part = form_part("image", small_picture()) + form_part("seed", b"-1")
    part += form_part("texture", b"true") + form_part("texture_size", b"256")
    part += f"--{BOUNDARY}--\r\n".encode()
    begin = head("/generate", f"Content-Type: {_FORM}", f"Content-Length: {len(part)}")
    chance = random.Random(0)  # noqa: S311 - no secret

    def run(_: int) -> None:
        with contextlib.suppress(OSError), attacker.connect() as connection:
            connection.sendall((begin + part)[: chance.randrange(len(begin + part) + 200)])
            _pause(chance.random() * 0.2)

    attacker.loops(8, run)
    attacker.request("GET", "/health")


def large_queue(attacker: Attacker) -> Iterator[None]:
    """More jobs than the queue takes."""
    picture = small_picture()
    yield
    attacker.loops(
        16,
        lambda k: attacker.form("/send", image=picture, seed=-1, texture="true", a=k),
    )


def killed_decoders(attacker: Attacker) -> Iterator[None]:
    """SIGKILL for a decoder at random, two hundred times, under mixed load."""
    yield
    chance = random.Random(0)  # noqa: S311 - no secret
    picture, is_over = small_picture(), threading.Event()
    killed = 0

    def load(k: int) -> None:
        while not is_over.is_set():
            attacker.form(
                image=picture, seed=chance.randrange(10**9), texture=str(k % 2 > 0).lower()
            )

    threads = [threading.Thread(target=load, args=(k,), daemon=True) for k in range(3)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 60
    while killed < 200 and time.monotonic() < end:
        decoders = [pid for pid in descendants(attacker.pid) if "decoders" in command_line(pid)]
        replies = len(attacker.outcomes)
        if decoders:
            with contextlib.suppress(OSError):
                os.kill(chance.choice(decoders), signal.SIGKILL)
                killed += 1
        while len(attacker.outcomes) == replies and time.monotonic() < end:
            _pause(0.01)  # a decoder that is killed while it starts tells nothing
    is_over.set()
    for thread in threads:
        thread.join(20)
    if killed < 50:
        raise SystemExit(f"only {killed} decoders could be killed")
