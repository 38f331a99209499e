"""Write 3MF: millimetres, with the texture, one object a shell.

Formats: 3MF Consortium, "3MF Core Specification" 1.3 and "Materials and Properties Extension" 1.2.

The build has one item, whose components are the shells: programs keep their places. Some slicers
show them as the parts of one object, PrusaSlicer as objects, which its command line arranges beside
each other unless it is told `--dont-arrange`. A shell whose outside is inside, such as a cavity,
belongs to the object of the shell around it.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.export.cancellation import call, check
from trellis2_server.export.formats.archive import ArchiveEntry, write_zip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from trellis2_server.export.formats.model import Model

#: Objects of a file. The smallest shells beyond share the last one.
MAX_OBJECTS: Final = 64
#: Rows written as text at a time.
_ROWS: Final = 8192
#: Ids of resources; objects follow.
_TEXTURE, _COORDINATES, _FIRST_OBJECT = 1, 2, 3
_EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpeg"}
_CONTENT_TYPES: Final = b"""<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
<Default Extension="png" ContentType="image/png"/>
<Default Extension="jpeg" ContentType="image/jpeg"/>
</Types>
"""
_RELATIONSHIPS: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Target="{target}" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/{kind}"/>
</Relationships>
"""
_HEAD: Final = b"""<?xml version="1.0" encoding="UTF-8"?>
<model unit="millimeter" xml:lang="en-US" \
xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02" \
xmlns:m="http://schemas.microsoft.com/3dmanufacturing/material/2015/02">
<metadata name="Application">trellis2-server</metadata>
<resources>
"""


def write_3mf(model: Model) -> bytes:
    """Return the model, in millimetres, as a 3MF file."""
    image = model.material.base_color if model.uv is not None else None
    texture = None if image is None else f"/3D/Textures/base_color.{_EXTENSIONS[image.mime_type]}"
    entries = [
        ArchiveEntry("[Content_Types].xml", [_CONTENT_TYPES], zipfile.ZIP_DEFLATED),
        ArchiveEntry("_rels/.rels", [_links("/3D/3dmodel.model", "3dmodel")], zipfile.ZIP_DEFLATED),
        ArchiveEntry("3D/3dmodel.model", _document(model, texture), zipfile.ZIP_DEFLATED),
    ]
    if image is not None and texture is not None:
        links = _links(texture, "3dtexture")
        entries += [
            ArchiveEntry("3D/_rels/3dmodel.model.rels", [links], zipfile.ZIP_DEFLATED),
            ArchiveEntry(texture[1:], [image.content], zipfile.ZIP_STORED),
        ]
    return write_zip(entries)


def _links(target: str, kind: str) -> bytes:
    return _RELATIONSHIPS.format(target=target, kind=kind).encode()


def _document(model: Model, texture: str | None) -> Iterator[bytes]:
    yield _HEAD
    if texture is not None and model.uv is not None:
        kind = "image/png" if texture.endswith("png") else "image/jpeg"
        yield (
            f'<m:texture2d id="{_TEXTURE}" path="{texture}" contenttype="{kind}" '
            f'tilestyleu="clamp" tilestylev="clamp"/>\n'
            f'<m:texture2dgroup id="{_COORDINATES}" texid="{_TEXTURE}">\n'
        ).encode()
        # The origin of the texture is its lower left corner in 3MF.
        uv = np.array([0, 1]) + model.uv * np.array([1, -1])
        yield from _lines('<m:tex2coord u="%.7g" v="%.7g"/>\n', uv)
        yield b"</m:texture2dgroup>\n"
    objects = _objects(model)
    count = int(objects.max()) + 1
    order = np.argsort(objects, kind="stable")
    bounds = np.searchsorted(objects[order], np.arange(count + 1))
    for at in range(count):
        faces = order[bounds[at] : bounds[at + 1]]
        yield from _object(model, _FIRST_OBJECT + at, faces, has_texture=texture is not None)
    whole = _FIRST_OBJECT + count
    parts = "".join(f'<component objectid="{_FIRST_OBJECT + at}"/>\n' for at in range(count))
    yield (
        f'<object id="{whole}" type="model" name="model">\n<components>\n{parts}</components>\n'
        f'</object>\n</resources>\n<build>\n<item objectid="{whole}"/>\n</build>\n</model>\n'
    ).encode()


def _object(
    model: Model, name: int, rows: NDArray[np.int64], *, has_texture: bool
) -> Iterator[bytes]:
    """Yield an object with these faces."""
    faces = model.faces[rows]
    used, corners = np.unique(faces, return_inverse=True)
    corners = corners.reshape(-1, 3)
    # A triangle must have three different vertices.
    is_valid = (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    group = f' pid="{_COORDINATES}" pindex="0"' if has_texture else ""
    yield f'<object id="{name}" type="model"{group}>\n<mesh>\n<vertices>\n'.encode()
    yield from _lines('<vertex x="%.9g" y="%.9g" z="%.9g"/>\n', model.positions[used])
    yield b"</vertices>\n<triangles>\n"
    if has_texture and model.uv_faces is not None:
        columns = np.concatenate([corners, model.uv_faces[rows]], axis=1)
        line = f'<triangle v1="%d" v2="%d" v3="%d" pid="{_COORDINATES}" p1="%d" p2="%d" p3="%d"/>\n'
        yield from _lines(line, columns[is_valid])
    else:
        yield from _lines('<triangle v1="%d" v2="%d" v3="%d"/>\n', corners[is_valid])
    yield b"</triangles>\n</mesh>\n</object>\n"


def _lines(line_format: str, rows: NDArray[Any]) -> Iterator[bytes]:
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        yield (line_format * len(some) % tuple(some.ravel().tolist())).encode()


def _objects(model: Model) -> NDArray[np.int64]:
    """Return the object of each face, int64 [F], from the one with the largest shell."""
    shells = _shells(model.faces, len(model.positions))
    count = int(shells.max()) + 1
    if count == 1:
        return np.zeros(len(shells), np.int64)
    check()
    corners = model.positions[model.faces].astype(np.float64)
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, shells, corners.min(axis=1))
    np.maximum.at(high, shells, corners.max(axis=1))
    volume = np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    volumes = np.bincount(shells, volume, count)
    size = np.prod(high - low, axis=1)
    order = np.argsort(-size, kind="stable")
    owner = np.arange(count)
    solid = [at for at in order.tolist() if volumes[at] >= 0]
    for at in np.flatnonzero(volumes < 0).tolist() if solid else ():
        around = [
            each
            for each in solid
            if (low[each] <= low[at]).all() and (high[at] <= high[each]).all()
        ]
        owner[at] = around[-1] if around else solid[0]
    owners = [at for at in order.tolist() if owner[at] == at]
    name = np.zeros(count, np.int64)
    name[owners] = np.minimum(np.arange(len(owners)), MAX_OBJECTS - 1)
    return name[owner][shells]


def _shells(faces: NDArray[np.int32], vertex_count: int) -> NDArray[np.int32]:
    """Return the shell of each face: faces that edges with two faces connect, int32 [F]."""
    from trellis2_server.export.adjacency import twins
    from trellis2_server.export.kernels import grouping as kernels

    faces = np.ascontiguousarray(faces)
    twin = twins(faces, vertex_count)
    label, groups, stack = (np.zeros(len(faces), np.int32) for _ in range(3))
    call(kernels.connected_components, twin, label, groups, stack)
    return groups
