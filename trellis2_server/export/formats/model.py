"""The contents of a GLB, as the writers of other formats need them.

Does not know: the other formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import InputError
from trellis2_server.export.cancellation import CheckedStream, check
from trellis2_server.export.formats.rows import group_rows, unit_vectors
from trellis2_server.export.material import Image, Material
from trellis2_server.inputs.meshes import (
    Glb,
    has_shared_meshes,
    read_scene,
    separate_placements,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from PIL.Image import Image as Picture

    from trellis2_server.inputs.meshes import Axis, Part

#: Image files that all readers of the other formats know.
_COMMON: Final = {"image/png", "image/jpeg"}


@dataclass(frozen=True, eq=False)
class Model:
    """All parts of a GLB as one mesh with one material.

    A place has one position, whatever texture coordinates and normals meet there.

    Attributes:
        positions: float32 [N, 3], places, all different.
        faces: int32 [F, 3], places.
        normals: float32 [K, 3], of length 1.
        normal_faces: int32 [F, 3], rows of `normals`.
        uv: float32 [M, 2], as in glTF; None: no texture.
        uv_faces: int32 [F, 3], rows of `uv`; None: no texture.
        material: its images are PNG or JPEG.
        is_double_sided: whether faces are visible from both sides.
        up_axis: axis that points up.
    """

    positions: NDArray[np.float32]
    faces: NDArray[np.int32]
    normals: NDArray[np.float32]
    normal_faces: NDArray[np.int32]
    uv: NDArray[np.float32] | None
    uv_faces: NDArray[np.int32] | None
    material: Material
    is_double_sided: bool = False
    up_axis: Axis = "y"

    @cached_property
    def base_color(self) -> Picture | None:
        """RGBA, sRGB; None: no texture."""
        image = self.material.base_color if self.uv is not None else None
        return None if image is None else decoded(image, "RGBA")

    @cached_property
    def metal_rough(self) -> Picture | None:
        """RGB, linear, roughness in G and metallic in B; None: no texture."""
        image = self.material.metal_rough if self.uv is not None else None
        return None if image is None else decoded(image, "RGB")

    @property
    def is_transparent(self) -> bool:
        """Whether alpha counts."""
        return self.material.alpha_mode != "OPAQUE"

    def place_normals(self) -> NDArray[np.float32]:
        """Return one normal for each place, float32 [N, 3]: the mean of those that meet there."""
        sums = np.zeros((len(self.positions), 3))
        corners, rows = self.faces.reshape(-1), self.normal_faces.reshape(-1)
        for axis in range(3):
            check()
            sums[:, axis] = np.bincount(corners, self.normals[rows, axis], len(sums))
        length = np.linalg.norm(sums, axis=1)
        opposed = np.flatnonzero(length < 1e-6)  # noqa: PLR2004
        if len(opposed):
            last = np.zeros(len(sums), np.int64)
            last[corners] = rows
            sums[opposed] = self.normals[last[opposed]]
            length[opposed] = 1
        return (sums / length[:, None]).astype(np.float32)


def decoded(image: Image, mode: str) -> Picture:
    """Return the pixels of an image."""
    from PIL import Image as pillow  # noqa: N813

    with pillow.open(CheckedStream(image.content)) as opened:
        return opened.convert(mode)


def encoded_png(picture: Picture) -> bytes:
    """Return a PNG file."""
    file = CheckedStream()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def read_model(glb: bytes) -> Model:
    """Read a GLB.

    Args:
        glb: uncompressed, with one material.

    Raises:
        InputError: it cannot be read, or places a mesh more often than the limits allow.
    """
    scene, file = separate_placements(read_scene(glb, is_own=True), len(glb)), Glb(glb)
    if has_shared_meshes(scene):
        raise InputError("it places a mesh at too many places")
    merged, faces = scene.merge()
    positions = merged.astype(np.float32) + np.float32(0)  # makes -0.0 and 0.0 equal
    rows, places = group_rows(positions)
    normals, normal_faces = _normals(scene.parts, positions, faces)
    # Vertices of different parts may have the same place and the same normal.
    pairs, index = group_rows(
        np.concatenate([positions[faces.reshape(-1)], normals[normal_faces.reshape(-1)]], axis=1)
        if len(normals) != len(positions)
        else np.concatenate([positions, normals], axis=1)
    )
    if len(normals) != len(positions):
        normals = normals[normal_faces.reshape(-1)][pairs]
        normal_faces = index.reshape(-1, 3)
    else:
        normals, normal_faces = normals[pairs], index[faces]
    uvs = [part.uv for part in scene.parts if part.uv is not None]
    has_uv = len(uvs) == len(scene.parts)
    return Model(
        positions[rows],
        places[faces],
        normals,
        normal_faces,
        np.concatenate(uvs) if has_uv else None,
        faces if has_uv else None,
        _material(file),
        scene.is_double_sided,
        up_axis_of(file.json),
    )


def up_axis_of(document: Mapping[str, Any]) -> Axis:
    """Return the axis that points up in a GLB of this server, by its JSON.

    That of a mesh that a client sent with Z up is not turned; its `asset.extras` say so.
    """
    return "z" if document["asset"].get("extras", {}).get("up_axis") == "z" else "y"


def _normals(
    parts: tuple[Part, ...], positions: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return the normals of all parts in the scene's frame, and their rows for each corner.

    As many normals as positions if every part has some; otherwise parts without are flat.
    """
    if all(part.normals is not None for part in parts):
        turned = [_turned(part) for part in parts]
        return np.concatenate(turned), faces
    corners = positions[faces].astype(np.float64)
    flat = unit_vectors(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    found: list[NDArray[np.float32]] = []
    rows = np.empty_like(faces)
    face = vertex = count = 0
    for part in parts:
        some = slice(face, face + len(part.faces))
        if part.normals is None:
            found.append(flat[some])
            rows[some] = (count + np.arange(len(part.faces), dtype=np.int32))[:, None]
        else:
            found.append(_turned(part))
            rows[some] = faces[some] - vertex + count
        count += len(found[-1])
        face += len(part.faces)
        vertex += len(part.positions)
    return np.concatenate(found), rows


def _turned(part: Part) -> NDArray[np.float32]:
    """Return the normals of a part in the scene's frame."""
    if part.normals is None:
        raise AssertionError
    linear = part.placement[:3, :3]
    if np.array_equal(linear, np.eye(3)):
        return part.normals
    # The cofactors are the inverse transpose, but for a factor, and exist for every matrix.
    cofactors = np.cross(linear[[1, 2, 0]], linear[[2, 0, 1]])
    if part.is_mirrored:
        cofactors = -cofactors
    return unit_vectors(part.normals.astype(np.float64) @ cofactors.T)


def _material(file: Glb) -> Material:
    """Return the first material; images that few programs read become PNG."""
    item = file.item("materials", 0)
    pbr: dict[str, Any] = item["pbrMetallicRoughness"]

    def image(role: str, mode: str, of: Mapping[str, Any] = pbr) -> Image | None:
        if role not in of:
            return None
        texture = file.item("textures", of[role]["index"])
        source = texture.get("extensions", {}).get("EXT_texture_webp", texture)["source"]
        found = file.item("images", source)
        content = bytes(file.view(found["bufferView"]))
        kind: str = found["mimeType"]
        if kind in _COMMON:
            return Image(kind, content)
        return Image("image/png", encoded_png(decoded(Image(kind, content), mode)))

    alpha_mode = item.get("alphaMode", "OPAQUE")
    return Material(
        image("baseColorTexture", "RGB" if alpha_mode == "OPAQUE" else "RGBA"),
        image("metallicRoughnessTexture", "RGB"),
        tuple(pbr.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0))),
        pbr.get("metallicFactor", 1.0),
        pbr.get("roughnessFactor", 1.0),
        alpha_mode,
        "occlusionTexture" in item,
        image("normalTexture", "RGB", item),
    )
