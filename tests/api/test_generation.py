"""What a generation request asks of the job service; no server, no jobs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.managers import options
from trellis2_server.api.generation import (
    GenerationRequest,
    find_job,
    find_texture,
    generate_model,
    submit,
)
from trellis2_server.api.inflight_bodies import InflightBodies
from trellis2_server.errors import InputError, JobNotFoundError, UnavailableError
from trellis2_server.jobs.job import ANONYMOUS, Job
from trellis2_server.parameters import Delivery
from trellis2_server.storage.store import Artifact

SHAPE, TEXTURED = Artifact("uid", "shape.glb", 1), Artifact("uid", "textured.glb", 1)
PLAIN = Job("uid", options(), "engine", 0.0)
SHAPED = Job("uid", options(), "engine", 0.0, shape_glb=SHAPE)
DONE = Job("uid", options(), "engine", 0.0, shape_glb=SHAPE, textured_glb=TEXTURED)


class Service:
    """Answers each call with what a test says; notes the calls."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[str] = []
        self.given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.on_call: Any = lambda _: None

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            self.given[name] = arguments, named
            self.on_call(name)
            answer = self.answers[name]
            if isinstance(answer, list):
                answer = answer.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def request(
    picture: bytes | None = b"picture",
    mesh: bytes | None = None,
    *,
    texture: bool | None = None,
    file_type: Any = "glb",
    **fields: object,
) -> GenerationRequest:
    account = InflightBodies(10**6).open("client")
    account.reserve(100)
    delivery = Delivery(texture=texture, type=file_type)
    return GenerationRequest(fields, picture, mesh, options(), delivery, account)


def run(call: Any) -> Any:
    return asyncio.run(call)


def test_a_picture_is_submitted_with_its_mesh() -> None:
    service: Any = Service(submit=PLAIN)
    asked = request(mesh=b"mesh")
    assert run(submit(asked, service, ANONYMOUS, texture=True)) is PLAIN
    assert service.given["submit"] == (
        (b"picture", asked.options, ANONYMOUS), {"texture": True, "mesh": b"mesh"},
    )  # fmt: skip


def test_a_mesh_of_a_job_needs_no_picture() -> None:
    service: Any = Service(find_by_shape=SHAPED)
    asked = request(None, b"mesh")
    assert run(submit(asked, service, ANONYMOUS, texture=None)) is SHAPED
    assert service.given["find_by_shape"] == ((asked.options.mesh, ANONYMOUS), {})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(None), r"^image: missing; send it as base64, as a file, or as the body$"),
        (request(None, b"mesh"), r"^image: missing; texturing a mesh needs a picture$"),
        (request(None, b"mesh", text="a chair"), r"^text: there is no text-to-image model"),
        (request(None, text=""), r"^text: there is no text-to-image model"),
    ],
)
def test_without_a_picture_a_request_is_told_what_is_missing(
    asked: GenerationRequest, message: str
) -> None:
    service: Any = Service(find_by_shape=None)
    with pytest.raises(InputError, match=message):
        run(submit(asked, service, ANONYMOUS, texture=None))


@pytest.mark.parametrize("texture", [None, False, True])
def test_files_are_released_before_a_model_is_waited_for(
    texture: bool | None,  # noqa: FBT001 - a parameter of the test
) -> None:
    asked = request(texture=texture, file_type="ply")
    service: Any = Service(
        submit=PLAIN, wait_for_shape=SHAPED, wait_for_texture=DONE, convert="content"
    )
    held: dict[str, tuple[bytes | None, int]] = {}
    service.on_call = lambda name: held.update({name: (asked.picture, asked.account.held_bytes)})
    job, content = run(generate_model(asked, service, ANONYMOUS))
    wait = "wait_for_texture" if texture else "wait_for_shape"
    assert (job, content) == (DONE if texture else SHAPED, "content")
    assert service.calls == ["submit", wait, "convert"]
    assert held["submit"] == (b"picture", 100)
    assert held[wait] == (None, 0)
    assert service.given["submit"][1]["texture"] is texture
    model = TEXTURED if texture else SHAPE
    assert service.given["convert"] == ((model, "ply", ANONYMOUS), {"is_delivery": True})
    assert asked.has_released_files


@pytest.mark.parametrize("texture", [False, True])
def test_files_are_kept_until_the_model_of_a_known_job_is_there(*, texture: bool) -> None:
    asked = request(texture=texture)
    known = DONE if texture else SHAPED
    service: Any = Service(
        submit=known, wait_for_shape=known, wait_for_texture=known, convert="content"
    )
    held: list[int] = []
    service.on_call = lambda _: held.append(asked.account.held_bytes)
    run(generate_model(asked, service, ANONYMOUS))
    assert held == [100, 100, 100]
    assert (asked.has_released_files, asked.account.held_bytes, asked.picture) == (True, 0, None)


def test_a_lost_model_of_a_known_job_is_generated_again() -> None:
    asked = request()
    service: Any = Service(
        submit=[SHAPED, PLAIN], wait_for_shape=SHAPED, convert=[JobNotFoundError("lost"), "content"]
    )
    assert run(generate_model(asked, service, ANONYMOUS)) == (SHAPED, "content")
    assert service.calls == ["submit", "wait_for_shape", "convert"] * 2


def test_a_model_that_is_lost_after_its_files_were_released_is_to_be_requested_again() -> None:
    service: Any = Service(submit=PLAIN, wait_for_shape=SHAPED, convert=JobNotFoundError("lost"))
    with pytest.raises(UnavailableError, match="the stored model is lost") as caught:
        run(generate_model(request(), service, ANONYMOUS))
    assert caught.value.retry_after_s == 1
    gone: Any = Service(submit=PLAIN, wait_for_shape=JobNotFoundError("gone"))
    with pytest.raises(JobNotFoundError, match="gone"):
        run(generate_model(request(), gone, ANONYMOUS))
    assert gone.calls == ["submit", "wait_for_shape"]


@pytest.mark.parametrize("mesh", [None, b"mesh"])
def test_a_texture_is_waited_for_without_the_files(mesh: bytes | None) -> None:
    asked = request(mesh=mesh)
    service: Any = Service(identify="hash", get_job=SHAPED, submit=PLAIN, wait_for_texture=DONE)
    held: list[bool] = []
    service.on_call = lambda _: held.append(asked.has_released_files)
    assert run(find_texture(asked, service, ANONYMOUS, 7.0)) is DONE
    first = ["submit"] if mesh else ["identify", "get_job"]
    assert service.calls == [*first, "wait_for_texture"]
    assert held == [*[False] * len(first), True]
    job = PLAIN if mesh else SHAPED
    assert service.given["wait_for_texture"] == ((job, 7.0), {})
    if mesh:
        assert service.given["submit"][1] == {"texture": True, "mesh": b"mesh"}


def test_a_job_is_named_by_its_hash_then_its_uid_then_its_picture() -> None:
    service: Any = Service(identify="found", get_job=DONE)
    for asked, name in (
        (request(image_hash="h", uid="u"), "h"), (request(uid="u"), "u"),
        (request(image_hash=None, uid=None), "found"),
    ):  # fmt: skip
        assert run(find_job(asked, service, ANONYMOUS)) is DONE
        assert service.given["get_job"] == ((name, ANONYMOUS), {})
    assert service.given["identify"] == (
        (b"picture", ANONYMOUS), {"remove_background": options().remove_background},
    )  # fmt: skip
    for field in ("image_hash", "uid"):
        for value in (7, 0, ["x"]):
            with pytest.raises(InputError, match=rf"^{field}: must be a string$"):
                run(find_job(request(**{field: value}), service, ANONYMOUS))
    with pytest.raises(InputError, match=r"^image_hash: missing"):
        run(find_job(request(None), service, ANONYMOUS))
