"""Call libraries that hold the interpreter lock, each call in its own process.

`python -m trellis2_server.export.subprocess_call NAME` reads arrays from standard input, calls the
library and writes the resulting arrays to standard output, both as NumPy's npz.

Does not know: what the arrays are used for.
"""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.child_processes import import_path
from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export.cancellation import INTERVAL_S, CheckedStream, check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

_PACKAGES: Final = {"xatlas": "xatlas", "draco": "DracoPy", "draco_parts": "DracoPy"}
#: Arrays with a value for each part.
_PART_SIZES: Final = ("vertices", "triangles", "has_normals")
#: Exit status of the process when the package is not installed.
_PACKAGE_MISSING: Final = 3


def call(name: str, arrays: Arrays, deadline_s: float) -> dict[str, NDArray[Any]]:
    """Call a library in a new process and return its result.

    Args:
        name: "xatlas", "draco" or "draco_parts".
        arrays: input, see `_xatlas`, `_draco` and `_draco_parts`.
        deadline_s: time after which the process is killed, seconds. It is also killed when the
            export is cancelled.

    Returns:
        Output, likewise.

    Raises:
        ExportError: the library failed or exceeded the deadline.
        MissingPackageError: the library is not installed.
    """
    stream = CheckedStream()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", __name__, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
    except OSError as error:
        raise ExportError(f"A process for {name} could not be started.") from error
    with process, ThreadPoolExecutor(1, thread_name_prefix=name) as pool:
        content: Any = stream.getbuffer()
        output = pool.submit(process.communicate, content, deadline_s)
        try:
            while not wait([output], INTERVAL_S).done:
                check()
            answer = output.result()[0]
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{name} took longer than {deadline_s:g} seconds.") from error
        finally:
            process.kill()  # then `communicate` returns
    if process.returncode == _PACKAGE_MISSING:
        package = _PACKAGES[name]
        raise MissingPackageError(f"{name} needs a package: run `pip install {package}`.")
    if process.returncode != 0:
        raise ExportError(f"{name} failed on this mesh.")
    with np.load(CheckedStream(answer)) as result:
        return dict(result)


def environment() -> dict[str, str]:
    """Return the environment variables for a process that imports the same packages."""
    return {**os.environ, **import_path()}


def _xatlas(library: Any, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Unwrap a mesh.

    Args:
        library: the package `xatlas`.
        arrays: `vertices`, `faces`; `size_px`, edge of the texture; `gap_px`, texels between
            charts.

    Returns:
        `source`, the vertex of each row of `uv`; `faces`, rows of `uv`; `uv`, in [0, 1]; `width`
        and `height` of the atlas in texels; `pages`, the number of textures.
    """
    atlas = library.Atlas()
    atlas.add_mesh(arrays["vertices"], arrays["faces"].astype(np.uint32))
    pack = library.PackOptions()
    pack.resolution = int(arrays["size_px"])
    pack.padding = int(arrays["gap_px"])
    pack.bilinear = True
    atlas.generate(library.ChartOptions(), pack)
    source, faces, uv = atlas[0]
    return {
        "source": source,
        "faces": faces,
        "uv": uv,
        "width": np.array(atlas.width),
        "height": np.array(atlas.height),
        "pages": np.array(atlas.atlas_count),
    }


def _draco(library: Any, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Compress a mesh.

    Args:
        library: the package `DracoPy`.
        arrays: `positions`, `normals`, `faces` and, optionally, `uv`.

    Returns:
        `content`, the compressed bytes; `ids`, Draco's ids of positions, normals and `uv` (-1
        without); `positions` and `face_count` after decompression.
    """
    return _draco_encode(
        library, arrays["positions"], arrays["faces"], arrays["normals"], arrays.get("uv")
    )


def _draco_encode(
    library: Any,
    positions: NDArray[Any],
    faces: NDArray[Any],
    normals: NDArray[Any] | None,
    uv: NDArray[Any] | None,
) -> dict[str, NDArray[Any]]:
    content = library.encode(
        positions,
        faces,
        quantization_bits=16,
        compression_level=7,
        normals=None if normals is None else normals.astype(np.float64),
        normal_quantization_bits=10,
        tex_coord=None if uv is None else uv.astype(np.float64),
        tex_coord_quantization_bits=16,
    )
    decoded = library.decode(content)
    # Draco's attribute types: 0 position, 1 normal, 3 texture coordinates.
    ids = {item["attribute_type"]: item["unique_id"] for item in decoded.attributes}
    return {
        "content": np.frombuffer(content, np.uint8),
        "ids": np.array([ids[0], ids.get(1, -1), ids.get(3, -1)]),
        "positions": np.asarray(decoded.points, np.float32),
        "face_count": np.array(len(decoded.faces)),
    }


def _draco_parts(library: Any, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Compress meshes, one after the other.

    Args:
        library: the package `DracoPy`.
        arrays: those of `GltfParts`: `positions`, `normals`, `faces`, `vertices`, `triangles`,
            `has_normals` and, optionally, `uv`.

    Returns:
        `content`, the compressed bytes of all parts; `sizes` [P], those of each, 0 for a part that
        cannot be compressed; `ids` [P, 3], `points` [P], `face_counts` [P] and `bounds` [P, 2, 3],
        as `_draco` and of the positions after decompression.
    """
    contents: list[NDArray[Any]] = []
    count = len(arrays["vertices"])
    sizes, points, face_counts = (np.zeros(count, np.int64) for _ in range(3))
    ids, bounds = np.full((count, 3), -1), np.zeros((count, 2, 3), np.float32)
    vertex = face = normal = 0
    rows = zip(*(arrays[name].tolist() for name in _PART_SIZES), strict=True)
    for part, (vertices, triangles, is_smooth) in enumerate(rows):
        uv = arrays["uv"][vertex : vertex + vertices] if "uv" in arrays else None
        normals = arrays["normals"][normal : normal + vertices] if is_smooth else None
        try:
            packed = _draco_encode(
                library,
                arrays["positions"][vertex : vertex + vertices],
                arrays["faces"][face : face + triangles].astype(np.uint32),
                normals,
                uv,
            )
        except Exception:  # noqa: BLE001 - its own classes; such as faces whose corners coincide
            packed = {"face_count": np.array(0)}
        if packed["face_count"]:
            contents.append(packed["content"])
            sizes[part], points[part] = len(packed["content"]), len(packed["positions"])
            face_counts[part], ids[part] = packed["face_count"], packed["ids"]
            bounds[part] = packed["positions"].min(axis=0), packed["positions"].max(axis=0)
        vertex, face, normal = vertex + vertices, face + triangles, normal + vertices * is_smooth
    return {
        "content": np.concatenate([np.empty(0, np.uint8), *contents]),
        "sizes": sizes,
        "ids": ids,
        "points": points,
        "face_counts": face_counts,
        "bounds": bounds,
    }


def _main() -> int:
    name = sys.argv[1]
    try:
        library = importlib.import_module(_PACKAGES[name])
    except ImportError:
        return _PACKAGE_MISSING
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as arrays:
        calls = {"xatlas": _xatlas, "draco": _draco, "draco_parts": _draco_parts}
        result = calls[name](library, dict(arrays))
    stream = io.BytesIO()
    np.savez(stream, **result)  # pyright: ignore[reportArgumentType]
    sys.stdout.buffer.write(stream.getbuffer())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
