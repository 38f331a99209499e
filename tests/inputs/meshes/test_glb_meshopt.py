"""glTF files whose buffer views meshopt compresses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import shapes
from tests.support.built_glb import CORNERS, FACES, Glb
from tests.support.meshes import two_nodes
from trellis2_server.errors import InputError, MissingPackageError, TooLargeError
from trellis2_server.export import retexture
from trellis2_server.inputs.meshes import Part, read_scene, to_model_frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

meshopt: Any = pytest.importorskip("meshopt", reason="meshopt has no wheel for Python 3.10")

EXT, KHR = "EXT_meshopt_compression", "KHR_meshopt_compression"


def compressed(
    built: Glb,
    rows: NDArray[Any],
    mode: str = "ATTRIBUTES",
    extension: str = EXT,
    version: int = 0,
    **more: Any,
) -> int:
    """Append compressed rows, with a fallback buffer without data; return their view."""
    packed = built.view(meshopt.encode_gltf_buffer(rows, mode, version))
    stride = rows.nbytes // len(rows)
    view = built.document["bufferViews"][packed]
    about = {**view, "byteStride": stride, "count": len(rows), "mode": mode, **more}
    built.document["buffers"] = [{"byteLength": 1 << 20}, {"byteLength": 1 << 20}]
    view.update(
        buffer=1, byteOffset=0, byteLength=len(rows) * stride, extensions={extension: about}
    )
    if mode == "ATTRIBUTES":
        view["byteStride"] = stride
    return packed


def tetrahedron(extension: str = EXT, version: int = 0, mode: str = "TRIANGLES") -> Glb:
    built = Glb()
    built.primitive()
    positions = compressed(built, np.asarray(CORNERS), extension=extension, version=version)
    indices = compressed(built, FACES.astype("<u2").reshape(-1), mode, extension)
    accessors = built.document["accessors"]
    accessors[0]["bufferView"], accessors[1]["bufferView"] = positions, indices
    built.document["extensionsRequired"] = [extension]
    return built


def about(built: Glb, at: int) -> dict[str, Any]:
    """What the extension says of the positions (2) or indices (3)."""
    (found,) = built.document["bufferViews"][at]["extensions"].values()
    return found


def only_part(content: bytes) -> Part:
    (part,) = read_scene(content).parts
    return part


def turned(rows: NDArray[Any], part: Part) -> NDArray[Any]:
    """Return rows of a part's vertices at the corners of its faces, [F, 3, width].

    The codec may turn the corners of a face: here, each begins with the least.
    """
    points = np.ascontiguousarray(part.positions[part.faces])
    order = np.lexsort(points.reshape(-1, 3).T)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    first = rank.reshape(-1, 3).argmin(axis=1)
    corners = part.faces[np.arange(len(first))[:, None], (first[:, None] + [0, 1, 2]) % 3]
    return rows[corners]


@pytest.mark.parametrize("mode", ["TRIANGLES", "INDICES"])
@pytest.mark.parametrize(("extension", "version"), [(EXT, 0), (KHR, 0), (KHR, 1)])
def test_compressed_triangles_are_those_that_were_compressed(
    extension: str, version: int, mode: str
) -> None:
    part = only_part(bytes(tetrahedron(extension, version, mode)))
    plain = Glb()
    plain.primitive()
    plain.document["buffers"] = [{"byteLength": len(plain.data)}]
    np.testing.assert_array_equal(part.positions, CORNERS)
    source = only_part(bytes(plain))
    np.testing.assert_array_equal(turned(part.positions, part), turned(source.positions, source))


def test_a_strip_can_be_compressed() -> None:
    built = Glb()
    built.primitive(mode=5)
    view = compressed(built, np.arange(4, dtype="<u4"), "INDICES")
    built.document["accessors"][1] |= {"bufferView": view, "componentType": 5125, "count": 4}
    np.testing.assert_array_equal(only_part(bytes(built)).faces, [[0, 1, 2], [1, 3, 2]])


@pytest.mark.parametrize("stride", [4, 8])
def test_octahedral_normals_are_directions(stride: int) -> None:
    built = Glb()
    directions = np.array(
        [[0, 0, 1, 0], [0, -1, 0, 0], [0.6, 0, 0.8, 0], [0, -0.6, -0.8, 0]], np.float32
    )
    rows = meshopt.encode_filter_oct(directions, stride, 2 * stride).view(np.uint8)
    view = compressed(built, rows.reshape(4, stride), filter="OCTAHEDRAL")
    dtype = "i1" if stride == 4 else "<i2"
    normals = built.accessor_of(view, 4, 3, dtype, normalized=True)
    built.primitive(attributes={"NORMAL": normals})
    read = only_part(bytes(built)).normals
    assert read is not None
    np.testing.assert_allclose(read, directions[:, :3], atol=0.02 if stride == 4 else 1e-3)


def test_exponential_positions_are_floats() -> None:
    built = tetrahedron()
    rows = meshopt.encode_filter_exp(CORNERS * np.float32(1.37), 20, "Separate")
    built.document["accessors"][0]["bufferView"] = compressed(
        built, np.ascontiguousarray(rows), filter="EXPONENTIAL"
    )
    np.testing.assert_allclose(
        only_part(bytes(built)).positions, CORNERS * np.float32(1.37), rtol=1e-5
    )


def test_normalized_positions_and_uvs_are_scaled() -> None:
    built = Glb()
    shorts = np.zeros((4, 4), "<i2")
    shorts[:, :3] = np.rint(CORNERS / 3 * 32767)
    uv = np.array([[0, 0], [65535, 0], [0, 65535], [13107, 65535]], "<u2")
    positions, texture = compressed(built, shorts), compressed(built, uv)
    built.primitive(
        attributes={
            "POSITION": built.accessor_of(positions, 4, 3, "<i2", normalized=True),
            "TEXCOORD_0": built.accessor_of(texture, 4, 2, "<u2", normalized=True),
        }
    )
    part = only_part(bytes(built))
    np.testing.assert_allclose(part.positions, CORNERS / 3, atol=1e-4)
    assert part.uv is not None
    np.testing.assert_allclose(part.uv, [[0, 0], [1, 0], [0, 1], [0.2, 1]], atol=1e-6)


def test_only_the_later_extension_has_the_colour_filter() -> None:
    built = tetrahedron()
    about(built, 2)["filter"] = "COLOR"
    with pytest.raises(InputError, match=r"of bufferViews\[2\] of the GLB is not valid"):
        read_scene(bytes(built))


@pytest.mark.parametrize(
    ("at", "change", "text"),
    [
        (2, {"count": 5}, r"bufferViews\[2\] of the GLB declares 48 bytes, but .* 5 rows"),
        (2, {"byteStride": 8, "count": 6}, r"bufferViews\[2\] of the GLB declares 48 bytes"),
        (2, {"byteStride": 6, "count": 8}, r"bufferViews\[2\] of the GLB is not valid"),
        (2, {"mode": "TRIANGLES"}, r"bufferViews\[2\] of the GLB is not valid"),
        (2, {"mode": None}, r"bufferViews\[2\] of the GLB is not valid"),
        (2, {"filter": "OCTAHEDRAL"}, r"bufferViews\[2\] of the GLB is not valid"),
        (2, {"filter": "GZIP"}, r"bufferViews\[2\] of the GLB is not valid"),
        (2, {"filter": []}, r"bufferViews\[2\] of the GLB is not valid"),
        (2, {"mode": []}, "broken|not valid"),
        (3, {"filter": "EXPONENTIAL"}, r"bufferViews\[3\] of the GLB is not valid"),
        (3, {"count": 11}, r"bufferViews\[3\] of the GLB is not valid"),
        (3, {"count": 0}, "a count"),
        (3, {"byteLength": 9}, r"compression of bufferViews\[3\] of the GLB is damaged"),
        (3, {"byteLength": 10**6}, r"the compression of bufferViews\[3\] .* more data"),
        (3, {"buffer": 1}, r"buffers\[1\] of the GLB has no data"),
    ],
)
def test_what_does_not_fit_names_the_buffer_view(
    at: int, change: dict[str, Any], text: str
) -> None:
    built = tetrahedron()
    about(built, at).update(change)
    with pytest.raises(InputError, match=text):
        read_scene(bytes(built))


@given(st.data())
def test_damaged_streams_are_an_error_or_a_mesh(data: st.DataObject) -> None:
    built = tetrahedron(data.draw(st.sampled_from([EXT, KHR])))
    start = about(built, 2)["byteOffset"]
    content = bytearray(built.data)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(start, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    built.data = bytes(content)
    try:
        read = read_scene(bytes(built))
    except InputError:
        return
    assert all(np.isfinite(part.positions).all() for part in read.parts)


def test_decompressed_views_are_in_proportion_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from trellis2_server.inputs.meshes import glb_meshopt

    built = tetrahedron()
    size = 4 * 12 + 12 * 2
    free = size - 16 * len(bytes(built))
    monkeypatch.setattr(glb_meshopt, "_FREE_BYTES", free)
    only_part(bytes(built))
    monkeypatch.setattr(glb_meshopt, "_FREE_BYTES", free - 1)
    with pytest.raises(TooLargeError, match=f"over {size - 1} bytes when decompressed"):
        read_scene(bytes(built))


def test_a_view_is_decompressed_once_for_all_primitives() -> None:
    built = tetrahedron()
    primitives = built.document["meshes"][0]["primitives"]
    primitives *= 40
    assert len(read_scene(bytes(built)).parts) == 40


def test_a_small_file_may_have_a_face_for_each_byte_of_its_triangles() -> None:
    side = 500  # 498,002 faces, of which meshopt makes about 1.1 bytes each
    row, column = np.divmod(np.arange(side * side), side)
    grid = np.zeros((side * side, 4), "<i2")
    grid[:, 0], grid[:, 1] = row, column
    first = np.arange(side * (side - 1)).reshape(side - 1, side)[:, :-1].reshape(-1, 1)
    faces = np.concatenate(
        [first + np.array([0, 1, side]), first + np.array([1, side + 1, side])], axis=1
    )
    built = Glb()
    view = compressed(built, faces.astype("<u4").reshape(-1), "TRIANGLES")
    indices = built.accessor_of(view, faces.size, 1, "<u4")
    positions = built.accessor_of(compressed(built, grid), len(grid), 3, "<i2")
    built.primitive(indices, attributes={"POSITION": positions})
    content = bytes(built)
    assert len(content) < 4 * len(faces) * 2
    assert len(only_part(content).faces) == 2 * len(faces)


def test_what_the_server_compresses_comes_back() -> None:
    content: Any = two_nodes().export(file_type="glb", include_normals=True)
    given_scene = read_scene(content)
    made = retexture.textured_glb(
        given_scene,
        to_model_frame(given_scene),
        shapes.field(24),
        texture_size=128,
        compress="meshopt",
        extras={},
        generator="test",
    )
    again = read_scene(made)
    assert len(again.parts) == len(given_scene.parts)
    for part, source in zip(again.parts, given_scene.parts, strict=True):
        np.testing.assert_array_equal(
            turned(part.positions, part), turned(source.positions, source)
        )
        assert part.uv is not None
        assert part.normals is not None
        assert source.normals is not None
        np.testing.assert_allclose(
            turned(part.normals, part), turned(source.normals, source), atol=0.02
        )


def test_without_the_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "meshopt", None)
    with pytest.raises(MissingPackageError, match="pip install meshopt"):
        read_scene(bytes(tetrahedron()))


def test_without_the_package_a_fallback_with_data_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    built = tetrahedron()
    for at, plain in ((2, 0), (3, 1)):
        view = built.document["bufferViews"][plain]
        extensions = built.document["bufferViews"][at]["extensions"]
        built.document["bufferViews"][at] = {**view, "extensions": extensions}
    del built.document["extensionsRequired"]
    monkeypatch.setitem(sys.modules, "meshopt", None)
    np.testing.assert_array_equal(only_part(bytes(built)).faces, FACES)
