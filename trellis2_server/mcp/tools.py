"""The tools, and the MCP server that has them.

Does not know: how files are read, how the server makes models.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from mcp.server.fastmcp import Context, FastMCP
from mcp.server.fastmcp.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from trellis2_server.client import AsyncClient, ClientError
from trellis2_server.mcp.results import describe, follow, picture, summary
from trellis2_server.purposes import suited_fields
from trellis2_server.request_fields import (
    EXTENSIONS,
    FileType,
    PictureView,
    Preset,
    Resolution,
    TextureSize,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trellis2_server.mcp.files import FileAccess

    Tool = TypeVar("Tool", bound=Callable[..., Awaitable[Any]])

#: How long a tool waits for a job unless it is told otherwise; clients often give up after a minute
#: without a notification of progress, seconds.
WAIT_S: Final = 300
MAX_WAIT_S: Final = 3600
#: How long to retry while the server cannot be reached, seconds.
PATIENCE_S: Final = 30.0
_READ_ONLY: Final = ToolAnnotations(readOnlyHint=True, openWorldHint=False)
_MAKES: Final = ToolAnnotations(readOnlyHint=False, destructiveHint=False, openWorldHint=True)
_CANCELS: Final = ToolAnnotations(readOnlyHint=False, destructiveHint=True, openWorldHint=False)
_INSTRUCTIONS: Final = (
    "Makes textured 3D models from a picture of one object, with TRELLIS.2. A job may take "
    "minutes: when a tool returns before its job is finished, call follow_job. Look at the "
    "returned picture before you say that a model is good; another seed gives another model. "
    "export_model writes a finished model to a file, with fewer faces or in another format, "
    "without making it again."
)

Picture = Annotated[
    str,
    Field(description="A picture of one object: a path, a URL, a data: URI or base64."),
]
JobId = Annotated[str, Field(description="job_id of a job.")]
Wait = Annotated[
    float,
    Field(ge=0, le=MAX_WAIT_S, description="How long to wait for the model, seconds."),
]
Seed = Annotated[
    int | None, Field(ge=-1, le=2**32 - 1, description="Random seed; -1: a random one.")
]
VoxelResolution = Annotated[
    Resolution | None,
    Field(description="Voxels along an edge: more are finer and slower."),
]
Faces = Annotated[
    int | None, Field(ge=1_000, le=16_777_216, description="Maximum number of faces.")
]
TextureSizePx = Annotated[
    TextureSize | None,
    Field(description="Edge length of the textures, pixels."),
]
Background = Annotated[
    bool | None,
    Field(description="Remove the background; omitted: unless the picture is a cut-out."),
]
Call = Context[Any, Any, Any]


def make_server(
    address: str | None,
    api_key: str | None,
    access: FileAccess,
    *,
    host: str,
    port: int,
) -> FastMCP[Any]:
    """Return an MCP server with the tools of a server.

    Args:
        address: of the server; None: the client's default.
        api_key: of the server; None: the client's default.
        access: what tools may read and write.
        host: address to listen on over HTTP.
        port: port to listen on over HTTP.

    Raises:
        UsageError: the address or the key is invalid.
    """
    tools = Tools(
        functools.partial(AsyncClient, address, api_key=api_key, patience_s=PATIENCE_S), access
    )
    tools.check()
    server: FastMCP[Any] = FastMCP(
        "TRELLIS.2", _INSTRUCTIONS, host=host, port=port, log_level="WARNING"
    )
    for tool, hints in (
        (tools.generate_model, _MAKES),
        (tools.generate_model_from_text, _MAKES),
        (tools.texture_mesh, _MAKES),
        (tools.follow_job, _READ_ONLY),
        (tools.list_jobs, _READ_ONLY),
        (tools.cancel_job, _CANCELS),
        (tools.export_model, _MAKES),
        (tools.show_model, _READ_ONLY),
    ):
        server.add_tool(_with_errors(tool), annotations=hints, structured_output=False)
    return server


def _with_errors(tool: Tool) -> Tool:
    """Return a tool whose client's errors are errors of the tool, with their own sentence."""

    @functools.wraps(tool)
    async def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return await tool(*args, **kwargs)
        except ClientError as error:
            raise ToolError(str(error)) from error

    return call  # pyright: ignore[reportReturnType]


class Tools:
    """The tools of one server. Their docstrings and arguments are what an agent reads.

    Args:
        connect: returns a client of the server.
        access: what tools may read and write.
    """

    def __init__(self, connect: Callable[[], AsyncClient], access: FileAccess) -> None:
        self._connect = connect
        self._access = access

    def check(self) -> None:
        """Check the address and the key.

        Raises:
            UsageError: one of them is invalid.
        """
        self._connect()

    async def generate_model(  # noqa: PLR0913, PLR0917 - arguments of a tool
        self,
        image: Picture,
        context: Call,
        seed: Seed = None,
        resolution: VoxelResolution = None,
        decimation_target: Faces = None,
        texture_size: TextureSizePx = None,
        remove_background: Background = None,
        wait_seconds: Wait = WAIT_S,
    ) -> list[Any]:
        """Make a textured 3D model from a picture of one object; return its job and a picture."""
        content = await self._access.read("image", image)
        fields = {
            "seed": seed,
            "resolution": resolution,
            "decimation_target": decimation_target,
            "texture_size": texture_size,
            "remove_background": remove_background,
        }
        async with self._connect() as client:
            uid = await client.submit(content, extra=fields)
            return await self._wait(client, uid, wait_seconds, context)

    async def generate_model_from_text(  # noqa: PLR0913, PLR0917 - arguments of a tool
        self,
        prompt: Annotated[str, Field(min_length=1, max_length=4000, description="One object.")],
        context: Call,
        seed: Seed = None,
        resolution: VoxelResolution = None,
        decimation_target: Faces = None,
        texture_size: TextureSizePx = None,
        wait_seconds: Wait = WAIT_S,
    ) -> list[Any]:
        """Make a textured 3D model from words, if the server has a text-to-image model."""
        fields: dict[str, Any] = {
            "seed": seed,
            "resolution": resolution,
            "decimation_target": decimation_target,
            "texture_size": texture_size,
        }
        async with self._connect() as client:
            uid = await client.submit_text(prompt, **fields)
            return await self._wait(client, uid, wait_seconds, context)

    async def texture_mesh(  # noqa: PLR0913, PLR0917 - arguments of a tool
        self,
        mesh: Annotated[
            str, Field(description="GLB, OBJ, PLY or STL: a path, a URL, a data: URI or base64.")
        ],
        image: Picture,
        context: Call,
        seed: Seed = None,
        texture_size: TextureSizePx = None,
        geo_rotation: Annotated[
            float | None,
            Field(ge=-360, le=360, description="Degrees to turn the mesh so that its front is +Z."),
        ] = None,
        wait_seconds: Wait = WAIT_S,
    ) -> list[Any]:
        """Give a mesh a texture after a picture, and keep its faces."""
        picture_content = await self._access.read("image", image)
        mesh_content = await self._access.read("mesh", mesh)
        fields = {"seed": seed, "texture_size": texture_size, "geo_rotation": geo_rotation}
        async with self._connect() as client:
            uid = await client.submit(picture_content, mesh=mesh_content, extra=fields)
            return await self._wait(client, uid, wait_seconds, context)

    async def follow_job(
        self, job_id: JobId, context: Call, wait_seconds: Wait = WAIT_S
    ) -> list[Any]:
        """Wait for a job, and return its state and a picture of its model; 0 seconds: at once."""
        async with self._connect() as client:
            return await self._wait(client, job_id, wait_seconds, context)

    async def list_jobs(
        self,
        limit: Annotated[int, Field(ge=1, le=100, description="Jobs, at most.")] = 20,
        before: Annotated[
            str | None, Field(description="job_id; older jobs than that one.")
        ] = None,
    ) -> list[Any]:
        """List jobs, newest first."""
        async with self._connect() as client:
            jobs = await client.jobs(limit=limit, before=before)
            return [{"jobs": [summary(client.server, state) for state in jobs]}]

    async def cancel_job(self, job_id: JobId) -> list[Any]:
        """Cancel a job that is not finished. A finished one keeps its files."""
        async with self._connect() as client:
            state = await client.job(job_id)
            if not state.is_finished:
                await client.cancel(job_id)
                return [{"job_id": job_id, "status": "cancelled"}]
            return [{"job_id": job_id, "status": state.status, "note": "it was finished already"}]

    async def export_model(  # noqa: PLR0913, PLR0917 - arguments of a tool
        self,
        job_id: JobId,
        type: Annotated[  # noqa: A002 - as the API calls it
            FileType | None, Field(description="File type; omitted: that of purpose, or glb.")
        ] = None,
        purpose: Annotated[
            Preset | None, Field(description="Sets the fields that are left out to what suits it.")
        ] = None,
        name: Annotated[
            str | None, Field(description="Name of the file, without folder and extension.")
        ] = None,
        decimation_target: Faces = None,
        texture_size: TextureSizePx = None,
        size_mm: Annotated[
            float | None,
            Field(gt=0, le=100_000, description="Longest edge of stl, 3mf, obj or ply."),
        ] = None,
        texture: Annotated[bool | None, Field(description="false: without a texture.")] = None,
    ) -> list[Any]:
        """Write the model of a finished job to a file; return its path."""
        fields: dict[str, Any] = {
            "type": type,
            "preset": purpose,
            "decimation_target": decimation_target,
            "texture_size": texture_size,
            "size_mm": size_mm,
            "texture": texture,
        }
        self._access.check_name(name or job_id)
        suited = suited_fields(purpose, type, has_mesh=False) if purpose else {}
        wanted = str(type or suited.get("type") or "glb")
        async with self._connect() as client:
            content = await client.export(job_id, fields)
            extension = EXTENSIONS[wanted]  # pyright: ignore[reportArgumentType]
            path = await asyncio.to_thread(self._access.write, name or job_id, extension, content)
            return [{"job_id": job_id, "file": str(path), "bytes": len(content), "type": wanted}]

    async def show_model(
        self,
        job_id: JobId,
        view: Annotated[PictureView, Field(description="Where it is seen from.")] = (
            "three_quarter"
        ),
        size: Annotated[int, Field(ge=32, le=1024, description="Edge, pixels.")] = 512,
    ) -> list[Any]:
        """Return a picture of a job's model."""
        async with self._connect() as client:
            return [await picture(client, job_id, view, size)]

    async def _wait(
        self, client: AsyncClient, uid: str, wait_seconds: float, context: Call
    ) -> list[Any]:
        state = await follow(client, uid, wait_seconds, context)
        if state.error is not None:
            raise ClientError(f"job {uid}: {state.error}")
        return await describe(client, state)
