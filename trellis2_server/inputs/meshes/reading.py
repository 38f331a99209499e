"""Read a mesh file of any accepted format; the content decides which.

To accept a format, write a reader module and add a line to `_FORMATS`.

Does not know: what is inside a file, HTTP, jobs, engines.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.inputs.foreign_files import describe_no_mesh
from trellis2_server.inputs.meshes.glb import read_glb
from trellis2_server.inputs.meshes.glb_container import is_glb, is_gltf_text
from trellis2_server.inputs.meshes.obj import is_obj, read_obj
from trellis2_server.inputs.meshes.ply import is_ply, read_ply
from trellis2_server.inputs.meshes.scene import check_density
from trellis2_server.inputs.meshes.stl import (
    is_binary_stl,
    is_binary_stl_of_other_size,
    is_text_stl,
    read_binary_stl,
    read_text_stl,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.meshes.scene import Axis, Scene


@dataclass(frozen=True, slots=True)
class _Format:
    """A mesh format.

    Attributes:
        name: for error messages.
        matches: whether a file's content looks like this format.
        read: reads the file; may raise any of `_READ_ERRORS`.
        up_axis: the axis that points up in most files.
        read_with_uv: likewise with texture coordinates; None if `read` has them, or the format not.
    """

    name: str
    matches: Callable[[bytes], bool]
    read: Callable[[bytes], Scene]
    up_axis: Axis = "y"
    read_with_uv: Callable[[bytes], Scene] | None = None


#: Texts have no zero in this part of them.
_BINARY_BYTES: Final = 4096
#: Headers of the binary STL files that this server writes, by the axis that points up.
_OWN_STL_HEADERS: Final[dict[Axis, bytes]] = {
    "y": b"trellis2-server".ljust(80), "z": b"trellis2-server, Z up".ljust(80),
}  # fmt: skip

#: In the order in which they are tried.
_FORMATS: Final = (
    _Format("GLB", is_glb, read_glb),
    _Format("glTF", is_gltf_text, read_glb),
    _Format("PLY", is_ply, read_ply, read_with_uv=partial(read_ply, with_uv=True)),
    _Format("STL", is_binary_stl, read_binary_stl, "z"),
    _Format("STL", is_text_stl, read_text_stl, "z"),
    _Format("OBJ", is_obj, read_obj, read_with_uv=partial(read_obj, with_uv=True)),
    _Format("STL", is_binary_stl_of_other_size, read_binary_stl, "z"),
)

#: Raised by readers on damaged files.
_READ_ERRORS: Final = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
    struct.error,
)  # fmt: skip


def read_scene(content: bytes, *, with_uv: bool = False, is_own: bool = False) -> Scene:
    """Read a GLB, glTF, OBJ, PLY or STL file.

    Args:
        content: of the file.
        with_uv: whether texture coordinates are needed. In an OBJ, they take more vertices.
        is_own: whether the file is a GLB of this server, which may have more faces than others, and
            many for its size.

    Raises:
        InputError: the file is of another format, damaged, truncated or has no triangles.
        TooLargeError: the file exceeds a limit on vertices, faces, corners of a face or nodes.
    """
    file_format = _recognize(content)
    name = file_format.name
    read = (file_format.read_with_uv if with_uv else None) or file_format.read
    try:
        with np.errstate(all="ignore"):  # values that are not finite are refused below
            scene = read_glb(content, is_own=True) if is_own else read(content)
    except InputError:
        raise
    except _READ_ERRORS as error:
        raise InputError(f"mesh: a broken {name} file") from error
    faces = sum(len(part.faces) for part in scene.parts)
    if not faces:
        unread = f", only {', '.join(scene.unread)}, which is not read" if scene.unread else ""
        raise InputError(f"mesh: the {name} file has no triangle{unread}")
    if not is_own:
        vertices = sum(len(part.positions) for part in scene.parts)
        check_density(vertices, faces, max(len(content), scene.stored_bytes))
    for part in scene.parts:
        if part.faces.size and not 0 <= int(part.faces.min()) <= int(part.faces.max()) < len(
            part.positions
        ):
            raise InputError(
                f"mesh: a face of the {name} file refers to a vertex that does not exist"
            )
        if not np.isfinite(part.positions).all():
            raise InputError(f"mesh: a vertex of the {name} file is not finite")
    declared = _declared_axis(content) if name == "STL" else None
    up_axis = declared or file_format.up_axis
    return replace(scene, up_axis=up_axis, is_up_axis_declared=declared is not None)


def _declared_axis(content: bytes) -> Axis | None:
    """Return the axis that points up in an STL of this server, None for one of another program."""
    for axis, header in _OWN_STL_HEADERS.items():
        if content.startswith(header):
            return axis
    return None


def check_beginning(content: bytes) -> None:
    """Refuse a binary file that no reader knows, by its beginning and size; it is not read.

    Raises:
        InputError: the file is of another format.
    """
    if b"\0" in content[:_BINARY_BYTES]:  # the others are sought for a vertex, which takes longer
        _recognize(content)


def _recognize(content: bytes) -> _Format:
    for file_format in _FORMATS:
        if file_format.matches(content):
            return file_format
    what = describe_no_mesh(content)
    raise InputError(
        "mesh: not a GLB, glTF, OBJ, PLY or STL file"
        + (f" but {what}" if what else ", or its beginning is missing")
    )
