"""What the routes ask of the job service and make of its answers: no jobs, no engine, no socket."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.api_alone import BEGUN, CONTENTS, DONE, HASH, SHAPE, SHAPED, TEXTURED, UID, Api
from tests.support.server import encoded
from trellis2_server.api.model_responses import BASE64_CHUNK_BYTES
from trellis2_server.errors import EngineError
from trellis2_server.jobs.job import Job, Status
from trellis2_server.jobs.service import Health, JobView
from trellis2_server.parameters import Delivery
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="module")
def one() -> Generator[Api]:
    api = Api()
    with api.client:
        yield api


@pytest.fixture
def api(one: Api) -> Api:
    one.service.__init__()  # pyright: ignore[reportUnknownMemberType] - anew for each test
    return one


BODY = {"image": encoded(b"picture"), "seed": 7}
PICTURE = ("submit", (b"picture", 7, "testclient"))


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "texture", "content", "kind"),
    [
        ({}, None, b"shape", "model/gltf-binary"),
        ({"texture": True}, True, b"textured", "model/gltf-binary"),
        ({"texture": False, "type": "obj"}, False, b"shape", "model/obj"),
    ],
)
def test_a_model_has_the_facts_of_its_job_in_headers(
    api: Api,
    fields: dict[str, Any],
    texture: bool | None,  # noqa: FBT001 - a parameter of the test
    content: bytes,
    kind: str,
) -> None:
    reply = api.client.post("/generate", json={**BODY, **fields})
    assert (reply.status_code, reply.content) == (200, content)
    assert reply.headers["content-type"] == kind
    assert reply.headers["content-length"] == str(len(content))
    named = ("X-Image-Hash", "X-Job-Id", "X-Seed", "X-Engine", "X-Background")
    assert [reply.headers[name] for name in named] == [HASH, UID, "7", "engine", "alpha"]
    assert api.service.asked[0] == (*PICTURE, {"texture": texture, "mesh": None})


def test_a_job_without_a_picture_yet_has_empty_headers(api: Api) -> None:
    api.service.job = replace(DONE, image_hash=None, background=None)
    reply = api.client.post("/generate", json=BODY)
    assert (reply.headers["x-image-hash"], reply.headers["x-background"]) == ("", "")


def test_a_texture_is_waited_for_as_long_as_the_settings_say(api: Api) -> None:
    reply = api.client.post("/generate_texture", json={"image_hash": HASH, "type": "ply"})
    assert (reply.content, reply.headers["content-type"]) == (b"textured", "model/ply")
    assert api.service.asked == [
        ("get_job", (HASH,), {}),
        ("wait_for_texture", (Settings().worker.texture_timeout_seconds,), {}),
        ("convert", (TEXTURED, "ply"), {"is_delivery": True}),
    ]


def test_a_model_is_exported_again_with_other_options(api: Api) -> None:
    reply = api.client.post(f"/jobs/{UID}/export", json={"texture_size": 1024, "type": "stl"})
    assert (reply.content, reply.headers["content-type"]) == (b"exported", "model/stl")
    assert api.service.asked == [
        ("get_job", (UID,), {}), ("export", (UID, 1024), {"texture": None, "file_type": "stl"}),
    ]  # fmt: skip


# ---- jobs ----------------------------------------------------------------------------------------


def test_jobs_are_listed_with_the_name_of_the_next_page(api: Api) -> None:
    page = api.client.get("/jobs?limit=2").json()
    assert (len(page["jobs"]), page["next"]) == (2, UID)
    whole = api.client.get(f"/jobs?before={UID}").json()
    assert (len(whole["jobs"]), "next" in whole) == (3, False)
    assert api.service.asked == [
        ("list_jobs", (), {"limit": 2, "before": None}),
        ("list_jobs", (), {"limit": 20, "before": UID}),
    ]
    for limit, status in ((0, 400), (1, 200), (100, 200), (101, 400)):
        assert api.client.get(f"/jobs?limit={limit}").status_code == status


def test_a_job_is_shown_and_deleted(api: Api) -> None:
    shown = api.client.get(f"/jobs/{UID}").json()
    assert (shown["uid"], shown["queue_position"], shown["eta_seconds"]) == (UID, 2, 1.5)
    assert "error" not in shown
    status = api.client.get(f"/status/{HASH}").json()
    assert (status["status"], status["texture_ready"], "files" in status) == (
        "completed",
        True,
        False,
    )
    gone = api.client.delete(f"/jobs/{UID}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert [name for name, *_ in api.service.asked] == ["get_view", "get_view", "delete"]


def test_events_are_the_states_of_a_job_and_the_last_one_is_the_end(api: Api) -> None:
    begun, done = (JobView(job, None, None, (), can_export=False) for job in (BEGUN, DONE))
    api.service.views = [begun, None, done]
    reply = api.client.get(f"/events/{UID}")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["cache-control"] == "no-cache, no-transform"
    first, heartbeat, last, rest = reply.text.split("\n\n")
    assert (first.split("\n")[0], heartbeat, rest) == ("event: status", ": heartbeat", "")
    assert last.startswith("event: end\ndata: ")
    assert json.loads(last.partition("data: ")[2])["status"] == "completed"
    assert api.service.asked[-1] == ("watch", (UID, 15.0), {})


def test_a_file_of_a_job_is_sent_or_converted(api: Api) -> None:
    whole = api.client.get(f"/jobs/{UID}/shape.glb")
    assert (whole.content, whole.headers["etag"]) == (b"shape", SHAPE.etag)
    part = api.client.get(f"/jobs/{UID}/shape.glb", headers={"Range": "bytes=1-2"})
    assert (part.status_code, part.content) == (206, b"ha")
    head = api.client.head(f"/jobs/{UID}/shape.glb")
    assert head.headers["content-length"] == "5"
    converted = api.client.get(f"/jobs/{UID}/textured.zip")
    assert converted.headers["content-type"] == "application/zip"
    assert ("convert", (TEXTURED, "obj_zip"), {"is_delivery": False}) in api.service.asked
    assert api.client.get(f"/jobs/{UID}/shape.fbx").status_code == 404


# ---- operators -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "word", "is_loading"),
    [
        ("ok", 200, "healthy", False),
        ("loading", 503, "loading", True),
        ("error", 503, "error", False),
    ],
)
def test_the_health_is_told_in_the_words_of_each_client(
    api: Api, status: Any, code: int, word: str, *, is_loading: bool
) -> None:
    api.service.health_state = Health(status, "engine", queue_length=3)
    native = api.client.get("/healthcheck")
    assert (native.status_code, native.json()["status"]) == (code, status)
    assert native.headers.get("retry-after") == ("5" if code == 503 else None)
    theirs = api.client.get("/health")
    assert (theirs.status_code, theirs.json()["status"]) == (code, word)
    assert len(theirs.json()["worker_id"]) == 6
    load = api.client.get("/worker_status").json()
    assert load == {"speed": 1, "queue_length": 3, "loading": is_loading}
    assert api.client.get("/metrics").content == b"metrics"
    assert api.client.get("/status/test").json() == {"status": "ok"}


# ---- Hunyuan3D's clients -------------------------------------------------------------------------


@pytest.mark.parametrize("texture", [None, False, True])
def test_a_job_is_sent_with_what_is_to_be_delivered(
    api: Api,
    texture: bool | None,  # noqa: FBT001 - a parameter of the test
) -> None:
    fields = {} if texture is None else {"texture": texture}
    reply = api.client.post("/send", json={**BODY, **fields, "type": "obj"})
    assert reply.json() == {"uid": UID}
    assert api.service.asked == [
        (*PICTURE, {"texture": bool(texture), "mesh": None}),
        ("create_alias", (UID, Delivery(texture=bool(texture), type="obj")), {}),
    ]


ERROR = replace(BEGUN, status=Status.ERROR, error=EngineError("no GPU"))
WITHOUT_SHAPE = replace(
    BEGUN, status=Status.COMPLETED, shape_error=EngineError("no export"), textured_glb=TEXTURED
)
WANTS_SHAPE, WANTS_TEXTURE = (Delivery(texture=each, type="glb") for each in (False, True))


@pytest.mark.parametrize(
    ("job", "delivery", "expected"),
    [
        (BEGUN, None, "processing"),
        (BEGUN, WANTS_SHAPE, "processing"),
        (SHAPED, None, "texturing"),
        (SHAPED, WANTS_TEXTURE, "texturing"),
        (SHAPED, WANTS_SHAPE, b"shape"),
        (DONE, WANTS_SHAPE, b"shape"),
        (DONE, WANTS_TEXTURE, b"textured"),
        (DONE, None, b"textured"),
        (replace(DONE, textured_glb=None), None, b"shape"),
        (ERROR, None, "error: no GPU"),
        (ERROR, WANTS_SHAPE, "error: no GPU"),
        (WITHOUT_SHAPE, WANTS_SHAPE, "error: no export"),
        (WITHOUT_SHAPE, WANTS_TEXTURE, b"textured"),
        (replace(DONE, textured_glb=None), WANTS_TEXTURE,
         "error: this job has no such model; send the picture again"),
    ],
)  # fmt: skip
def test_a_client_that_polls_gets_the_model_that_it_asked_for(
    api: Api, job: Job, delivery: Delivery | None, expected: str | bytes
) -> None:
    api.service.job, api.service.delivery = job, delivery
    reply = api.client.get(f"/status/{UID.upper()}")
    body = reply.json()
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.content))
    if isinstance(expected, bytes):
        assert body == {
            "status": "completed", "model_base64": base64.b64encode(expected).decode(),
        }  # fmt: skip
    elif expected.startswith("error: "):
        assert body == {"status": "error", "message": expected.removeprefix("error: ")}
    else:
        assert body == {"status": expected}


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, BASE64_CHUNK_BYTES, BASE64_CHUNK_BYTES + 1])
def test_a_model_of_any_size_is_one_text_in_base64(
    api: Api, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    content = bytes(at % 251 for at in range(size))
    monkeypatch.setitem(CONTENTS, TEXTURED, content)
    reply = api.client.get(f"/status/{UID}")
    assert base64.b64decode(reply.json()["model_base64"], validate=True) == content
    assert reply.headers["content-length"] == str(len(reply.content))
    assert BASE64_CHUNK_BYTES % 3 == 0


def test_a_status_that_is_not_ascii_is_sent_as_it_is(api: Api) -> None:
    api.service.job = replace(ERROR, error=EngineError("kein Gerät"))
    assert api.client.get(f"/status/{UID}").text == '{"status":"error","message":"kein Gerät"}'


# ---- limits, documentation -----------------------------------------------------------------------


def test_a_get_that_has_a_file_made_counts_as_a_request() -> None:
    api = Api(rate_per_minute=1)
    with api.client:
        for path in ("shape.glb", "shape.obj"):
            assert api.client.get(f"/jobs/{UID}/{path}").status_code == 200
        refused = api.client.get(f"/jobs/{UID}/shape.obj")
        assert (refused.status_code, refused.json()["error_code"]) == (429, 3)
        assert api.client.get(f"/status/{UID}").status_code == 200  # its `/send` has counted
        api.service.has_conversion = True
        assert api.client.get(f"/jobs/{UID}/shape.obj").status_code == 200
        assert api.client.post("/send", json=BODY).status_code == 429


GENERATES = {400, 401, 413, 415, 429, 503}
READS = {401, 404}
DOCUMENTED = {
    ("post", "/generate"): {200, *GENERATES, 409, 500, 502, 504, 507},
    ("post", "/generate_texture"): {200, *GENERATES, 404, 408, 409, 500, 502, 504, 507},
    ("get", "/status/{name}"): {200, *READS},
    ("get", "/jobs"): {200, *READS, 400},
    ("get", "/jobs/{name}"): {200, *READS},
    ("delete", "/jobs/{name}"): {204, *READS, 503},
    ("get", "/events/{name}"): {200, *READS, 429},
    ("post", "/jobs/{name}/export"): {200, *GENERATES, 404, 409, 500, 507},
    ("post", "/send"): {200, *GENERATES},
    ("post", "/v1/3d/generations"): {200, *GENERATES, 409, 500, 502, 504, 507},
    ("get", "/v1/models"): {200, 401},
    ("get", "/v1/models/{model}"): {200, *READS},
    ("get", "/status/test"): {200},
    ("get", "/healthcheck"): {200, 503},
    ("get", "/health"): {200, 503},
    ("get", "/worker_status"): {200, 401},
    ("get", "/metrics"): {200, 401},
    ("get", "/page/options"): {200},
    ("get", "/jobs/{name}/{file_name}"): {200, 206, 304, 416, *READS, 429, 500, 503},
    ("get", "/jobs/{name}/thumbnail.png"): {200, 206, 304, 400, 416, *READS, 429, 500, 503},
    ("get", "/jobs/{name}/turntable.webp"): {200, 206, 304, 400, 416, *READS, 429, 500, 503},
}


def test_every_status_that_a_route_replies_with_is_documented(api: Api) -> None:
    document = api.app.openapi()
    found = {
        (method, path): {int(status) for status in operation["responses"] if status.isdecimal()}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    for route, statuses in DOCUMENTED.items():
        assert found.pop(route) == statuses, route
    assert found == {}
