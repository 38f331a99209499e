"""Convert a GLB of this server to other file types, one writer module per format.

To add a format, write a function from `Model` to bytes in a new module and add it to `_WRITERS`.

Coordinates are those of the GLB, Y up, with the transforms of all nodes applied, turned, scaled and
moved by the placement of the file.

Does not know: jobs, HTTP, how the GLB was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.errors import ExportError, InputError
from trellis2_server.export.cancellation import cancellable
from trellis2_server.export.formats.gltf_files import write_glb, write_gltf_zip
from trellis2_server.export.formats.model import read_model
from trellis2_server.export.formats.obj import write_obj, write_obj_zip
from trellis2_server.export.formats.placement import place
from trellis2_server.export.formats.ply import write_ply
from trellis2_server.export.formats.stl import write_stl
from trellis2_server.export.formats.threemf import write_3mf
from trellis2_server.export.formats.usdz import write_usdz
from trellis2_server.parameters import PlacedFile, default_placement
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trellis2_server.export.formats.model import Model
    from trellis2_server.parameters import FileForm, FileType, Placement
    from trellis2_server.reports import Report

_WRITERS: Final[Mapping[FileType, Callable[[Model], bytes]]] = {
    "obj": write_obj,
    "ply": write_ply,
    "stl": write_stl,
    "obj_zip": write_obj_zip,
    "3mf": write_3mf,
    "usdz": write_usdz,
}
#: Writers that take the GLB as it is.
_GLTF_WRITERS: Final[Mapping[FileType, Callable[[bytes, Placement], bytes]]] = {
    "glb": write_glb,
    "gltf_zip": write_gltf_zip,
}


def convert(glb: bytes, form: FileForm, report: Report | None = None) -> bytes:
    """Convert a GLB to another file type, or place its model otherwise.

    Args:
        glb: with one material; uncompressed for another type than "glb".
        form: "obj" and "ply" have the base colour at their vertices; "obj_zip" has `model.obj`,
            `model.mtl` and the textures, "gltf_zip" `model.gltf`, `model.bin` and the textures;
            "usdz" the textures; "3mf" that of the base colour; "stl" has triangles only.
        report: stage "convert"; called at least every 50 ms, on two threads, one at a time. An
            exception that it raises ends the conversion.

    Raises:
        ExportError: the GLB cannot be read.
    """
    file_type = form.type if isinstance(form, PlacedFile) else form
    placement = form.placement if isinstance(form, PlacedFile) else default_placement(form)
    with cancellable(report, "convert") as watched:
        finished = stage_report(watched, "convert", 2)
        finished(0)
        try:
            if file_type in _GLTF_WRITERS:
                finished(1)
                content = _GLTF_WRITERS[file_type](glb, placement)
            else:
                model = place(read_model(glb), placement)
                finished(1)
                content = _WRITERS[file_type](model)
        except InputError as error:
            raise ExportError(f"The model cannot be written as {file_type}.") from error
        finished(2)
        return content
