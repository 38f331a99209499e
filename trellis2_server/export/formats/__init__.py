"""Convert a GLB of this server to other file types, one writer module per format.

To add a format, write a function from `Model` to bytes in a new module and add it to `_WRITERS`.

Coordinates are those of the GLB, Y up, with the transforms of all nodes applied.

Does not know: jobs, HTTP, how the GLB was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from trellis2_server.errors import ExportError, InputError
from trellis2_server.export.cancellation import cancellable
from trellis2_server.export.formats.model import read_model
from trellis2_server.export.formats.obj import write_obj, write_obj_zip
from trellis2_server.export.formats.ply import write_ply
from trellis2_server.export.formats.stl import write_stl
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.export.formats.model import Model
    from trellis2_server.reports import Report

    Writer = Callable[[Model], bytes]

FileType = Literal["obj", "ply", "stl", "obj_zip"]

_WRITERS: Final[dict[FileType, Writer]] = {
    "obj": write_obj,
    "ply": write_ply,
    "stl": write_stl,
    "obj_zip": write_obj_zip,
}


def convert(glb: bytes, file_type: FileType, report: Report | None = None) -> bytes:
    """Convert a GLB to another file type.

    Args:
        glb: uncompressed, with one material.
        file_type: "obj" and "ply" have the base colour at their vertices; "obj_zip" has
            `model.obj`, `model.mtl` and the textures; "stl" has triangles only.
        report: stage "convert"; called at least every 50 ms, on two threads, one at a time. An
            exception that it raises ends the conversion.

    Raises:
        ExportError: the GLB cannot be read.
    """
    with cancellable(report, "convert") as watched:
        finished = stage_report(watched, "convert", 2)
        finished(0)
        try:
            model = read_model(glb)
        except InputError as error:
            raise ExportError(f"The model cannot be written as {file_type}.") from error
        finished(1)
        content = _WRITERS[file_type](model)
        finished(2)
        return content
