"""What a decoder can do: name → function of a file's bytes and of arguments.

A function returns JSON and arrays. It may raise `InputError`, `TooLargeError`,
`MissingPackageError` and `EngineError`, which the server raises again.

Does not know: who calls, in which process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.decoders import object_tasks
from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.formats import available_formats
from trellis2_server.inputs.meshes import read_scene, to_model_frame
from trellis2_server.inputs.meshes.glb_draco import import_draco
from trellis2_server.inputs.meshes.glb_meshopt import import_meshopt
from trellis2_server.inputs.meshes.placements import prefer_front, separate_placements
from trellis2_server.inputs.meshes.transfer import pack_scene

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.decoders.messages import Result, Task
    from trellis2_server.inputs.meshes import Scene
    from trellis2_server.mesh import Mesh
    from trellis2_server.request_fields import UpAxis


def prepare() -> None:
    """Load what the first call would load."""
    available_formats()
    import_meshopt()
    import_draco()


def decode_picture(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Decode a picture file; see `decoding.decode_image`.

    Args:
        content: the file.
        arguments: `max_pixels`.

    Returns:
        `has_alpha`, `warnings` and `pixels`; `rgba`, uint8 [H, W, 4].
    """
    decoded = decode_image(bytes(content), max_pixels=arguments["max_pixels"])
    meta = {
        "has_alpha": decoded.has_alpha,
        "warnings": list(decoded.warnings),
        "pixels": decoded.pixels,
    }
    return meta, {"rgba": np.asarray(decoded.image)}


def read_mesh(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Read a mesh file, and bring it into the model frame; see `transfer.pack_scene`.

    Args:
        content: the file.
        arguments: `rotation_deg`, `up_axis`, `keep_uv`; see `decoders.meshes.read_mesh`.
    """
    scene = read_scene(bytes(content), with_uv=arguments["keep_uv"])
    return pack_scene(*_place(scene, max(len(content), scene.stored_bytes), **arguments))


def _place(
    scene: Scene, file_bytes: int, *, rotation_deg: float, up_axis: UpAxis, keep_uv: bool
) -> tuple[Scene, Mesh]:
    """Bring a scene into the model frame; give each place of a mesh a copy, if there can be.

    Returns:
        The scene; with `keep_uv` without these copies, which would share their texels.
        The scene with the copies as one mesh: its faces begin with those of the scene without. So
        the frame is the same, whichever texture coordinates an export uses.
    """
    scene = prefer_front(scene, rotation_deg, up_axis)
    separate = separate_placements(scene, file_bytes)
    try:
        mesh = to_model_frame(separate, rotation_deg, up_axis)
    except TooLargeError:
        if len(separate.parts) == len(scene.parts):
            raise
        separate = scene
        mesh = to_model_frame(scene, rotation_deg, up_axis)
    return scene if keep_uv else separate, mesh


TASKS: Final[dict[str, Task]] = {
    "decode_image": decode_picture,
    "read_mesh": read_mesh,
    **object_tasks.TASKS,
}
