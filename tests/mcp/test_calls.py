"""What each tool asks of the server, and returns."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("mcp", reason="mcp is not installed: pip install 'mcp>=1.10,<2'")

from mcp.server.fastmcp.exceptions import ToolError

from tests.mcp.test_results import JOB, Call, Client
from trellis2_server.client import ClientError, UsageError
from trellis2_server.mcp import tools
from trellis2_server.mcp.files import FileAccess
from trellis2_server.mcp.remote_files import RemoteFiles
from trellis2_server.mcp.tools import Tools

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

PICTURE = "data:image/png;base64," + base64.b64encode(b"picture").decode()
MESH = "data:model/gltf-binary;base64," + base64.b64encode(b"mesh").decode()
DONE = replace(JOB, status="completed", shape_ready=True, files={"shape.glb": 3})


class Server(Client):
    """A client whose server takes anything; notes what it is asked."""

    def __init__(self, *states: Any) -> None:
        super().__init__(*states)
        self.calls: list[tuple[Any, ...]] = []

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.calls.append(("closed",))

    async def submit(self, image: bytes, **named: Any) -> str:
        named["extra"] = {key: value for key, value in named["extra"].items() if value is not None}
        self.calls.append(("submit", image, named))
        return "1"

    async def submit_text(self, text: str, **fields: Any) -> str:
        given = {key: value for key, value in fields.items() if value is not None}
        self.calls.append(("submit_text", text, given))
        return "1"

    async def jobs(self, **named: Any) -> list[Any]:
        self.calls.append(("jobs", named))
        return list(self.states)

    async def cancel(self, uid: str) -> None:
        self.calls.append(("cancel", uid))

    async def export(self, uid: str, fields: dict[str, Any]) -> bytes:
        given = {key: value for key, value in fields.items() if value is not None}
        self.calls.append(("export", uid, given))
        return b"model"


def asked(
    call: Callable[[Tools], Coroutine[Any, Any, list[Any]]],
    *states: Any,
    output: Path | None = None,
) -> tuple[list[Any], list[tuple[Any, ...]]]:
    """Return what a tool returns and what it has asked."""
    server: Any = Server(*(states or (DONE,)))
    access = FileAccess(RemoteFiles(), reads_all=False, folder=None, output=output)
    parts = asyncio.run(call(Tools(lambda: server, access)))
    assert server.calls.pop() == ("closed",)
    return parts, server.calls


def context() -> Any:
    return Call()


def test_a_model_is_asked_for_with_the_fields_that_are_given() -> None:
    fields = {"seed": 0, "resolution": 512, "decimation_target": 1000, "texture_size": 256}
    more = {**fields, "remove_background": False}
    parts, calls = asked(lambda tools: tools.generate_model(PICTURE, context(), **more))  # type: ignore[arg-type]
    assert calls == [("submit", b"picture", {"extra": more})]
    assert (parts[0]["status"], parts[1].data) == ("completed", b"png")
    parts, calls = asked(lambda tools: tools.generate_model_from_text("a cup", context(), **fields))  # type: ignore[arg-type]
    assert calls == [("submit_text", "a cup", fields)]
    assert (parts[0]["status"], parts[1].data) == ("completed", b"png")


def test_a_mesh_is_sent_with_its_picture() -> None:
    fields = {"seed": 3, "texture_size": 512, "geo_rotation": 90.0}
    parts, calls = asked(lambda tools: tools.texture_mesh(MESH, PICTURE, context(), **fields))  # type: ignore[arg-type]
    assert calls == [("submit", b"picture", {"mesh": b"mesh", "extra": fields})]
    assert parts[0]["job_id"] == "1"


def test_a_job_that_failed_is_an_error_with_its_reason() -> None:
    failed = replace(JOB, status="error", error="no object")
    with pytest.raises(ClientError, match=r"^job 1: no object$"):
        asked(lambda tools: tools.follow_job("1", context()), failed)


def test_an_agents_call_returns_what_the_tool_does_or_the_sentence_of_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = replace(JOB, status="error", error="no object")
    access = FileAccess(RemoteFiles(), reads_all=False, folder=None, output=None)

    def call(name: str, *states: Any) -> Any:
        monkeypatch.setattr(tools, "AsyncClient", lambda *_, **__: Server(*states))
        server = tools.make_server(None, None, access, host="127.0.0.1", port=8083)
        return asyncio.run(server.call_tool(name, {"job_id": "1"}))

    (text,) = call("cancel_job", JOB)
    assert json.loads(text.text) == {"job_id": "1", "status": "cancelled"}
    with pytest.raises(ToolError, match=r"job 1: no object$"):
        call("follow_job", failed)


def test_jobs_are_listed_and_unfinished_ones_cancelled() -> None:
    parts, calls = asked(lambda tools: tools.list_jobs(limit=2, before="9"), DONE, JOB)
    assert calls == [("jobs", {"limit": 2, "before": "9"})]
    assert [job["status"] for job in parts[0]["jobs"]] == ["completed", "shape_processing"]
    parts, calls = asked(lambda tools: tools.cancel_job("1"), JOB)
    assert (parts, calls) == ([{"job_id": "1", "status": "cancelled"}], [("cancel", "1")])
    parts, calls = asked(lambda tools: tools.cancel_job("1"), DONE)
    assert (parts[0]["status"], calls) == ("completed", [])


@pytest.mark.parametrize(
    ("named", "sent", "file"),
    [
        ({}, {}, "1.glb"),
        (
            {"name": "cup", "type": "stl", "size_mm": 80.0},
            {"type": "stl", "size_mm": 80.0},
            "cup.stl",
        ),
        ({"purpose": "ar"}, {"preset": "ar"}, "1.usdz"),
        ({"purpose": "ar", "type": "obj"}, {"preset": "ar", "type": "obj"}, "1.obj"),
        (
            {"texture": False, "decimation_target": 1000, "texture_size": 256},
            {"texture": False, "decimation_target": 1000, "texture_size": 256},
            "1.glb",
        ),
    ],
    ids=range(5),
)
def test_a_model_is_written_to_a_file_of_its_type(
    tmp_path: Path, named: dict[str, Any], sent: dict[str, Any], file: str
) -> None:
    parts, calls = asked(lambda tools: tools.export_model("1", **named), output=tmp_path)
    assert calls == [("export", "1", sent)]
    assert (tmp_path / file).read_bytes() == b"model"
    assert parts == [
        {
            "job_id": "1", "file": str(tmp_path / file), "bytes": 5,
            "type": file.rpartition(".")[2],
        }
    ]  # fmt: skip


def test_a_name_that_is_none_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    server: Any = Server(DONE)
    access = FileAccess(RemoteFiles(), reads_all=False, folder=None, output=tmp_path)
    with pytest.raises(UsageError, match="name: must be letters"):
        asyncio.run(Tools(lambda: server, access).export_model("1", name="../cup"))
    assert server.calls == []


def test_a_picture_of_a_model_is_that_of_its_view() -> None:
    server: Any = Server(DONE)
    tools = Tools(
        lambda: server, FileAccess(RemoteFiles(), reads_all=False, folder=None, output=None)
    )
    for arguments, query in (
        ({}, "size=512&view=three_quarter"),
        ({"view": "back", "size": 64}, "size=64&view=back"),
    ):
        (shown,) = asyncio.run(tools.show_model("1", **arguments))
        assert shown.data == b"png"
        assert server.asked.pop() == f"1/thumbnail.png?{query}"
