"""Several jobs, and the exit codes of failed ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.engines import GatedEngine
from tests.support.faults import reply
from tests.support.server import Server, serving, settings, until

if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[..., tuple[int, str, str]]


def test_one_failed_picture_does_not_affect_the_others(run: Run) -> None:
    Path("text.png").write_text("text")
    code, output, error = run("text.png", "one.png", "--json")
    assert code == 1
    by_name = {record["picture"]: record for record in map(json.loads, output.splitlines())}
    assert "error: text.png: " in error
    assert by_name["text.png"]["error"]["text"] in error
    assert by_name["text.png"]["files"] == {}
    assert by_name["one.png"]["files"] == {"model": "one.glb"}


def test_an_unreachable_server_exits_with_3(run: Run, server: Server) -> None:
    server.stop()
    code, _, error = run("one.png")
    assert code == 3
    assert "the connection was refused" in error


def test_a_busy_server_exits_with_3(run: Run, server: Server) -> None:
    server.faults.next("/send", reply(503, b'{"text":"the queue is full"}', retry_after="9"))
    code, _, error = run("one.png", "--patience", "0")
    assert (code, error.splitlines()[-1]) == (3, "error: one.png: the queue is full")


def test_a_missing_or_wrong_key_exits_with_4(run: Run, engine: GatedEngine) -> None:
    with serving(engine, settings(server={"api_keys": ["open-sesame"]})) as locked:
        locked.wait_until_loaded()
        where = ("--server", locked.url)
        assert run("one.png", *where)[0] == 4
        code, output, error = run("one.png", *where, "--api-key", "wrong-key")
        assert code == 4
        assert "an API key is needed" in error
        assert "wrong-key" not in output + error
        Path("key").write_text("open-sesame\n")
        assert run("one.png", *where, "--api-key-file", "key")[0] == 0
        assert run("two.png", *where, "--api-key", "open-sesame")[0] == 0


def test_a_file_that_cannot_be_written_exits_with_5(run: Run) -> None:
    Path("file").touch()
    code, output, error = run("one.png", "--output", "file/model.glb")
    assert (code, output) == (5, "")
    assert re.search(r"error: one\.png: file.*: cannot be written: ", error)


def test_a_thumbnail_that_cannot_be_drawn_exits_with_1_and_the_model_is_written(
    run: Run, server: Server
) -> None:
    server.faults.next("/jobs/", reply(200, b"glTF nonsense"))
    code, output, error = run("one.png", "--thumbnail")
    assert (code, output) == (1, "one.glb\n")
    assert "error: one.png: not a GLB" in error


def test_a_loading_server_is_awaited(run: Run) -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").status_code == 503, "listening")

        async def open_gate(app: Any, scope: Any, receive: Any, send: Any) -> None:
            engine.open_all()
            await app(scope, receive, send)

        server.faults.next("/healthcheck", open_gate)
        code, output, error = run("one.png", "--wait-for-server", "--server", server.url)
    assert (code, output) == (0, "one.glb\n")
    assert "server: the server is loading" in error


def test_a_server_that_failed_to_load_exits_with_3(run: Run) -> None:
    engine = GatedEngine()
    engine.failures["load"] = RuntimeError("broken")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").json()["status"] == "error", "failed")
        code, _, error = run("one.png", "--wait-for-server", "--server", server.url)
    assert code == 3
    assert error.splitlines()[-1].startswith("error: ")
