"""Mesh files, read in a decoder process.

Does not know: how a mesh is read, what happens with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis2_server.inputs.meshes.transfer import unpack_scene

if TYPE_CHECKING:
    from trellis2_server.decoders.pool import DecoderPool
    from trellis2_server.inputs.meshes import Scene
    from trellis2_server.mesh import Mesh
    from trellis2_server.reports import Check
    from trellis2_server.request_fields import UpAxis


def read_mesh(  # noqa: PLR0913 - what a call needs
    decoders: DecoderPool,
    content: bytes,
    *,
    rotation_deg: float,
    up_axis: UpAxis = "auto",
    keep_uv: bool = False,
    check: Check,
) -> tuple[Scene, Mesh]:
    """Read a mesh file; return its scene, and its parts at all their places in the model frame.

    Args:
        decoders: the processes.
        content: bytes of the file.
        rotation_deg: see `to_model_frame`.
        up_axis: likewise.
        keep_uv: whether the meshes keep their own texture coordinates. Otherwise a mesh gets a copy
            for each of its places, for which the picture differs; the second result has these
            copies in any case, behind the faces of the scene.
        check: called at least every 50 ms; what it raises ends the call.

    Raises:
        InputError: the file is not a mesh, is damaged, or takes too long.
        TooLargeError: the mesh exceeds a limit or the memory of a decoder.
    """
    arguments = {"rotation_deg": rotation_deg, "up_axis": up_axis, "keep_uv": keep_uv}
    meta, arrays = decoders.call("read_mesh", content, arguments, field="mesh", check=check)
    return unpack_scene(meta, arrays)
