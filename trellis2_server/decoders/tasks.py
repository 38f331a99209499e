"""What a decoder can do: name → function of a file's bytes and of arguments.

A function returns JSON and arrays. It may raise `InputError`, `TooLargeError`,
`MissingPackageError` and `EngineError`, which the server raises again.

Does not know: who calls, in which process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.decoders import object_tasks
from trellis2_server.inputs.images.decoding import decode_image
from trellis2_server.inputs.images.formats import available_formats
from trellis2_server.inputs.meshes import read_scene, to_model_frame
from trellis2_server.inputs.meshes.glb_draco import import_draco
from trellis2_server.inputs.meshes.glb_meshopt import import_meshopt
from trellis2_server.inputs.meshes.transfer import pack_scene

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.decoders.messages import Result, Task


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
        `has_alpha` and `warnings`; `rgba`, uint8 [H, W, 4].
    """
    decoded = decode_image(bytes(content), max_pixels=arguments["max_pixels"])
    meta = {"has_alpha": decoded.has_alpha, "warnings": list(decoded.warnings)}
    return meta, {"rgba": np.asarray(decoded.image)}


def read_mesh(content: memoryview, arguments: Mapping[str, Any]) -> Result:
    """Read a mesh file, and bring it into the model frame; see `transfer.pack_scene`.

    Args:
        content: the file.
        arguments: `rotation_deg`.
    """
    scene = read_scene(bytes(content))
    return pack_scene(scene, to_model_frame(scene, arguments["rotation_deg"]))


TASKS: Final[dict[str, Task]] = {
    "decode_image": decode_picture,
    "read_mesh": read_mesh,
    **object_tasks.TASKS,
}
