"""USDZ files, read and checked by OpenUSD."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import models, shapes
from trellis2_server import export
from trellis2_server.export import formats
from trellis2_server.export.formats.crate import Asset, Attribute, Prim, write_crate
from trellis2_server.export.formats.model import read_model
from trellis2_server.export.formats.usdz import write_usdz
from trellis2_server.parameters import PlacedFile, Placement

if TYPE_CHECKING:
    from pathlib import Path

pxr = pytest.importorskip("pxr", reason="usd-core is not installed")
Sdf = pytest.importorskip("pxr.Sdf")
Usd = pytest.importorskip("pxr.Usd")
UsdGeom = pytest.importorskip("pxr.UsdGeom")
UsdShade = pytest.importorskip("pxr.UsdShade")


def complaints(stage: Any, path: Path) -> list[str]:
    """What OpenUSD's validators say, those for packages and for ARKit included."""
    UsdValidation = pytest.importorskip("pxr.UsdValidation")  # noqa: N806
    every = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert any("UsdzPackage" in each.GetMetadata().name for each in every)
    found = UsdValidation.ValidationContext(every).Validate(stage)
    try:
        UsdUtils = pytest.importorskip("pxr.UsdUtils")  # noqa: N806
        checker = UsdUtils.ComplianceChecker(arkit=True)
    except AttributeError:  # newer versions have the validators only
        return [each.GetMessage() for each in found]
    checker.CheckCompliance(str(path))
    older = [*checker.GetErrors(), *checker.GetFailedChecks(), *checker.GetWarnings()]
    return [*(each.GetMessage() for each in found), *older]


def written(content: bytes, tmp_path: Path) -> Any:
    path = tmp_path / "model.usdz"
    path.write_bytes(content)
    stage = Usd.Stage.Open(str(path))
    assert complaints(stage, path) == []
    return stage


def textured(**options: Any) -> bytes:
    mesh = export.prepare(shapes.torus(), decimation_target=1000)
    return export.textured_glb(mesh, shapes.field(24), texture_size=64, **options)


def shader(stage: Any, name: str) -> Any:
    return UsdShade.Shader(stage.GetPrimAtPath(f"/model/material/{name}"))


@pytest.mark.parametrize("alpha_mode", ["OPAQUE", "MASK", "BLEND"])
@pytest.mark.parametrize("texture_format", ["auto", "webp"])
def test_the_scene_is_the_model(tmp_path: Path, alpha_mode: Any, texture_format: Any) -> None:
    glb = textured(alpha_mode=alpha_mode, texture_format=texture_format)
    model = read_model(glb)
    stage = written(formats.convert(glb, PlacedFile("usdz", Placement("y", 1.8))), tmp_path)
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert stage.GetDefaultPrim().GetName() == "model"
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/model/mesh"))
    points = np.array(mesh.GetPointsAttr().Get())
    np.testing.assert_allclose(
        points, model.positions * (1.8 / np.ptp(model.positions, axis=0).max()), atol=1e-5
    )
    faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    np.testing.assert_array_equal(faces, model.faces)
    np.testing.assert_allclose(mesh.GetExtentAttr().Get(), [points.min(0), points.max(0)])
    np.testing.assert_array_equal(np.array(mesh.GetNormalsAttr().Get()), model.normals)
    uv = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
    assert uv.GetInterpolation() == "faceVarying"
    assert model.uv is not None
    assert model.uv_faces is not None
    np.testing.assert_allclose(
        np.array(uv.ComputeFlattened()).reshape(-1, 3, 2),
        model.uv[model.uv_faces] * [1, -1] + [0, 1],
        atol=1e-6,
    )
    surface = shader(stage, "surface")
    sources = {
        name: surface.GetInput(name).GetConnectedSources()[0]
        for name in ("diffuseColor", "roughness", "metallic", "opacity")
    }
    used = {
        name: (source[0].source.GetPath().name, str(source[0].sourceName))
        for name, source in sources.items()
        if source
    }
    expected = {
        "diffuseColor": ("base_color", "rgb"),
        "roughness": ("metallic_roughness", "g"),
        "metallic": ("metallic_roughness", "b"),
    }
    if alpha_mode != "OPAQUE":
        expected["opacity"] = ("base_color", "a")
    assert used == expected
    threshold = surface.GetInput("opacityThreshold")
    assert (threshold.Get() if threshold else None) == (0.5 if alpha_mode == "MASK" else None)
    for name, space in (("base_color", "sRGB"), ("metallic_roughness", "raw")):
        assert shader(stage, name).GetInput("sourceColorSpace").Get() == space
        file = shader(stage, name).GetInput("file").Get()
        with zipfile.ZipFile(tmp_path / "model.usdz") as archive:
            picture = Image.open(io.BytesIO(archive.read(file.path)))
        assert picture.format in {"PNG", "JPEG"}
        ours = model.base_color if name == "base_color" else model.metal_rough
        assert ours is not None
        np.testing.assert_array_equal(np.asarray(picture.convert(ours.mode)), np.asarray(ours))


def test_files_in_the_package_are_stored_at_multiples_of_64() -> None:
    content = formats.convert(textured(), "usdz")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        infos = archive.infolist()
    assert infos[0].filename == "model.usdc"
    for info in infos:
        assert info.compress_type == zipfile.ZIP_STORED
        header = content[info.header_offset :]
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        assert (info.header_offset + 30 + names) % 64 == 0


def test_normal_map_and_occlusion_are_inputs_of_the_surface(tmp_path: Path) -> None:
    glb = textured(normal_map=True, occlusion=True)
    stage = written(formats.convert(glb, "usdz"), tmp_path)
    surface = UsdShade.Shader(stage.GetPrimAtPath("/model/material/surface"))
    for name, source, output in (
        ("normal", "normal", "rgb"),
        ("occlusion", "metallic_roughness", "r"),
    ):
        shader, found, _ = surface.GetInput(name).GetConnectedSource()
        assert (shader.GetPath().name, found) == (source, output)
    bumps = UsdShade.Shader(stage.GetPrimAtPath("/model/material/normal"))
    assert tuple(bumps.GetInput("scale").Get()) == (2, 2, 2, 1)
    assert tuple(bumps.GetInput("bias").Get()) == (-1, -1, -1, 0)
    assert bumps.GetInput("sourceColorSpace").Get() == "raw"


def test_a_model_without_textures_has_its_colour(tmp_path: Path) -> None:
    glb = export.untextured_glb(shapes.sphere(4))
    material = read_model(glb).material
    stage = written(formats.convert(glb, "usdz"), tmp_path)
    surface = shader(stage, "surface")
    np.testing.assert_allclose(surface.GetInput("diffuseColor").Get(), material.color[:3])
    assert surface.GetInput("roughness").Get() == pytest.approx(material.roughness)
    assert surface.GetInput("metallic").Get() == pytest.approx(material.metallic)


def test_hard_edges_stay_hard(tmp_path: Path) -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    made = models.model(corners, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
    stage = written(write_usdz(made), tmp_path)
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/model/mesh"))
    assert mesh.GetNormalsInterpolation() == "faceVarying"
    np.testing.assert_array_equal(
        np.array(mesh.GetNormalsAttr().Get()), np.repeat(made.normals, 3, axis=0)
    )


# ---- the binary format ------------------------------------------------------------------------

NAMES = st.from_regex(r"[a-z]{1,9}", fullmatch=True)
VALUES = st.one_of(
    st.booleans().map(lambda each: Attribute("bool", each)),
    st.floats(width=32, allow_nan=False).map(lambda each: Attribute("float", each)),
    st.floats(allow_nan=False).map(lambda each: Attribute("double", each)),
    NAMES.map(lambda each: Attribute("token", each)),
    NAMES.map(lambda each: Attribute("string", each)),
    NAMES.map(lambda each: Attribute("asset", Asset(each))),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40).map(
        lambda each: Attribute("int[]", np.array(each, np.int32))
    ),
    st.tuples(*[st.floats(-9, 9, width=32)] * 3).map(lambda each: Attribute("float3", each)),
)


def prims(depth: int) -> Any:
    children = prims(depth - 1) if depth else st.none()
    return st.builds(
        lambda name, attributes, inner: Prim(
            name, "Scope", attributes, list({each.name: each for each in inner}.values())
        ),
        NAMES,
        st.dictionaries(NAMES, VALUES, max_size=4),
        st.lists(children, max_size=3) if depth else st.just([]),
    )


def check_same(spec: Any, prim: Prim) -> None:
    assert (spec.name, spec.typeName) == (prim.name, prim.type)
    assert [each.name for each in spec.properties] == list(prim.attributes)
    for name, attribute in prim.attributes.items():
        read = spec.properties[name]
        assert str(read.typeName) == attribute.type
        value = attribute.value
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(np.array(read.default), value)
        elif isinstance(value, Asset):
            assert read.default.path == value.path
        elif isinstance(value, tuple):
            assert tuple(read.default) == value
        else:
            assert read.default == value
    assert [each.name for each in spec.nameChildren] == [each.name for each in prim.children]
    for child, wanted in zip(spec.nameChildren, prim.children, strict=True):
        check_same(child, wanted)


@settings(max_examples=20, deadline=None)
@given(root=prims(2))
def test_any_scene_is_read_as_it_was_written(
    root: Prim, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("scene") / "scene.usdc"
    path.write_bytes(b"".join(write_crate(root, up_axis="Z", metres_per_unit=0.01)))
    layer = Sdf.Layer.OpenAsAnonymous(str(path))
    assert layer.pseudoRoot.GetInfo("metersPerUnit") == 0.01
    assert layer.pseudoRoot.GetInfo("upAxis") == "Z"
    assert layer.defaultPrim == root.name
    check_same(layer.rootPrims[0], root)


def test_tokens_are_tokens_and_strings_are_strings(tmp_path: Path) -> None:
    """Which OpenUSD tells apart where it asks for one of them."""
    root = Prim(
        "surface",
        "Shader",
        {
            "info:id": Attribute("token", "UsdPreviewSurface"),
            "notes": Attribute("string", "some text"),
        },
    )
    path = tmp_path / "model.usdc"
    path.write_bytes(b"".join(write_crate(root, up_axis="Z", metres_per_unit=1)))
    stage = Usd.Stage.Open(str(path))
    prim = stage.GetPrimAtPath("/surface")
    assert UsdShade.Shader(prim).GetShaderId() == "UsdPreviewSurface"
    assert prim.GetAttribute("notes").Get() == "some text"
