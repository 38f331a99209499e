"""Stand-in for `o_voxel.postprocess`: each triangle has a cell of the texture.

A cell has the colour of the nearest voxel. The arguments and the frame are those of the real
function; there is no remeshing and no decimation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image


def to_glb(  # noqa: PLR0913 - o_voxel's
    *,
    vertices: torch.Tensor,
    faces: torch.Tensor,
    attr_volume: torch.Tensor,
    coords: torch.Tensor,
    attr_layout: dict[str, slice],
    aabb: Any,
    grid_size: int,
    decimation_target: int,
    texture_size: int,
    remesh: bool,
    remesh_band: float,
    remesh_project: float,
) -> trimesh.Trimesh:
    """Return the mesh with a texture."""
    del decimation_target, remesh, remesh_band, remesh_project
    assert not torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    corners = vertices[faces.long()]
    low = torch.tensor(aabb)[0]
    wide = math.ceil(math.sqrt(len(faces)))
    cell = np.arange(len(faces))
    centre = np.stack([cell % wide + 0.5, cell // wide + 0.5], axis=1) / wide
    place = ((corners.mean(dim=1) - low) * grid_size).floor()
    grid = coords.float()
    near = torch.cat([torch.cdist(part, grid).argmin(dim=1) for part in place.split(1024)])
    values = attr_volume[near].clamp(0, 1).numpy()
    table = np.zeros((wide * wide, 4))
    table[: len(faces), :3] = values[:, attr_layout["base_color"]]
    table[:, 3] = 1
    image = Image.fromarray((table.reshape(wide, wide, 4) * 255).astype(np.uint8))
    material = trimesh.visual.material.PBRMaterial(
        baseColorTexture=image.resize((texture_size, texture_size), Image.Resampling.NEAREST),
        metallicFactor=float(values[:, attr_layout["metallic"]].mean()),
        roughnessFactor=float(values[:, attr_layout["roughness"]].mean()),
        alphaMode="OPAQUE",
    )
    x, y, z = corners.reshape(-1, 3).numpy().T
    uv = np.repeat(centre, 3, axis=0)
    uv[:, 1] = 1 - uv[:, 1]
    return trimesh.Trimesh(
        vertices=np.stack([x, z, -y], axis=1),
        faces=np.arange(3 * len(faces)).reshape(-1, 3),
        process=False,
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
    )
