"""The compiled loops of the preview engine, one module per algorithm.

    mask            removes specks from a mask
    distance        distance to the nearest zero
    triangulation   the silhouette as triangles, by an adaptive grid
    balls           distances; the largest balls inside the outline
    smoothing       Gaussian filters
    parts           bulges of an object's parts
    inflation       even triangles; the height of thin parts
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
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Names of the modules, in the order in which they are loaded.
MODULES: Final = (
    "mask",
    "distance",
    "triangulation",
    "inflation",
    "voxels",
    "colors",
    "surface",
    "balls",
    "smoothing",
    "parts",
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


def load_all(finished: Callable[[int], None] = lambda _: None) -> None:
    """Import all modules of loops.

    Args:
        finished: called with the number of modules that are loaded, first with 0.

    Raises:
        MissingPackageError: numba is not installed.
    """
    finished(0)
    for count, name in enumerate(MODULES, 1):
        load(name)
        finished(count)
