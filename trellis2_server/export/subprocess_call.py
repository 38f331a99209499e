"""Libraries that hold the interpreter's lock, in a process of their own.

`python -m trellis2_server.export.subprocess_call NAME` reads arrays from its standard input, calls
the library and writes arrays to its standard output, both as NumPy's npz.

What this module does not know: meshes, files; it passes arrays on.
"""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trellis2_server.errors import ExportError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

_PACKAGES: Final = {"xatlas": "xatlas", "draco": "DracoPy"}
_MISSING: Final = 3


def call(name: str, arrays: Arrays, deadline_s: float) -> dict[str, NDArray[Any]]:
    """What the library makes of the arrays.

    Args:
        name: "xatlas" or "draco".
        arrays: see `_xatlas` and `_draco`.
        deadline_s: seconds after which the process is killed.

    Raises:
        ExportError: the library failed or ran past its deadline.
        MissingPackageError: the library is not installed.
    """
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", __name__, name],
            input=stream.getbuffer(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{name} took longer than {deadline_s:g} seconds.") from error
    except OSError as error:
        raise ExportError(f"A process for {name} could not be started.") from error
    if done.returncode == _MISSING:
        package = _PACKAGES[name]
        raise MissingPackageError(f"{name} needs a package: run `pip install {package}`.")
    if done.returncode != 0:
        raise ExportError(f"{name} failed on this mesh.")
    with np.load(io.BytesIO(done.stdout)) as result:
        return dict(result)


def environment() -> dict[str, str]:
    """Ours, for a process of our own interpreter: it finds the packages that we find."""
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))


def _xatlas(library: Any, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """`vertices`, `faces`, `size_px`, `gap_px` → `source`, `faces`, `uv` in texels, `chart`."""
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
    """`positions`, `normals`, `faces`, maybe `uv` → `content`, `ids`, decoded `positions`."""
    uv = arrays.get("uv")
    content = library.encode(
        arrays["positions"],
        arrays["faces"],
        quantization_bits=16,
        compression_level=7,
        normals=arrays["normals"].astype(np.float64),
        normal_quantization_bits=10,
        tex_coord=None if uv is None else uv.astype(np.float64),
        tex_coord_quantization_bits=16,
    )
    decoded = library.decode(content)
    # Draco's attribute types: 0 position, 1 normal, 3 texture coordinates.
    ids = {item["attribute_type"]: item["unique_id"] for item in decoded.attributes}
    return {
        "content": np.frombuffer(content, np.uint8),
        "ids": np.array([ids[0], ids[1], ids.get(3, -1)]),
        "positions": np.asarray(decoded.points, np.float32),
        "face_count": np.array(len(decoded.faces)),
    }


def _main() -> int:
    name = sys.argv[1]
    try:
        library = importlib.import_module(_PACKAGES[name])
    except ImportError:
        return _MISSING
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as arrays:
        result = {"xatlas": _xatlas, "draco": _draco}[name](library, dict(arrays))
    stream = io.BytesIO()
    np.savez(stream, **result)  # pyright: ignore[reportArgumentType]
    sys.stdout.buffer.write(stream.getbuffer())
    return 0


if __name__ == "__main__":
    sys.exit(_main())
