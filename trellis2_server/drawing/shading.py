"""Light that a surface sends to the camera, under lights that are fixed to the camera.

A large key light from the upper left, a fill light from the right, a rim light from behind, and a
sky that is brighter than the ground. Diffuse light is softened at the terminator; reflections are
those of glTF's metallic-roughness material (glTF 2.0, appendix B) in Blinn and Phong's form.

Does not know: textures, triangles, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from trellis2_server.drawing.color import decode_srgb
from trellis2_server.drawing.model import METALLIC, OCCLUSION, RGB, ROUGHNESS

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: `unlit`: the base colour; `lit`: under lights; `clay`: grey under lights.
Shading = Literal["unlit", "lit", "clay"]

#: Direction toward a light in the camera's frame (right, up, toward it), and its intensity.
_LIGHTS: Final = (
    ((-0.45, 0.65, 0.61), 0.78),
    ((0.80, 0.10, 0.59), 0.20),
    ((0.25, 0.55, -0.80), 0.22),
)
#: How far beyond the terminator diffuse light reaches.
_WRAP: Final = 0.22
_SKY: Final = 0.42
_GROUND: Final = 0.20
#: How much brighter the surroundings are in reflections: there are lamps in them.
_REFLECTED: Final = 1.7
#: Largest exponent of a highlight: the lights are large.
_SHARPEST: Final = 150
_CLAY: Final = 0.58
_CLAY_ROUGHNESS: Final = 0.62
#: Reflectance of what is no metal.
_DIELECTRIC: Final = 0.04


def shade(
    texels: NDArray[Any], normal: NDArray[Any], axes: NDArray[Any], shading: Shading
) -> NDArray[np.float32]:
    """Return linear light, 0 to 1, float32 [N, 3].

    Args:
        texels: see `DrawnModel.texture`, 0 to 255, [N, C].
        normal: normals in glTF's frame, [N, 3].
        axes: the camera's axes, see `axes_of`.
        shading: how to shade.
    """
    texels = texels.astype(np.float32) / np.float32(255)
    if shading == "unlit":
        return decode_srgb(texels[:, RGB]).astype(np.float32)
    if shading == "clay":
        base = np.full((len(texels), 3), _CLAY, np.float32)
        metallic, roughness = np.float32(0), np.float32(_CLAY_ROUGHNESS)
    else:
        base = decode_srgb(texels[:, RGB]).astype(np.float32)
        metallic, roughness = texels[:, METALLIC, None], texels[:, ROUGHNESS, None]
    length = np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    local = ((normal / length) @ axes.T).astype(np.float32)
    diffuse, gloss = _lights(local, np.maximum(roughness, 0.08))
    toward = np.clip(local[:, 2:], 0, 1)
    reflected = _REFLECTED * _environment(2 * toward * local[:, 1:2], roughness)
    at_edges = np.maximum(1 - roughness, _DIELECTRIC)
    mirror = _DIELECTRIC * (1 - metallic) + base * metallic
    fresnel = mirror + np.maximum(at_edges - mirror, 0) * (1 - toward) ** 5
    # Occlusion dims what comes from all sides, not what lights send (glTF 2.0, 3.9.3).
    seen = texels[:, OCCLUSION, None]
    reflected, ambient = seen * reflected, seen * _environment(local[:, 1:2], np.float32(1))
    light = base * (1 - metallic) * (ambient + diffuse) + fresnel * (reflected + gloss)
    return np.clip(light, 0, 1).astype(np.float32)


def _lights(local: NDArray[np.float32], roughness: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return diffuse light and highlights of the lights, [N, 1]."""
    diffuse = np.zeros((len(local), 1), np.float32)
    gloss = np.zeros((len(local), 1), np.float32)
    sharpness = np.minimum(2 / roughness**4, _SHARPEST) + 1
    for toward, intensity in _LIGHTS:
        direction = np.array(toward, np.float32) / np.float32(np.linalg.norm(toward))
        half = direction + np.array([0, 0, 1], np.float32)
        half /= np.linalg.norm(half)
        cosine = local @ direction[:, None]
        diffuse += intensity * (np.clip(cosine + _WRAP, 0, None) / (1 + _WRAP)) ** 1.5
        lobe = np.clip(local @ half[:, None], 0, 1) ** sharpness
        gloss += intensity * (sharpness + 2) / 8 * lobe * np.clip(cosine * 4, 0, 1)
    return diffuse, gloss


def _environment(up: NDArray[np.float32], roughness: Any) -> NDArray[np.float32]:
    """Return the light of the sky and the ground, seen in a direction, [N, 1].

    Args:
        up: how far the direction points up, -1 to 1, [N, 1].
        roughness: how far the horizon is blurred, 0 to 1.
    """
    blur = 0.12 + 0.88 * roughness
    part = np.clip(up / blur * 0.5 + 0.5, 0, 1)
    part = part * part * (3 - 2 * part)
    return _GROUND + (_SKY - _GROUND) * part
