"""Files of all types, imported by Blender.

Needs `BLENDER_PYTHON`, a Python that has `bpy`.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server import export
from trellis2_server.export import formats
from trellis2_server.export.formats.model import read_model
from trellis2_server.export.formats.placement import place
from trellis2_server.mesh import Mesh, VoxelField
from trellis2_server.parameters import FileType, PlacedFile, Placement, default_placement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model

PYTHON = os.environ.get("BLENDER_PYTHON", "")
SCRIPT = Path(__file__).parents[1] / "support" / "blender_import.py"

pytestmark = pytest.mark.skipif(not PYTHON, reason="needs Blender: set BLENDER_PYTHON")

#: Blender takes Z for the axis of every PLY that points up.
FORMS: dict[FileType, PlacedFile | FileType] = {"ply": PlacedFile("ply", Placement(up_axis="z"))}
IMAGE = [64, 64]


@dataclass(frozen=True)
class Imported:
    """What Blender made of a file.

    Attributes:
        corners: float [F, 3, 3], positions of the corners of all triangles, Z up.
        normals: float [F, 3, 3], of length 1.
        about: counts and materials.
    """

    corners: NDArray[Any]
    normals: NDArray[Any]
    about: dict[str, Any]


def blob() -> Mesh:
    """Return a closed mesh that differs in all directions, in the model frame: Z up, front -Y."""
    mesh = shapes.sphere(12, 0.3)
    points = mesh.vertices.astype(np.float64) * [0.6, 0.8, 1.5]
    points[:, 0] += 0.1 * np.maximum(points[:, 2], 0)  # leans to the right
    points[:, 1] -= 0.2 * np.maximum(points[:, 2] - 0.2, 0)  # looks ahead
    return Mesh(points.astype(np.float32), mesh.faces)


@pytest.fixture(scope="module")
def glb() -> bytes:
    return export.textured_glb(blob(), shapes.field(24), texture_size=IMAGE[0])


def clear_glb() -> bytes:
    """Return a model that is translucent everywhere."""
    field = shapes.field(24)
    attributes = np.asarray(field.attributes).copy()
    attributes[:, 5] = 0.5
    glass = VoxelField(field.coords, attributes, field.resolution)
    return export.textured_glb(blob(), glass, texture_size=IMAGE[0], alpha_mode="BLEND")


@pytest.fixture(scope="module")
def imported(glb: bytes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Imported]:
    """Return all files, imported in one process."""
    folder = tmp_path_factory.mktemp("blender")
    models = {"": glb, "plain_": export.untextured_glb(blob()), "clear_": clear_glb()}
    files: dict[str, Path] = {}
    for prefix, content in models.items():
        for file_type in get_args(FileType):
            if file_type == "3mf":  # Blender needs an add-on for it
                continue
            name = f"{prefix}{file_type}"
            files[name] = write(
                formats.convert(content, FORMS.get(file_type, file_type)), folder, name
            )
    command = [PYTHON, str(SCRIPT), str(folder), *map(str, files.values())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Imported] = {}
    for name, path in files.items():
        about = json.loads((folder / f"{path.name}.json").read_text("utf-8"))
        with np.load(folder / f"{path.name}.npz") as arrays:
            found[name] = Imported(arrays["corners"], arrays["normals"], about)
    return found


def write(content: bytes, folder: Path, name: str) -> Path:
    """Write a file; return it, or the model in it if it is an archive."""
    path = folder / name
    if not name.endswith("_zip"):
        path = path.with_suffix("." + name.rpartition("_")[2])
        path.write_bytes(content)
        return path
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(path)
    suffix = name.removesuffix("_zip").rpartition("_")[2]
    return (path / f"model.{suffix}").rename(path / f"{name}.{suffix}")


def expected_model(glb: bytes, file_type: FileType) -> Model:
    """Return the model as the file has it, with Z up."""
    return place(read_model(glb), replace(default_placement(file_type), up_axis="z"))


FILES: tuple[FileType, ...] = ("glb", "gltf_zip", "obj", "obj_zip", "ply", "stl", "usdz")


def test_every_file_type_that_blender_reads_is_imported(imported: dict[str, Imported]) -> None:
    assert {*FILES, "3mf"} == {*get_args(FileType)}
    assert len(imported) == 3 * len(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_model_stands_upright_and_has_its_size(
    glb: bytes, imported: dict[str, Imported], name: FileType
) -> None:
    model = expected_model(glb, name)
    corners, expected = imported[name].corners, model.positions[model.faces]
    assert len(corners) == len(expected)
    order = matching(corners, expected)
    assert corners == pytest.approx(expected[order], abs=2e-6 * float(np.ptp(expected)))
    if name == "stl":
        assert np.ptp(corners[:, :, 2]) == pytest.approx(100, rel=1e-5)  # its height, millimetres
        assert corners[:, :, 2].min() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", FILES)
def test_vertices_and_faces_are_those_of_the_model(
    glb: bytes, imported: dict[str, Imported], name: FileType
) -> None:
    about = imported[name].about
    model = read_model(glb)
    assert about["polygons"] == len(model.faces)
    if name in {"glb", "gltf_zip"}:  # a vertex for each texture coordinate of a place
        assert about["vertices"] > len(model.positions)
    else:
        assert about["vertices"] == len(model.positions)


@pytest.mark.parametrize("name", [name for name in FILES if name != "stl"])
def test_normals_are_those_of_the_model(
    glb: bytes, imported: dict[str, Imported], name: FileType
) -> None:
    model, found = expected_model(glb, name), imported[name]
    order = matching(found.corners, model.positions[model.faces])
    expected = model.normals[model.normal_faces][order]
    cosine = np.clip((found.normals * expected).sum(axis=2), -1, 1)
    assert np.degrees(np.arccos(cosine)).max() < 1


def test_the_faces_of_an_stl_point_outward(imported: dict[str, Imported]) -> None:
    found = imported["stl"]
    a, b, c = found.corners.transpose(1, 0, 2)
    flat = np.cross(b - a, c - a)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    assert (found.normals * flat[:, None]).sum(axis=2).min() > np.cos(np.radians(1))


@pytest.mark.parametrize("name", ["glb", "gltf_zip", "obj_zip", "usdz"])
def test_textures_are_where_a_material_needs_them(imported: dict[str, Imported], name: str) -> None:
    (material,) = imported[name].about["materials"]
    assert material["Base Color"] == {"image": IMAGE, "space": "sRGB"}
    # Blender takes the colours of all images that an MTL names for sRGB.
    space = "sRGB" if name == "obj_zip" else "Non-Color"
    for role in ("Metallic", "Roughness"):
        assert material[role] == {"image": IMAGE, "space": space}
    assert material["Alpha"] == 1
    assert imported[name].about["uv"] == [1]


@pytest.mark.parametrize("name", ["glb", "gltf_zip", "obj_zip", "usdz"])
def test_translucent_models_are_translucent(imported: dict[str, Imported], name: str) -> None:
    (material,) = imported[f"clear_{name}"].about["materials"]
    assert material["Base Color"] == {"image": IMAGE, "space": "sRGB"}
    assert material["Alpha"]["image"] == IMAGE


@pytest.mark.parametrize("name", ["glb", "gltf_zip", "obj_zip", "usdz"])
def test_a_model_without_textures_has_the_same_material(
    imported: dict[str, Imported], name: str
) -> None:
    (expected,) = imported["plain_glb"].about["materials"]
    (material,) = imported[f"plain_{name}"].about["materials"]
    for role in ("Base Color", "Metallic", "Roughness", "Alpha"):
        assert material[role] == pytest.approx(expected[role], abs=1e-3), role
    assert expected["Metallic"] == 0
    assert 0.3 < expected["Roughness"] < 1


@pytest.mark.parametrize("name", ["obj", "ply"])
def test_colours_are_at_the_vertices(imported: dict[str, Imported], name: str) -> None:
    ((_, domain, _),) = imported[name].about["colors"]
    assert domain == "POINT"


def matching(corners: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.int64]:
    """Return for each triangle the one of `expected` with the same middle."""
    middles, wanted = corners.mean(axis=1), expected.mean(axis=1)
    distances = np.square(middles[:, None] - wanted).sum(axis=2)
    order = distances.argmin(axis=1)
    assert len(np.unique(order)) == len(expected)
    return order
