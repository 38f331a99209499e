from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.support import models, shapes
from trellis2_server import export
from trellis2_server.export.formats.model import Model, read_model
from trellis2_server.export.formats.obj import write_obj, write_obj_zip


def model(*, alpha: bool) -> Model:
    return models.model(
        np.eye(3),
        np.array([[0, 1, 2]]),
        np.array([[0, 0], [1, 0], [0, 1]]),
        Image.new("RGBA", (4, 4), (200, 100, 50, 90 if alpha else 255)),
        Image.new("RGB", (4, 4), (7, 51, 9)),
        alpha_mode="BLEND" if alpha else "OPAQUE",
    )


def test_vertices_have_colours_and_faces_count_from_one() -> None:
    lines = write_obj(model(alpha=False)).decode().splitlines()
    assert lines[1] == "v 1 0 0 0.7843 0.3922 0.1961"
    assert lines[4] == "vn 0.5774 0.5774 0.5774"
    assert lines[-1] == "f 1//1 2//1 3//1"


@pytest.mark.parametrize("alpha", [False, True])
def test_the_archive_has_a_material_with_a_texture_for_each_channel(*, alpha: bool) -> None:
    with zipfile.ZipFile(io.BytesIO(write_obj_zip(model(alpha=alpha)))) as archive:
        names = archive.namelist()
        material = archive.read("model.mtl").decode().splitlines()
        lines = archive.read("model.obj").decode().splitlines()
        with Image.open(io.BytesIO(archive.read("roughness.png"))) as picture:
            assert picture.getextrema() == (51, 51)
        with Image.open(io.BytesIO(archive.read("metallic.png"))) as picture:
            assert picture.getextrema() == (9, 9)
    textures = [line.split()[1] for line in material if line.startswith("map_")]
    assert names == ["model.obj", "model.mtl", *textures]
    assert ("alpha.png" in textures) == alpha
    # The origin of the texture is its lower left corner in OBJ.
    assert [line for line in lines if line.startswith("vt")] == ["vt 0 1", "vt 1 1", "vt 0 0"]
    # Roughness .2: a reader without Pr takes it from the exponent, 1000 (1 - .2)^2.
    assert {"Pr 1", "Pm 1", "Ns 640", "d 1"} <= set(material)
    assert lines[-1] == "f 1/1/1 2/2/1 3/3/1"


def test_a_model_without_textures_has_a_material_of_one_colour() -> None:
    content = write_obj_zip(read_model(export.untextured_glb(shapes.sphere(4))))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["model.obj", "model.mtl"]
        lines = archive.read("model.obj").decode().splitlines()
        material = archive.read("model.mtl").decode().splitlines()
    assert lines[1:3] == ["mtllib model.mtl", "usemtl model"]
    assert len(lines[3].split()) == 4  # no colours at the vertices, which would be multiplied
    assert {"Kd 0.6 0.6 0.6", "Pr 0.7", "Pm 0", "d 1"} <= set(material)
    assert not [line for line in material if line.startswith("map_")]
