"""Running one job of a command: generating the models of a picture and writing the files."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trellis2_server.client.cli.atomic_write import write_atomically
from trellis2_server.client.errors import ClientError
from trellis2_server.client.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.client.cli.arguments import Command
    from trellis2_server.client.cli.display import Display, Row
    from trellis2_server.client.cli.output_names import Kind
    from trellis2_server.client.client import AsyncClient
    from trellis2_server.client.records import JobState, Result


@dataclass(slots=True)
class Outcome:
    """Outcome of a job.

    Attributes:
        picture: image file.
        files: written files by kind.
        result: result of the server; None if it has none.
        error: reason why files are missing; None if the job is done.
        seconds: duration, seconds.
    """

    picture: Path
    files: dict[Kind, Path] = field(default_factory=dict["Kind", "Path"])
    result: Result | None = None
    error: ClientError | OSError | None = None
    seconds: float = 0.0


async def run_job(client: AsyncClient, command: Command, index: int, display: Display) -> Outcome:
    """Generate the models of a picture and write the files.

    Args:
        client: client of the server.
        command: the command line.
        index: number of the picture, from 1.
        display: shows the progress.
    """
    outcome = Outcome(command.pictures[index - 1])
    row = display.row(outcome.picture.name)
    begin = time.monotonic()
    try:
        await _run(client, command, index, row, outcome)
    except (ClientError, OSError) as error:
        outcome.error = error
    finally:
        row.end()
    outcome.seconds = time.monotonic() - begin
    return outcome


async def _run(
    client: AsyncClient, command: Command, index: int, row: Row, outcome: Outcome
) -> None:
    kinds, picture = command.output.kinds, outcome.picture
    values: dict[str, str | int] = {"stem": picture.stem, "index": index}
    values |= {"seed": "unknown", "uid": "unknown", "hash": "unknown"}

    def update_values(source: JobState | Result) -> None:
        known = {"seed": source.seed, "uid": source.uid, "hash": source.image_hash}
        values.update({name: value for name, value in known.items() if value is not None})

    def show(progress: Progress) -> None:
        if progress.job is not None:
            update_values(progress.job)
        row.show(progress)

    def write(kind: Kind, content: bytes) -> None:
        path = command.output.names.path(kind, values)
        write_atomically(path, content)
        outcome.files[kind] = path

    result = await client.generate(
        (command.views or picture) if command.has_files else None,
        on_progress=show,
        on_shape=lambda content: write("shape", content),
        **command.request,
    )
    outcome.result = result
    update_values(result)
    await asyncio.to_thread(write, "model", result.model)
    if "shape" in kinds and result.shape is not None and "shape" not in outcome.files:
        await asyncio.to_thread(write, "shape", result.shape)
    if "thumbnail" in kinds:
        from trellis2_server.client.thumbnail import draw_thumbnail  # needs NumPy and Pillow

        glb = await _glb(client, command, result)
        row.show(Progress(1.0, "drawing the thumbnail"))
        await asyncio.to_thread(lambda: write("thumbnail", draw_thumbnail(glb)))


async def _glb(client: AsyncClient, command: Command, result: Result) -> bytes:
    if command.output.type == "glb":
        return result.model
    file = "textured.glb" if command.output.has_texture else "shape.glb"
    return await client.download(result.uid, file)
