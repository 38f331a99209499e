"""The client's library, both of its drivers, against a real server in which things go wrong."""

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
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.faults import cut, reply
from tests.support.hunyuan import HunyuanServer
from tests.support.server import SMALL, Server, picture, serving, settings, until
from trellis2_server import client as package
from trellis2_server.client import (
    AsyncClient,
    BusyError,
    Client,
    ClientError,
    JobCancelledError,
    JobFailedError,
    NotFoundError,
    Progress,
    ProtocolError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
    UsageError,
    errors,
    steps,
)
from trellis2_server.client.replies import EventReader, Reply, read_name

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Ask = Callable[..., Any]

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE_S", "POLL_S", "LOADING_POLL_S"):
        monkeypatch.setattr(steps, name, 0.01)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls a method of a client of either kind: `ask(server, "generate", …)`."""

    def blocking(url: str, method: str, *args: Any, **kwargs: Any) -> Any:
        with Client(url, **kwargs.pop("client", {})) as client:
            found = getattr(client, method)(*args, **kwargs)
            return list(found) if inspect.isgenerator(found) else found

    def waiting(url: str, method: str, *args: Any, **kwargs: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **kwargs.pop("client", {})) as client:
                found = getattr(client, method)(*args, **kwargs)
                if inspect.isasyncgen(found):
                    return [each async for each in found]
                return await found

        return asyncio.run(run())

    way = blocking if request.param == "sync" else waiting
    return lambda server, *args, **kwargs: way(getattr(server, "url", server), *args, **kwargs)


# ---- the whole way ---------------------------------------------------------------------------


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


def test_progress_goes_to_its_end_and_never_back(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    heard: list[Progress] = []
    for stage in ("shape", "texture"):
        engine.gates[stage].clear()

    def hear(progress: Progress) -> None:
        heard.append(progress)
        stage = progress.text.partition(":")[0]
        if stage in engine.gates:
            engine.gates[stage].set()

    ask(server, "generate", picture(1), on_progress=hear, **SMALL)
    fractions = [each.fraction for each in heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    words = " ".join(each.text for each in heard)
    assert "shape" in words
    assert "texture" in words
    assert heard[-1].text.startswith("download: ")
    assert not any(each.is_trouble for each in heard)


def test_the_shape_comes_while_its_texture_is_made(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.gates["texture"].clear()
    shapes: list[bytes] = []

    def take(shape: bytes) -> None:
        shapes.append(shape)
        engine.gates["texture"].set()

    result = ask(server, "generate", picture(2), on_shape=take, **SMALL)
    assert shapes == [result.shape]


@pytest.mark.parametrize(
    ("file_type", "begin"), [("obj", b"#"), ("ply", b"ply"), ("obj_zip", b"PK")]
)
def test_models_come_as_the_type_that_is_asked_for(
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


def test_a_random_seed_is_drawn_before_it_is_sent(ask: Ask, server: Server) -> None:
    server.faults.next("/send", cut(1))
    result = ask(server, "generate", picture(4), seed=-1, texture=False, **SMALL)
    assert len(server.faults.paths("/send")) == 2
    assert [job.seed for job in ask(server, "jobs")] == [result.seed]


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


# ---- what goes wrong on the way ----------------------------------------------------------------


def test_a_stream_that_breaks_is_taken_up_again(ask: Ask, server: Server) -> None:
    server.faults.next("/events/", cut(0), cut(50), cut(400))
    heard: list[Progress] = []
    result = ask(server, "generate", picture(), shape=False, on_progress=heard.append, **SMALL)
    assert result.textured[:4] == b"glTF"
    assert len(server.faults.paths("/events/")) == 4
    assert len(server.faults.paths("/send")) == 1
    assert any(each.is_trouble and "broke" in each.text for each in heard)


def test_a_job_that_ends_while_its_stream_begins_is_not_waited_for(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()

    async def late(app: Any, scope: Any, receive: Any, send: Any) -> None:
        async def pass_on(message: Any) -> None:
            if message["type"] == "http.response.start":
                engine.open_all()
                uid = scope["path"].rpartition("/")[2]
                while not server.worker.job(uid).status.is_finished:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            await send(message)

        await app(scope, receive, pass_on)

    server.faults.next("/events/", late)
    uid = ask(server, "submit", picture(), **SMALL)
    hasty = {"timeout_s": 5, "patience_s": 0}
    assert ask(server, "events", uid, client=hasty)[-1].status == "completed"


def test_a_download_that_breaks_goes_on_where_it_was(ask: Ask, server: Server) -> None:
    whole = ask(server, "generate", picture(), **SMALL).textured
    server.faults.next("/jobs/", cut(1000), cut(500))
    begin = len(server.faults.requests)
    assert ask(server, "generate", picture(), shape=False, **SMALL).textured == whole
    ranges = [
        each.headers.get("range")
        for each in server.faults.requests[begin:]
        if each.path.startswith("/jobs/")
    ]
    assert ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_file_that_has_changed_meanwhile_is_fetched_anew(ask: Ask, server: Server) -> None:
    whole = ask(server, "generate", picture(), **SMALL).textured
    for answer in (
        reply(200, b"x" * 90, content_length="100", etag='"another"'),
        reply(206, b"x", content_range="bytes 7-7/100", content_length="1"),
        reply(416),
    ):
        server.faults.next("/jobs/", cut(1000), answer)
        assert ask(server, "generate", picture(), shape=False, **SMALL).textured == whole


@pytest.mark.parametrize("status", [429, 502, 503])
def test_what_is_not_served_now_is_asked_for_again(ask: Ask, server: Server, status: int) -> None:
    busy = reply(status, b'{"text":"the queue is full","error_code":3}', retry_after="0")
    server.faults.next("/send", busy, busy)
    server.faults.next("/events", busy)
    server.faults.next("/jobs", busy)
    heard: list[Progress] = []
    ask(server, "generate", picture(), shape=False, on_progress=heard.append, **SMALL)
    assert len(server.faults.paths("/send")) == 3
    assert sum("the queue is full; asking again" in each.text for each in heard) == 4


def test_patience_ends(ask: Ask, server: Server) -> None:
    server.faults.next("/send", reply(503, b'{"text":"full"}', retry_after="9"))
    with pytest.raises(BusyError, match=r"^full$") as caught:
        ask(server, "generate", picture(), client={"patience_s": 5})
    assert (caught.value.status, caught.value.retry_after_s) == (503, 9)
    assert len(server.faults.paths("/send")) == 1


def test_retry_after_may_be_a_date() -> None:
    late = {"retry-after": "Fri, 31 Dec 2100 23:59:59 GMT"}
    with pytest.raises(BusyError) as caught:
        Reply(503, late).check()
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 1e9
    for said in ("soon", "", "Thu, 01 Jan 1970 00:00:00 GMT"):
        with pytest.raises(BusyError) as caught:
            Reply(503, {"retry-after": said}).check()
        assert not caught.value.retry_after_s


def test_nobody_who_listens_is_told_of(ask: Ask, server: Server) -> None:
    server.stop()
    with pytest.raises(UnreachableError, match="nobody listens there"):
        ask(server, "health", client={"patience_s": 0})
    with pytest.raises(UnreachableError, match="nobody listens there"):
        ask(server, "generate", picture(), client={"patience_s": 0})


def test_a_server_that_says_nothing_is_not_waited_for(ask: Ask, server: Server) -> None:
    async def silence(app: Any, scope: Any, receive: Any, send: Any) -> None:
        del app, scope, send
        while (await receive())["type"] != "http.disconnect":
            pass

    server.faults.next("/healthcheck", silence)
    with pytest.raises(UnreachableError, match="no sign of life in time"):
        ask(server, "health", client={"timeout_s": 0.1})


def test_a_job_that_was_lost_by_a_restart_is_sent_again(ask: Ask) -> None:
    first, heard = GatedEngine("texture"), list[Progress]()
    restarted: list[Any] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(first))
        server.wait_until_loaded()

        def restart(_: bytes) -> None:
            if restarted:
                return
            first.open_all()
            server.stop()
            restarted.append(stack.enter_context(serving(GatedEngine(), port=server.address[1])))

        result = ask(
            server, "generate", picture(), on_progress=heard.append, on_shape=restart, **SMALL
        )
        assert result.textured[:4] == b"glTF"
        assert any("lost the job" in each.text for each in heard)
        assert len(restarted[0].faults.paths("/send")) >= 1


def test_a_server_that_keeps_its_results_may_be_restarted_within_a_download(
    ask: Ask, tmp_path: Path
) -> None:
    kept = settings(worker={"result_dir": str(tmp_path)})
    restarted: list[Server] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(GatedEngine(), kept))
        server.wait_until_loaded()
        whole = ask(server, "generate", picture(), shape=False, **SMALL).textured

        def restart(progress: Progress) -> None:
            if progress.is_trouble and not restarted:
                server.stop()
                again = serving(GatedEngine(), kept, port=server.address[1])
                restarted.append(stack.enter_context(again))

        server.faults.next("/jobs/", cut(1000))
        result = ask(server, "generate", picture(), shape=False, on_progress=restart, **SMALL)
        assert result.textured == whole
        asked = restarted[0].faults.requests
        assert not restarted[0].faults.paths("/send")
        assert [each.headers.get("range") for each in asked][-1] == "bytes=1000-"


def test_a_job_that_fails_says_why(ask: Ask, server: Server, engine: GatedEngine) -> None:
    engine.failures["texture"] = ValueError("not shown")
    with pytest.raises(JobFailedError) as caught:
        ask(server, "generate", picture(), **SMALL)
    assert str(caught.value) == ask(server, "job", caught.value.uid).error


def test_what_is_refused_is_refused_in_the_servers_words(ask: Ask, server: Server) -> None:
    expected = server.generate({"image": "no picture", "seed": 1}).json()
    with pytest.raises((RefusedError, JobFailedError)) as caught:
        ask(server, "generate", b"no picture", seed=1)
    assert str(caught.value)
    with pytest.raises(RefusedError) as refused:
        ask(server, "generate", picture(), extra={"ss_rescale_t": "much"})
    assert str(refused.value) == "ss_rescale_t: not a number: 'much'"
    assert (refused.value.status, refused.value.code) == (400, expected["error_code"])


def test_a_job_of_a_name_that_there_is_not_is_not_found(ask: Ask, server: Server) -> None:
    for method in ("job", "events", "download", "cancel"):
        with pytest.raises(NotFoundError):
            ask(server, method, "0" * 32)
    with pytest.raises(ProtocolError):
        ask(server, "job", "../healthcheck")


# ---- leaving -----------------------------------------------------------------------------------


def test_a_job_whose_caller_leaves_is_cancelled(
    ask: Ask, server: Server, engine: GatedEngine
) -> None:
    engine.gates["shape"].clear()

    def leave(progress: Progress) -> None:
        if progress.job is not None:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        ask(server, "generate", picture(), on_progress=leave, **SMALL)
    engine.open_all()
    (job,) = ask(server, "jobs")
    until(lambda: ask(server, "job", job.uid).error == "cancelled", "cancelled")


def test_a_job_whose_task_is_cancelled_is_cancelled(server: Server, engine: GatedEngine) -> None:
    engine.gates["shape"].clear()

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            seen = asyncio.Event()
            job = asyncio.ensure_future(
                client.generate(picture(), on_progress=lambda p: p.job and seen.set(), **SMALL)
            )
            await asyncio.wait_for(seen.wait(), PATIENCE_S)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job

    asyncio.run(run())
    engine.open_all()
    with Client(server.url) as client:
        until(lambda: client.jobs()[0].error == "cancelled", "cancelled")


def test_a_job_that_somebody_cancels_says_so(ask: Ask, server: Server, engine: GatedEngine) -> None:
    engine.gates["texture"].clear()

    def cancel(_: bytes) -> None:
        with Client(server.url) as other:
            other.cancel(other.jobs()[0].uid)
        engine.open_all()

    with pytest.raises(JobCancelledError):
        ask(server, "generate", picture(), on_shape=cancel, **SMALL)


def test_an_iteration_may_be_left(server: Server, engine: GatedEngine) -> None:
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


# ---- keys and addresses --------------------------------------------------------------------------


@pytest.fixture
def locked(engine: GatedEngine) -> Generator[Server]:
    with serving(engine, settings(server={"api_keys": ["open-sesame"]})) as server:
        server.wait_until_loaded()
        yield server


def test_a_key_is_sent_and_never_shown(
    ask: Ask, locked: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("wrong", None):
        with pytest.raises(UnauthorizedError, match="an API key is needed") as caught:
            ask(locked, "generate", picture(), client={"api_key": key})
        assert "wrong" not in repr(caught.value)
    result = ask(locked, "generate", picture(), client={"api_key": "open-sesame"}, **SMALL)
    assert result.textured
    monkeypatch.setenv("TRELLIS2_SERVER_API_KEY", "open-sesame")
    monkeypatch.setenv("TRELLIS2_SERVER", locked.url)
    with Client() as client:
        assert client.health().version
        assert repr(client) == f"Client('{locked.url}')"
    with pytest.raises(UsageError, match="characters") as refused:
        Client(api_key="sec\nret")
    assert "ret" not in str(refused.value)


@pytest.mark.parametrize(
    "server", ["ftp://x", "http://", "http://a:b", "http://x:99999", "http://[::1", "  "]
)
def test_what_is_no_address_is_refused(server: str) -> None:
    if not server.strip():
        assert Client(server.strip()).server == "http://127.0.0.1:8082"
        return
    with pytest.raises(UsageError, match="not the address of a server"):
        Client(server)


def test_an_address_needs_no_scheme_and_may_have_a_path(server: Server) -> None:
    host = server.url.removeprefix("http://")
    for address in (host, f"{host}/", f"{server.url}/api", f"{host}/api/"):
        with Client(address) as client:
            assert client.health().status == "ok"
    assert server.faults.paths("/api/healthcheck")


def test_another_server_is_told_from_this_one(ask: Ask, server: Server) -> None:
    page = reply(200, b"<html>welcome</html>", content_type="text/html")
    moved = reply(301, location="https://elsewhere/")
    broken = reply(500, b"<html>nginx</html>")
    server.faults.next("/send", page, moved, broken)
    with pytest.raises(ProtocolError, match="none of this API"):
        ask(server, "generate", picture())
    with pytest.raises(ProtocolError, match="points to https://elsewhere/"):
        ask(server, "generate", picture())
    with pytest.raises(errors.ReplyError, match="the server replied 500 Internal Server Error"):
        ask(server, "generate", picture())


# ---- waiting for a server ------------------------------------------------------------------------


def test_a_server_that_loads_is_waited_for(ask: Ask) -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").status_code == 503, "listening")
        with pytest.raises(BusyError, match="still loading"):
            ask(server, "wait_until_ready", 0)
        heard: list[Progress] = []

        def hear(progress: Progress) -> None:
            heard.append(progress)
            engine.open_all()

        assert ask(server, "wait_until_ready", on_progress=hear).status == "ok"
        assert "loads" in heard[0].text


def test_a_server_whose_load_failed_is_not_waited_for(ask: Ask) -> None:
    engine = GatedEngine()
    engine.failures["load"] = RuntimeError("broken")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").json()["status"] == "error", "failed")
        said = server.client.get("/healthcheck").json()["error"]
        with pytest.raises(BusyError) as caught:
            ask(server, "wait_until_ready")
        assert str(caught.value) == said


# ---- a server of Hunyuan3D's ---------------------------------------------------------------------


def test_a_hunyuan3d_server_is_polled(ask: Ask) -> None:
    with HunyuanServer() as server:
        heard: list[Progress] = []
        result = ask(server, "generate", picture(), on_progress=heard.append)
        assert result.textured == result.model == b"glTF model"
        assert result.shape is None
        assert {"shape", "texture"} <= {each.text for each in heard}
        server.failure = "out of memory"
        with pytest.raises(JobFailedError, match="out of memory"):
            ask(server, "generate", picture())
        assert ask(server, "wait_until_ready").status == "unknown"


# ---- what holds without a server -----------------------------------------------------------------


def test_an_option_that_there_is_not_is_refused_before_anything_is_sent() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(UsageError, match=r"texture_size\?"):
        client.generate(b"x", texture_sise=512)  # type: ignore[call-arg]
    with Client("http://127.0.0.1:9") as client, pytest.raises(UsageError, match="type: must be"):
        client.generate(b"x", type="fbx")  # type: ignore[arg-type]
    with Client("http://127.0.0.1:9") as client, pytest.raises(UsageError, match="mesh: "):
        client.generate(b"x", mesh=b"y", texture=False)


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = errors.__doc__ or ""
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    for each in classes:
        assert issubclass(each, ClientError)
        assert f" {each.__name__} " in f"{drawn} ".replace("\n", " ")
        assert each.__name__ in package.__all__


def test_the_client_imports_only_the_fields_of_a_request_and_starts_soon() -> None:
    code = (
        "import sys, trellis2_server.client.cli, trellis2_server.client.display;"
        "print(*sorted(m for m in sys.modules if m.startswith('trellis2_server.')"
        " and not m.startswith('trellis2_server.client')),"
        " *(m for m in ('numpy', 'numba', 'PIL', 'pydantic', 'fastapi', 'cv2', 'torch')"
        " if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Declared once for both; the module needs the standard library only.
    assert done.stdout.strip() == "trellis2_server.request_fields"


LINES = st.lists(st.sampled_from(["data: {}", "event: status", ": note", "", "id: 1", "data:ä"]))


@given(lines=LINES, ending=st.sampled_from(["\n", "\r\n", "\r"]), cuts=st.lists(st.integers(0, 99)))
def test_events_are_the_same_however_their_bytes_are_cut(
    lines: list[str], ending: str, cuts: list[int]
) -> None:
    text = ending.join([*lines, "", "data: last", "", "x"]).encode()
    whole = list(EventReader().feed(text))
    assert whole[-1][1].endswith("last")
    reader, found, begin = EventReader(), [], 0
    for end in [*sorted(cuts), len(text)]:
        found += list(reader.feed(text[begin:end]))
        begin = max(begin, min(end, len(text)))
    assert found == whole


@given(st.text())
def test_a_name_of_the_servers_is_no_path(name: str) -> None:
    with contextlib.suppress(ProtocolError):
        read_name(name)
        assert not set(name) & set("/\\.:%")
        assert name


def test_a_client_serves_several_threads(server: Server) -> None:
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
