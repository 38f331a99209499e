"""Write USDZ: a scene with its textures, for AR Quick Look, Blender and others.

Formats: Pixar, "USDZ File Format Specification" 1.3 (a stored ZIP, whose files begin at multiples
of 64 bytes) and "UsdPreviewSurface Specification" 2.6. Y up, metres.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.cancellation import check
from trellis2_server.export.formats.crate import Asset, Attribute, Prim, write_crate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trellis2_server.export.formats.model import Model
    from trellis2_server.export.material import Image

_ALIGNMENT: Final = 64
#: Bytes of the fixed part of a file's header in a ZIP.
_HEADER_BYTES: Final = 30
_DATE: Final = (1980, 1, 1, 0, 0, 0)
#: Field id of padding, as in `zipalign`.
_PADDING_ID: Final = 0x1986
_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg"}
_ALPHA_CUTOFF: Final = 0.5
_SURFACE: Final = "/model/material/surface"
_WHITE: Final = (1.0, 1.0, 1.0, 1.0)
#: Of a normal map with a scale of 2: 0 … 1 becomes -1 … 1.
_BIAS: Final = (-1.0, -1.0, -1.0, 0.0)


def write_usdz(model: Model) -> bytes:
    """Return the model, in metres and Y up, as a USDZ file."""
    images: dict[str, Image] = {}
    for role, image in (
        ("base_color", model.material.base_color),
        ("metallic_roughness", model.material.metal_rough),
        ("normal", model.material.normals),
    ):
        if image is not None and model.uv is not None:
            images[f"textures/{role}.{_EXTENSIONS[image.mime_type]}"] = image
    scene = write_crate(_scene(model, list(images)), up_axis="Y", metres_per_unit=1.0)
    files: list[tuple[str, Iterable[bytes]]] = [("model.usdc", scene)]
    files += [(name, [image.content]) for name, image in images.items()]
    return _package(files)


def _package(files: list[tuple[str, Iterable[bytes]]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, chunks in files:
            info = zipfile.ZipInfo(name, _DATE)
            start = stream.tell() + _HEADER_BYTES + len(name.encode()) + 4
            padding = -start % _ALIGNMENT
            info.extra = (
                _PADDING_ID.to_bytes(2, "little") + padding.to_bytes(2, "little") + bytes(padding)
            )
            content = b"".join(chunks)
            check()
            archive.writestr(info, content)
    return stream.getvalue()


def _scene(model: Model, textures: list[str]) -> Prim:
    return Prim(
        "model",
        "Xform",
        children=(
            _mesh(model),
            Prim("material", "Material", _outputs(), _shaders(model, textures)),
        ),
        metadata={"kind": "component"},
    )


def _outputs() -> dict[str, Attribute]:
    return {"outputs:surface": Attribute("token", target=f"{_SURFACE}.outputs:surface")}


def _mesh(model: Model) -> Prim:
    low, high = model.positions.min(axis=0), model.positions.max(axis=0)
    attributes = {
        "doubleSided": Attribute("bool", model.is_double_sided, is_uniform=True),
        "extent": Attribute("float3[]", np.stack([low, high])),
        "faceVertexCounts": Attribute("int[]", np.full(len(model.faces), 3, np.int32)),
        "faceVertexIndices": Attribute("int[]", model.faces.reshape(-1)),
        "material:binding": Attribute("rel", target="/model/material"),
        "points": Attribute("point3f[]", model.positions),
        "subdivisionScheme": Attribute("token", "none", is_uniform=True),
    }
    rows, faces = model.normals, model.normal_faces
    varying = {"interpolation": "faceVarying"}
    if np.array_equal(faces, model.faces) and len(rows) == len(model.positions):
        attributes["normals"] = Attribute("normal3f[]", rows, metadata={"interpolation": "vertex"})
    else:
        each = rows[faces.reshape(-1)]
        attributes["normals"] = Attribute("normal3f[]", each, metadata=varying)
    if model.uv is not None and model.uv_faces is not None:
        # The origin of the texture is its lower left corner in USD.
        uv = np.stack([model.uv[:, 0], 1 - model.uv[:, 1]], axis=1)
        attributes["primvars:st"] = Attribute("texCoord2f[]", uv, metadata=varying)
        attributes["primvars:st:indices"] = Attribute("int[]", model.uv_faces.reshape(-1))
    return Prim("mesh", "Mesh", attributes, schemas=["MaterialBindingAPI"])


def _shaders(model: Model, textures: list[str]) -> tuple[Prim, ...]:
    material = model.material
    inputs: dict[str, Attribute] = {
        "info:id": Attribute("token", "UsdPreviewSurface", is_uniform=True),
        "inputs:diffuseColor": Attribute("color3f", tuple(material.color[:3])),
        "inputs:metallic": Attribute("float", material.metallic),
        "inputs:opacity": Attribute("float", material.color[3] if model.is_transparent else 1.0),
        "inputs:roughness": Attribute("float", material.roughness),
    }
    if material.alpha_mode == "MASK":
        inputs["inputs:opacityThreshold"] = Attribute("float", _ALPHA_CUTOFF)
    shaders: list[Prim] = []
    for path in textures:
        name = path.partition("/")[2].partition(".")[0]
        used = f"/model/material/{name}"
        if name == "base_color":
            shaders.append(_texture(name, path, "sRGB", material.color, ("rgb", "a")))
            inputs["inputs:diffuseColor"] = Attribute("color3f", target=f"{used}.outputs:rgb")
            if model.is_transparent:
                inputs["inputs:opacity"] = Attribute("float", target=f"{used}.outputs:a")
        elif name == "normal":
            shaders.append(_texture(name, path, "raw", (2.0, 2.0, 2.0, 1.0), ("rgb",), _BIAS))
            inputs["inputs:normal"] = Attribute("normal3f", target=f"{used}.outputs:rgb")
        else:
            scale = (1.0, material.roughness, material.metallic, 1.0)
            outputs = ("r", "g", "b") if material.has_occlusion else ("g", "b")
            shaders.append(_texture(name, path, "raw", scale, outputs))
            if material.has_occlusion:
                inputs["inputs:occlusion"] = Attribute("float", target=f"{used}.outputs:r")
            inputs["inputs:roughness"] = Attribute("float", target=f"{used}.outputs:g")
            inputs["inputs:metallic"] = Attribute("float", target=f"{used}.outputs:b")
    if textures:
        shaders.append(
            Prim(
                "st",
                "Shader",
                {
                    "info:id": Attribute("token", "UsdPrimvarReader_float2", is_uniform=True),
                    "inputs:varname": Attribute("string", "st"),
                    "outputs:result": Attribute("float2"),
                },
            )
        )
    inputs["outputs:surface"] = Attribute("token")
    return (Prim("surface", "Shader", inputs), *shaders)


def _texture(  # noqa: PLR0913, PLR0917 - the inputs of the shader
    name: str,
    path: str,
    space: str,
    scale: tuple[Any, ...],
    outputs: tuple[str, ...],
    bias: tuple[float, ...] | None = None,
) -> Prim:
    kinds = {"rgb": "float3"}
    attributes = {
        "info:id": Attribute("token", "UsdUVTexture", is_uniform=True),
        "inputs:file": Attribute("asset", Asset(path)),
        "inputs:sourceColorSpace": Attribute("token", space),
        "inputs:st": Attribute("float2", target="/model/material/st.outputs:result"),
        "inputs:wrapS": Attribute("token", "clamp"),
        "inputs:wrapT": Attribute("token", "clamp"),
        **{f"outputs:{each}": Attribute(kinds.get(each, "float")) for each in outputs},
    }
    if tuple(scale) != _WHITE:
        attributes["inputs:scale"] = Attribute("float4", tuple(scale))
    if bias:
        attributes["inputs:bias"] = Attribute("float4", bias)
    return Prim(name, "Shader", attributes)
