"""The MCP server over stdio and HTTP, with the `mcp` package's own client."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.support.engines import PATIENCE_S
from tests.support.meshes import as_bytes, egg
from tests.support.server import encoded, picture

mcp = pytest.importorskip("mcp", reason="mcp is not installed: pip install 'mcp>=1.10,<2'")

from mcp.client.stdio import StdioServerParameters, stdio_client  # noqa: E402
from mcp.client.streamable_http import streamable_http_client  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from tests.support.server import Server

ROOT = Path(__file__).parents[2]
TOOLS = {
    "generate_model", "generate_model_from_text", "texture_mesh", "follow_job", "list_jobs",
    "cancel_job", "export_model", "show_model",
}  # fmt: skip


def command(server: Server, *arguments: str) -> list[str]:
    return ["-m", "trellis2_server.mcp", "--server", server.url, *arguments]


@asynccontextmanager
async def session(server: Server, folder: Path, *arguments: str) -> AsyncGenerator[Any]:
    """A session with an MCP server over stdio, which works in that folder."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=command(server, *arguments),
        env={"PYTHONPATH": str(ROOT)},
        cwd=folder,
    )
    async with AsyncExitStack() as stack:
        errors = stack.enter_context((folder / "errors.txt").open("w"))
        read, write = await stack.enter_async_context(stdio_client(parameters, errlog=errors))
        opened = await stack.enter_async_context(mcp.ClientSession(read, write))
        await opened.initialize()
        yield opened


def talk(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(), 4 * PATIENCE_S)

    asyncio.run(bounded())


def state_of(result: Any) -> dict[str, Any]:
    assert not result.isError, result.content
    return json.loads(result.content[0].text)


def error_of(result: Any) -> str:
    assert result.isError
    return result.content[0].text


def picture_of(content: Any) -> Image.Image:
    assert (content.type, content.mimeType) == ("image", "image/png")
    return Image.open(io.BytesIO(base64.b64decode(content.data)))


def test_an_agent_makes_sees_exports_lists_and_textures_models(
    small: Server, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(picture(1))
    (tmp_path / "egg.glb").write_bytes(as_bytes(egg(), "glb"))
    progress: list[tuple[float, float | None, str | None]] = []

    async def note(fraction: float, total: float | None, message: str | None) -> None:
        progress.append((fraction, total, message))

    async def work() -> None:
        async with session(small, tmp_path) as agent:
            listed = (await agent.list_tools()).tools
            assert {tool.name for tool in listed} == TOOLS
            for tool in listed:
                assert tool.description
                assert "context" not in tool.inputSchema["properties"]
            made = await agent.call_tool(
                "generate_model", {"image": "photo.png", "seed": 7}, progress_callback=note
            )
            state = state_of(made)
            assert (state["status"], state["seed"], state["engine"]) == ("completed", 7, "preview")
            assert picture_of(made.content[1]).size == (512, 512)
            uid = state["job_id"]
            assert small.client.get(state["files"]["textured.glb"]).content[:4] == b"glTF"
            shown = await agent.call_tool("show_model", {"job_id": uid, "view": "back", "size": 64})
            assert picture_of(shown.content[0]).size == (64, 64)
            exported = state_of(
                await agent.call_tool(
                    "export_model",
                    {"job_id": uid, "type": "stl", "size_mm": 80, "name": "cup", "texture": False},
                )
            )
            assert exported["file"] == str(tmp_path / "cup.stl")
            assert (tmp_path / "cup.stl").stat().st_size == exported["bytes"]
            for purpose, name in (("ar", f"{uid}.usdz"), ("blender", f"{uid}.glb")):
                arguments = {"job_id": uid, "purpose": purpose, "texture_size": 256}
                file = state_of(await agent.call_tool("export_model", arguments))["file"]
                assert Path(file).name == name
            again = state_of(await agent.call_tool("export_model", {"job_id": uid}))
            assert Path(again["file"]).name == f"{uid}-2.glb"
            jobs = state_of(await agent.call_tool("list_jobs", {"limit": 1}))["jobs"]
            assert [job["job_id"] for job in jobs] == [uid]
            followed = await agent.call_tool("follow_job", {"job_id": uid, "wait_seconds": 0})
            assert state_of(followed)["status"] == "completed"
            cancelled = state_of(await agent.call_tool("cancel_job", {"job_id": uid}))
            assert cancelled["note"] == "it was finished already"
            arguments = {"mesh": str(tmp_path / "egg.glb"), "image": encoded(picture(2))}
            begun = await agent.call_tool("texture_mesh", {**arguments, "wait_seconds": 0})
            textured = state_of(begun)["job_id"]
            followed = await agent.call_tool("follow_job", {"job_id": textured})
            assert state_of(followed)["status"] == "completed"
            assert picture_of(followed.content[1]).size == (512, 512)

    talk(work)
    fractions = [fraction for fraction, *_ in progress]
    assert len(fractions) >= 2
    assert fractions == sorted(set(fractions))
    assert all(total == 1 and message for _, total, message in progress)


def test_an_agent_is_told_what_is_wrong(small: Server, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no picture")

    async def work() -> None:
        async with session(small, tmp_path) as agent:

            async def refused(tool: str, **arguments: Any) -> str:
                return error_of(await agent.call_tool(tool, arguments))

            assert "none.png: No such file" in await refused("generate_model", image="none.png")
            assert "image" in await refused("generate_model", image="note.txt")
            assert "not a URL" in await refused("generate_model", image="http://")
            private = f"{small.url}/page/icon.svg"
            assert "private network" in await refused("generate_model", image=private)
            assert "text" in await refused("generate_model_from_text", prompt="a chair")
            assert "resolution" in await refused("generate_model", image="a.png", resolution=7)
            assert "no such job" in await refused("follow_job", job_id="0" * 32)
            uid = small.generate().headers["X-Job-Id"]
            for name in ("../out", str(tmp_path / "out"), ".hidden", "a."):
                text = await refused("export_model", job_id=uid, name=name)
                assert "without a folder" in text

    talk(work)
    assert {path.name for path in tmp_path.iterdir()} == {"note.txt", "errors.txt"}


@pytest.mark.costly
def test_over_http_pictures_come_by_url_and_files_stay_in_their_folder(
    small: Server, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "photo.png").write_bytes(picture(4))
    (tmp_path / "secret.png").write_bytes(picture(5))
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def work() -> None:
        arguments = ("--transport", "http", "--port", str(port), "--files", str(inside))
        arguments += ("--allow-private-urls",)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command(small, *arguments), cwd=ROOT
        )
        try:
            await connected(port)
            url = f"http://127.0.0.1:{port}/mcp"
            async with (
                streamable_http_client(url) as (read, write, _),
                mcp.ClientSession(read, write) as agent,
            ):
                await agent.initialize()
                made = await agent.call_tool("generate_model", {"image": "photo.png", "seed": 2})
                uid = state_of(made)["job_id"]
                for source in (
                    f"data:image/png;base64,{encoded(picture(3))}",
                    f"{small.url}/jobs/{uid}/input.png",
                ):
                    begun = {"image": source, "seed": 1, "wait_seconds": 0}
                    state = state_of(await agent.call_tool("generate_model", begun))
                    assert state["status"] != "error"
                for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
                    text = error_of(await agent.call_tool("generate_model", {"image": path}))
                    assert "only files inside of" in text
                text = error_of(await agent.call_tool("export_model", {"job_id": uid}))
                assert "without --output" in text
        finally:
            process.terminate()
            await process.wait()

    talk(work)


async def connected(port: int) -> None:
    """Wait until something listens at a port of this machine."""
    for _ in range(int(PATIENCE_S * 20)):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()
            return
        await asyncio.sleep(0.05)
    raise AssertionError("nothing listens")
