"""Drawing a model: as an array of pixels, as a PNG, as a WebP that turns."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image

from trellis2_server.drawing.camera import VIEWS, axes_of, frame_around, frame_of, project
from trellis2_server.drawing.color import encode_srgb
from trellis2_server.drawing.errors import DrawingError
from trellis2_server.drawing.glb import load_glb
from trellis2_server.drawing.loops import NUMPY_LOOPS
from trellis2_server.drawing.model import ALPHA, make_pyramid
from trellis2_server.drawing.normal_map import mapped_normals
from trellis2_server.drawing.shading import shade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from trellis2_server.drawing.camera import Frame, View
    from trellis2_server.drawing.loops import Loops
    from trellis2_server.drawing.model import DrawnModel, Pyramid
    from trellis2_server.drawing.shading import Shading

THUMBNAIL_SIZE_PX: Final = 512
#: Longest edge of textures, of which a picture of at most 1024 pixels shows each texel.
TEXTURE_PX: Final = 2048
#: Pictures of a turntable, and how long each is shown, milliseconds.
FRAMES: Final = 24
FRAME_MS: Final = 110
#: Samples along an edge of a pixel, by the largest size of the picture; beyond it: 2.
_SAMPLES: Final = ((320, 4), (640, 3))
_TURNTABLE_SAMPLES: Final = 2
#: Samples that are shaded at once: their arrays fit into the processor's cache.
_CHUNK: Final = 1 << 15
#: Surfaces behind each other that are seen through a transparent one.
_LAYERS: Final = 16
#: Part of the light from behind that is not worth another layer.
_NOTHING: Final = 1 / 512


def draw_model(  # noqa: PLR0913 - what a picture has
    model: DrawnModel,
    *,
    size_px: int = THUMBNAIL_SIZE_PX,
    view: View = "front",
    shading: Shading = "lit",
    frame: Frame | None = None,
    loops: Loops = NUMPY_LOOPS,
) -> NDArray[np.uint8]:
    """Draw a model; return RGBA with straight alpha (coverage), uint8 [size_px, size_px, 4].

    Args:
        model: see `load_glb`.
        size_px: edge of the picture, pixels.
        view: name in `VIEWS`, or azimuth and elevation in degrees.
        shading: `unlit` (base colour), `lit` or `clay` (lit, grey, opaque but for a mask).
        frame: part of the view plane to show; None: the model with a small margin.
        loops: does most of the work.
    """
    axes = axes_of(view)
    frame = frame or frame_of(model.positions, axes)
    samples = next((each for size, each in _SAMPLES if size_px <= size), 2)
    camera = _Camera(size_px, samples, axes, frame)
    return _draw(model, make_pyramid(model.texture), camera, shading, loops)


class _Camera(NamedTuple):
    """Where a picture is seen from; `samples` along an edge of a pixel."""

    size_px: int
    samples: int
    axes: NDArray[np.float64]
    frame: Frame


def _draw(
    model: DrawnModel,
    pyramid: Pyramid,
    camera: _Camera,
    shading: Shading,
    loops: Loops,
) -> NDArray[np.uint8]:
    size_px, samples, axes, frame = camera
    n = size_px * samples
    points = project(model.positions, axes, frame, n)
    light = np.zeros((n * n, 3), np.float32)
    through = np.ones(n * n, np.float32)
    beyond = None
    for _ in range(_LAYERS):
        owner, depth = loops.rasterize(
            points, model.faces, n, cull=not model.double_sided, beyond=beyond
        )
        sample = np.flatnonzero(owner >= 0)
        for some in np.split(sample, range(_CHUNK, len(sample), _CHUNK)):
            texels, normal = loops.interpolate(model, pyramid, points, owner, some)
            if model.double_sided:
                normal[normal @ axes[2] < 0] *= -1
            normal = mapped_normals(model, owner[some], texels, normal)
            alpha = _opacity(model, texels, shading) * through[some]
            light[some] += shade(texels, normal, axes, shading) * alpha[:, None]
            through[some] -= alpha
        is_open = through[sample] > _NOTHING
        if not is_open.any():
            break
        beyond = np.full(n * n, -np.inf)
        beyond[sample[is_open]] = depth[sample[is_open]]
    means = np.concatenate([light, 1 - through[:, None]], -1)
    pixels = means.reshape(size_px, samples, size_px, samples, 4).mean((1, 3))
    color = encode_srgb(pixels[..., :3] / np.maximum(pixels[..., 3:], 1e-6))
    color[pixels[..., 3] <= 0] = 0
    return np.rint(255 * np.clip(np.dstack([color, pixels[..., 3]]), 0, 1)).astype(np.uint8)


def _opacity(
    model: DrawnModel, texels: NDArray[np.float32], shading: Shading
) -> NDArray[np.float32]:
    """Return how much of what is behind each sample it hides, 0 to 1, float32 [S]."""
    if model.alpha_mode == "MASK" and shading != "clay":
        return (texels[:, ALPHA] >= 255 * model.alpha_cutoff).astype(np.float32)
    if model.alpha_mode == "BLEND" and shading != "clay":
        return (texels[:, ALPHA] / 255).astype(np.float32)
    return np.ones(len(texels), np.float32)


def draw(
    glb: bytes,
    *,
    size_px: int = THUMBNAIL_SIZE_PX,
    view: View = "front",
    shading: Shading = "lit",
) -> NDArray[np.uint8]:
    """Draw a GLB; see `draw_model`.

    Raises:
        DrawingError: the GLB cannot be drawn.
    """
    return draw_model(load_glb(glb), size_px=size_px, view=view, shading=shading)


def draw_thumbnail(
    model: DrawnModel,
    *,
    size_px: int = THUMBNAIL_SIZE_PX,
    view: View = "three_quarter",
    loops: Loops = NUMPY_LOOPS,
) -> bytes:
    """Return a PNG of a model on a transparent ground; a model without a texture is grey."""
    pixels = draw_model(model, size_px=size_px, view=view, shading=_shading(model), loops=loops)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=6)
    return file.getvalue()


def draw_turntable(
    model: DrawnModel,
    *,
    size_px: int,
    loops: Loops = NUMPY_LOOPS,
    on_frame: Callable[[int], None] = lambda _: None,
) -> bytes:
    """Return an animated WebP of `FRAMES` views around a model; the first is a thumbnail's.

    Args:
        model: see `load_glb`.
        size_px: edge of the picture, pixels.
        loops: does most of the work.
        on_frame: called with the number of finished frames, after each; what it raises ends this.

    Raises:
        DrawingError: this Pillow cannot write WebP.
    """
    pyramid, shading = make_pyramid(model.texture), _shading(model)
    azimuth, elevation = VIEWS["three_quarter"]
    frame = frame_around(model.positions, elevation)

    def frames() -> Iterator[Image.Image]:
        for number in range(FRAMES):
            axes = axes_of((azimuth + 360 * number / FRAMES, elevation))
            camera = _Camera(size_px, _TURNTABLE_SAMPLES, axes, frame(axes))
            pixels = _draw(model, pyramid, camera, shading, loops)
            yield Image.fromarray(pixels)
            on_frame(number + 1)

    file = io.BytesIO()
    images = frames()
    try:
        next(images).save(
            file, "WEBP", save_all=True, append_images=images, duration=FRAME_MS, loop=0,
            quality=82, method=2,
        )  # fmt: skip
    except KeyError as error:
        raise DrawingError("turntables require a Pillow that can write WebP") from error
    return file.getvalue()


def _shading(model: DrawnModel) -> Shading:
    return "lit" if model.is_textured else "clay"
