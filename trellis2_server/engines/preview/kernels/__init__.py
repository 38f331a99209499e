"""The compiled loops of the preview engine, one module per algorithm.

    mask            removes specks from a mask
    distance        distance to the nearest zero
    triangulation   the silhouette as triangles, by an adaptive grid
    inflation       even triangles; the height of the surface
    voxels          the front sheet's columns as voxels
    colors          the picture on the columns, at several levels of detail
    surface         the voxels along a surface of any shape
    patches         textures made of patches of another part of the picture

All loops of a module are compiled when the module is imported, or read from numba's cache.
They release the GIL. A loop and the loops that it calls are in one file:
numba's cache on disk compares the date of one file only.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from trellis2_server.errors import MissingPackageError

_MODULES: Final = (
    "mask",
    "distance",
    "triangulation",
    "inflation",
    "voxels",
    "colors",
    "surface",
    "patches",
)


def load(name: str) -> Any:
    """Import one module of loops; the first time they are compiled or read from the cache.

    Raises:
        MissingPackageError: numba is not installed.
    """
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise MissingPackageError(
            "the preview engine needs numba: pip install -r requirements.txt"
        ) from error


def load_all() -> None:
    """Import all modules of loops.

    Raises:
        MissingPackageError: numba is not installed.
    """
    for name in _MODULES:
        load(name)
