"""Draw a GLB of this server as a picture, with compiled loops.

The renderer is that of the client's thumbnails, `trellis2_server.drawing`.

Does not know: jobs, HTTP, how the GLB was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from trellis2_server.drawing import (
    FRAMES,
    TEXTURE_PX,
    DrawingError,
    DrawnModel,
    Loops,
    draw_thumbnail,
    draw_turntable,
    make_texture,
)
from trellis2_server.drawing.model import decode_image
from trellis2_server.drawing.rasterizer import SLACK
from trellis2_server.errors import ExportError, InputError
from trellis2_server.export import cancellation
from trellis2_server.export.formats.model import read_model
from trellis2_server.export.formats.placement import place
from trellis2_server.export.parallel import parallel_for
from trellis2_server.parameters import Placement
from trellis2_server.reports import stage_report

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

    from trellis2_server.drawing.model import Pyramid
    from trellis2_server.export.material import Image
    from trellis2_server.parameters import PictureForm
    from trellis2_server.reports import Report

_NOWHERE: Final = np.empty(0)


def draw_picture(glb: bytes, form: PictureForm, report: Report | None = None) -> bytes:
    """Draw a GLB: a PNG, or an animated WebP, on a transparent ground.

    Args:
        glb: with one material; compressed or not.
        form: what is drawn.
        report: stage "draw"; called at least every 50 ms, on two threads, one at a time. An
            exception that it raises ends the drawing.

    Raises:
        ExportError: the GLB cannot be read, or this Pillow cannot write the picture.
    """
    steps = FRAMES if form.kind == "turntable" else 1
    with cancellation.cancellable(report, "draw") as watched:
        finished = stage_report(watched, "draw", steps)
        finished(0)
        try:
            model = read_drawn_model(glb)
            if form.kind == "turntable":
                return draw_turntable(
                    model, size_px=form.size_px, loops=COMPILED_LOOPS, on_frame=finished
                )
            content = draw_thumbnail(
                model, size_px=form.size_px, view=form.view, loops=COMPILED_LOOPS
            )
        except DrawingError as error:
            raise ExportError(str(error)) from error
        except InputError as error:
            raise ExportError("The model cannot be drawn.") from error
        finished(1)
        return content


def read_drawn_model(glb: bytes) -> DrawnModel:
    """Read a GLB of this server, with Y up."""
    model = place(read_model(glb), Placement("y"))
    material, has_uv = model.material, model.uv is not None and model.uv_faces is not None
    cancellation.check()
    metal_rough = _decoded(material.metal_rough, "RGB") if has_uv else None
    return DrawnModel(
        positions=model.positions,
        faces=model.faces,
        normals=model.normals,
        normal_faces=model.normal_faces,
        uvs=model.uv if model.uv is not None else np.zeros((1, 2), np.float32),
        uv_faces=model.uv_faces if model.uv_faces is not None else np.zeros_like(model.faces),
        texture=make_texture(
            _decoded(material.base_color, "RGBA") if has_uv else None,
            metal_rough,
            material.color,
            material.metallic,
            material.roughness,
            metal_rough if material.has_occlusion else None,
            normals=_decoded(material.normals, "RGB") if has_uv else None,
        ),
        is_textured=has_uv and material.base_color is not None,
        alpha_mode=material.alpha_mode,
        alpha_cutoff=0.5,
        double_sided=model.is_double_sided,
    )


def _decoded(image: Image | None, mode: str) -> Picture | None:
    return None if image is None else decode_image(image.content, mode, TEXTURE_PX)


def rasterize(
    points: NDArray[np.float64],
    faces: NDArray[np.int32],
    n: int,
    *,
    cull: bool,
    beyond: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return the nearest face at each sample, and its depth; see `drawing.rasterizer`."""
    from trellis2_server.export.kernels.drawing import draw_faces

    owner, depth = np.full(n * n, -1, np.int32), np.full(n * n, -np.inf)
    beyond = _NOWHERE if beyond is None else beyond
    cancellation.call(draw_faces, points, faces, n, cull, beyond, SLACK, owner, depth)
    return owner, depth


def interpolate(
    model: DrawnModel,
    pyramid: Pyramid,
    points: NDArray[np.float64],
    owner: NDArray[np.int32],
    sample: NDArray[np.intp],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return texture and normals at samples; see `drawing.interpolation`."""
    from trellis2_server.export.kernels.drawing import draw_samples

    texel = np.empty((len(sample), pyramid.texels.shape[1]), np.float32)
    normal = np.empty((len(sample), 3), np.float32)
    n = int(np.sqrt(len(owner)))
    parallel_for(
        draw_samples, len(sample), sample, owner, n, points, model.faces, model.normals,
        model.normal_faces, model.uvs, model.uv_faces, pyramid.texels, pyramid.levels, texel,
        normal,
    )  # fmt: skip
    return texel, normal


COMPILED_LOOPS: Final = Loops(rasterize, interpolate)
