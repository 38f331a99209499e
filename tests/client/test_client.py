"""Both clients, against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.operations import Performed, json_reply, perform
from tests.support.server import SMALL, Server, picture
from trellis2_server.client import (
    AsyncClient,
    BusyError,
    Client,
    Health,
    JobState,
    NotFoundError,
    ProtocolError,
    Result,
    UsageError,
)
from trellis2_server.client.client import PATIENCE_S as CLIENT_PATIENCE_S
from trellis2_server.client.protocol.actions import Call, ReadFile
from trellis2_server.client.protocol.replies import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.client.connection import Connection
    from trellis2_server.client.protocol.actions import Operation

    Ask = Callable[..., Any]

ROOT = Path(__file__).parents[2]


def test_a_picture_becomes_two_models(ask: Ask, server: Server) -> None:
    result = ask(server, "generate", picture(), seed=7, **SMALL)
    assert result.shape[:4] == result.textured[:4] == b"glTF"
    assert result.shape != result.textured == result.model
    assert (result.seed, result.engine, result.background) == (7, "gated", "alpha")
    assert server.texture(image_hash=result.image_hash).content == result.textured
    assert set(result.timings) >= {"cutout", "shape", "texture"}


def test_a_picture_is_read_from_its_file(ask: Ask, server: Server, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(picture())
    result = ask(server, "generate", tmp_path / "photo.png", texture=False, seed=1, **SMALL)
    assert result.textured is None
    assert result.model == result.shape == server.generate().content
    with pytest.raises(UsageError, match=r"none\.png: No such file"):
        ask(server, "generate", str(tmp_path / "none.png"))
    with pytest.raises(UsageError, match="empty"):
        ask(server, "generate", b"")


@pytest.mark.parametrize(
    ("file_type", "begin"), [("obj", b"#"), ("ply", b"ply"), ("obj_zip", b"PK")]
)
def test_models_have_the_requested_file_type(
    ask: Ask, server: Server, file_type: str, begin: bytes
) -> None:
    result = ask(server, "generate", picture(), type=file_type, **SMALL)
    assert result.textured.startswith(begin)
    assert result.shape.startswith(b"#" if file_type == "obj_zip" else begin)


def test_a_mesh_is_textured(ask: Ask, server: Server) -> None:
    mesh = server.generate().content
    result = ask(server, "generate", picture(3), mesh=mesh, geo_rotation=90, **SMALL)
    assert result.shape is None
    assert result.textured[:4] == b"glTF"


def test_the_shape_is_delivered_while_its_texture_is_generated(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.gates["texture"].clear()
    shapes: list[bytes] = []

    def take(shape: bytes) -> None:
        shapes.append(shape)
        engine.gates["texture"].set()

    result = ask(server, "generate", picture(2), on_shape=take, **SMALL)
    assert shapes == [result.shape]


def test_events_are_iterated_to_the_last(ask: Ask, server: Server) -> None:
    uid = ask(server, "submit", picture(5), **SMALL)
    states = ask(server, "events", uid)
    assert states[-1].status == "completed"
    assert states[-1].texture_ready
    assert ask(server, "job", uid) == states[-1]
    assert ask(server, "download", uid, "input.png").startswith(b"\x89PNG")


def test_jobs_are_listed_page_by_page(ask: Ask, server: Server) -> None:
    for shade in range(3):
        ask(server, "generate", picture(shade), texture=False, **SMALL)
    latest = ask(server, "jobs", limit=2)
    rest = ask(server, "jobs", limit=2, before=latest[-1].uid)
    assert [len(latest), len(rest)] == [2, 1]
    assert len({job.uid for job in (*latest, *rest)}) == 3


def test_an_unknown_job_is_not_found(ask: Ask, server: Server) -> None:
    for method in ("job", "events", "download", "cancel"):
        with pytest.raises(NotFoundError):
            ask(server, method, "0" * 32)
    with pytest.raises(ProtocolError):
        ask(server, "job", "../healthcheck")


def test_an_iteration_over_events_can_be_ended_early(server: Server, engine: GatedEngine) -> None:
    engine.gates["shape"].clear()
    with Client(server.url) as client:
        uid = client.submit(picture(), **SMALL)
        for state in client.events(uid):
            assert state.status == "shape_processing"
            break

    async def run() -> None:
        async with AsyncClient(server.url) as asking:
            async with contextlib.aclosing(asking.events(uid)) as states:
                async for state in states:
                    assert not state.is_finished
                    break
            assert (await asking.job(uid)).status == "shape_processing"

    asyncio.run(run())


def test_several_threads_can_share_a_client(server: Server) -> None:
    found: dict[int, bytes] = {}
    with Client(server.url) as client:

        def make(shade: int) -> None:
            found[shade] = client.generate(picture(shade), **SMALL).model

        threads = [threading.Thread(target=make, args=(shade,)) for shade in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert all(model[:4] == b"glTF" for model in found.values())
    assert len(found) == 4


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    names = [name for name in vars(Client) if not name.startswith("_")]
    assert names
    assert set(names) == {name for name in vars(AsyncClient) if not name.startswith("_")}
    for name in names:
        blocking, asynchronous = getattr(Client, name), getattr(AsyncClient, name)
        expected, found = map(inspect.signature, (blocking, asynchronous))
        assert list(found.parameters.values()) == list(expected.parameters.values()), name
        assert asynchronous.__doc__
        if name == "events":
            assert inspect.isasyncgenfunction(asynchronous)
        else:
            assert inspect.iscoroutinefunction(asynchronous)
            assert found.return_annotation == expected.return_annotation
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


def test_invalid_arguments_are_refused_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(UsageError, match=r"texture_size\?"):
        client.generate(b"x", texture_sise=512)  # type: ignore[call-arg]
    with Client("http://127.0.0.1:9") as client, pytest.raises(UsageError, match="type: must be"):
        client.generate(b"x", type="fbx")  # type: ignore[arg-type]
    with Client("http://127.0.0.1:9") as client, pytest.raises(UsageError, match="mesh: "):
        client.generate(b"x", mesh=b"y", texture=False)


def test_the_client_imports_nothing_of_the_server() -> None:
    code = (
        "import sys, trellis2_server.client.cli, trellis2_server.client.client;"
        "print(*sorted(m for m in sys.modules if m.startswith('trellis2_server.')"
        " and not m.startswith('trellis2_server.client')),"
        " *(m for m in ('numpy', 'numba', 'PIL', 'pydantic', 'fastapi', 'cv2', 'torch')"
        " if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # They need the standard library only.
    assert done.stdout.split() == ["trellis2_server.purposes", "trellis2_server.request_fields"]


# ---- what the methods do -----------------------------------------------------------------------


class ByHand(Client):
    """A client whose operations are performed by hand, with these answers."""

    def __init__(self, *answers: object, **arguments: Any) -> None:
        self.answers = answers
        self.performed = Performed()
        super().__init__("host", **arguments)

    def _open(self, connection: Connection) -> None:
        self.connection = connection

    def _run(self, operation: Operation[Any]) -> Any:
        self.performed = perform(operation, *self.answers)
        if self.performed.error is not None:
            raise self.performed.error
        return self.performed.result


STATE = '{"uid": "a", "status": "completed"}'
SENT = json_reply(200, '{"uid": "a"}')
STREAM = Reply(200, {"content-type": "text/event-stream"})
END = f"event: end\ndata: {STATE}\n\n".encode()


def file(content: bytes) -> tuple[object, ...]:
    return Reply(200, {}), content, b""


def test_each_method_asks_for_what_it_is_named_after() -> None:
    client = ByHand(json_reply(204))
    assert client.cancel("a") is None
    assert client.performed.asked == [Call("DELETE", "jobs/a")]
    client = ByHand(json_reply(200, STATE))
    assert client.job("a") == JobState("a", "completed")
    client = ByHand(json_reply(200, f'{{"jobs": [{STATE}]}}'))
    assert client.jobs() == [JobState("a", "completed")]
    assert client.performed.paths == ["jobs?limit=20"]
    client.jobs(limit=7, before="b")
    assert client.performed.paths == ["jobs?limit=7&before=b"]
    client = ByHand(*file(b"glTF"))
    assert client.download("a") == b"glTF"
    assert client.performed.paths == ["jobs/a/textured.glb"]
    client.download("a", "input.png")
    assert client.performed.paths == ["jobs/a/input.png"]
    client = ByHand(json_reply(200, '{"status": "ok"}'))
    assert client.health() == client.wait_until_ready() == Health("ok")


def test_generating_has_all_of_its_arguments() -> None:
    progress: list[Any] = []
    shapes: list[bytes] = []
    ready = b'event: status\ndata: {"uid": "a", "status": "texture_processing", '
    ready += b'"shape_ready": true}\n\n'
    client = ByHand(
        b"picture", SENT, STREAM, ready, *file(b"shape"), STREAM, END, *file(b"textured")
    )
    result = client.generate(
        "one.png", on_progress=progress.append, on_shape=shapes.append, extra={"new": 1}, seed=3
    )
    assert isinstance(result, Result)
    assert (result.shape, result.textured, shapes) == (b"shape", b"textured", [b"shape"])
    assert progress[-1].fraction <= 1
    assert progress[0].fraction == pytest.approx(0.4)  # of a job with a texture
    assert client.performed.updates == []
    [picture_, sent] = client.performed.asked[:2]
    assert picture_ == ReadFile("one.png")
    assert isinstance(sent, Call)
    assert sent.body is not None
    assert sent.body.items() >= {"seed": 3, "new": 1, "texture": True, "type": "glb"}.items()
    plain = ByHand(b"picture", SENT, STREAM, END, *file(b"shape"))
    assert plain.generate(b"x", texture=False, shape=False).shape == b"shape"
    both = ByHand(b"picture", SENT, STREAM, END, *file(b"textured"))
    assert both.generate(b"x", shape=False).shape is None
    with pytest.raises(UsageError, match="no such option"):
        client.generate(b"x", sede=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_a_submitted_job_has_the_uid_that_the_list_of_jobs_has(server: Server) -> None:
    with Client(server.url) as client:
        uid = client.submit(picture(), texture=False, **SMALL)
        assert client.job(uid).uid == uid
        assert uid in [state.uid for state in client.jobs()]


@pytest.mark.parametrize("texture", [True, False])
def test_submitting_waits_for_nothing(*, texture: bool) -> None:
    client = ByHand(b"picture", b"mesh", SENT) if texture else ByHand(b"picture", SENT)
    mesh = b"mesh" if texture else None
    uid = client.submit(
        b"picture", mesh=mesh, texture=texture, type="ply", extra={"new": 1}, seed=3
    )
    assert uid == "a"
    sent = client.performed.asked[-1]
    assert isinstance(sent, Call)
    assert sent.body is not None
    wanted = {"seed": 3, "new": 1, "texture": texture, "type": "ply"}
    assert sent.body.items() >= wanted.items()
    assert ("mesh" in sent.body) is texture
    named = Reply(200, {"x-job-id": "b"}, b'{"uid": "a"}')
    assert ByHand(b"picture", named).submit(b"picture") == "b"
    with pytest.raises(ProtocolError):
        ByHand(b"picture", Reply(200, {"x-job-id": "../b"}, b'{"uid": "a"}')).submit(b"picture")


def test_a_client_retries_as_long_as_it_is_told_to() -> None:
    busy = json_reply(503, retry_after="200")
    patient = ByHand(busy, json_reply(200, STATE))
    assert patient.job("a").uid == "a"
    assert CLIENT_PATIENCE_S == 300
    with pytest.raises(BusyError):
        ByHand(busy, patience_s=199.0).job("a")
    with pytest.raises(BusyError):
        ByHand(busy).wait_until_ready(5.0)


def test_a_client_shows_its_server_and_not_its_key() -> None:
    client = ByHand(api_key="secret", timeout_s=7.0)
    assert (client.server, repr(client)) == ("http://host", "ByHand('http://host')")
    arguments = client.connection.client_arguments()
    assert arguments["timeout"].read == 7.0
    assert arguments["headers"]["Authorization"] == "Bearer secret"


def test_a_result_has_the_best_model_that_there_is() -> None:
    for shape, textured, model in (
        (b"s", b"t", b"t"), (b"s", None, b"s"), (None, b"t", b"t"), (None, None, b""),
    ):  # fmt: skip
        assert Result("a", "glb", shape, textured).model == model
    for status, is_finished in (
        ("shape_processing", False), ("texture_processing", False), ("completed", True),
        ("error", True),
    ):  # fmt: skip
        state: Any = status
        assert JobState("a", state).is_finished is is_finished


def test_errors_have_what_a_program_needs() -> None:
    error = BusyError("full", status=503, code=3, retry_after_s=1.5)
    assert (str(error), error.status, error.code, error.retry_after_s) == ("full", 503, 3, 1.5)
    assert BusyError("full", status=503).retry_after_s is None
    missing = NotFoundError("no", status=404)
    assert (str(missing), missing.status, missing.code) == ("no", 404, None)
