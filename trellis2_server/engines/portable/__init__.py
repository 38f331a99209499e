"""Stand-ins in plain PyTorch for the compiled extensions that TRELLIS.2 imports.

    flash_attn   attention       sequences of different lengths
    flex_gemm    convolution     submanifold convolution
                 sampling        trilinear look-up in sparse voxels
    o_voxel      dualgrid        voxels with dual vertices → mesh
                 voxelization    mesh → voxels with dual vertices
    cumesh       holes           boundary loops, hole filling

`lookup`, `neighbors`, `traversal` and `quadrics` are parts of them. On a GPU, the convolution
runs as a Triton kernel (`implicit_gemm`) where Triton is there. `install` adds a stand-in to
`sys.modules` where the real package is absent, cannot be imported, lacks a name that TRELLIS.2
uses, or cannot run on the device: the real packages run on CUDA only. Importing this package
imports nothing heavy.

Does not know: TRELLIS.2, models, checkpoints.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import operator
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

#: `__version__` of a stand-in, by which it is recognised.
STANDIN_VERSION: Final = "0.0.0+standin"
#: Answer of `why_unusable` for an absent package.
NOT_INSTALLED: Final = "not installed"

_ATTENTION: Final = (
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
)
_CONVOLUTION: Final = ("set_algorithm", "set_hashmap_ratio", "sparse_submanifold_conv3d")
#: Extension → its modules → modules of this package and the names that each provides.
_SURFACES: Final[dict[str, dict[str, dict[str, tuple[str, ...]]]]] = {
    "flash_attn": {"flash_attn": {"attention": _ATTENTION}},
    "flex_gemm": {
        "flex_gemm": {},
        "flex_gemm.ops": {},
        "flex_gemm.ops.spconv": {"convolution": _CONVOLUTION},
        "flex_gemm.ops.grid_sample": {"sampling": ("grid_sample_3d",)},
    },
    "o_voxel": {
        "o_voxel": {},
        "o_voxel.convert": {
            "dualgrid": ("flexible_dual_grid_to_mesh",),
            "voxelization": ("mesh_to_flexible_dual_grid",),
        },
    },
    "cumesh": {"cumesh": {"holes": ("CuMesh",)}},
}
EXTENSIONS: Final = tuple(_SURFACES)
#: Extension → its modules → names that TRELLIS.2 uses, by which the real package is recognised:
#: `flash-attn-4` installs a folder `flash_attn` without the package itself, and the package
#: index has an empty `cumesh`. A name with dots is an attribute of an attribute.
_USED: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "flash_attn": {
        "flash_attn": (
            *_ATTENTION,
            "flash_attn_func",
            "flash_attn_kvpacked_func",
            "flash_attn_qkvpacked_func",
        )
    },
    "flex_gemm": {
        "flex_gemm.ops.spconv": _CONVOLUTION,
        "flex_gemm.ops.grid_sample": ("grid_sample_3d",),
    },
    "o_voxel": {"o_voxel.convert": ("flexible_dual_grid_to_mesh", "mesh_to_flexible_dual_grid")},
    "cumesh": {
        "cumesh": tuple(
            f"CuMesh.{name}"
            for name in (
                "init",
                "read",
                "get_edges",
                "get_boundary_info",
                "num_boundaries",
                "get_vertex_edge_adjacency",
                "get_vertex_boundary_adjacency",
                "get_manifold_boundary_adjacency",
                "read_manifold_boundary_adjacency",
                "get_boundary_connected_components",
                "get_boundary_loops",
                "num_boundary_loops",
                "fill_holes",
                "remove_faces",
                "simplify",
            )
        )
    },
}
#: Most missing names in a message.
_MAX_NAMES: Final = 3


@dataclass(frozen=True, slots=True)
class Extension:
    """Which implementation of an extension TRELLIS.2 uses.

    Attributes:
        name: name of the extension as it is imported.
        kind: `real`; `standin`: a stand-in, since the real extension is absent or cannot run
            on the device; `broken`: a stand-in, since the import of the real one fails or it
            lacks a name that TRELLIS.2 uses.
        why: reason for a stand-in, or the package that replaces the extension; empty if the
            extension itself is used.
    """

    name: str
    kind: Literal["real", "standin", "broken"]
    why: str


def inspect(device: str, alternatives: dict[str, str] | None = None) -> tuple[Extension, ...]:
    """Return which implementation of each extension a device needs; import the real ones.

    Args:
        device: PyTorch's name of the device, for example "cuda:1".
        alternatives: extension → package that TRELLIS.2 uses instead of it.
    """
    return tuple(_inspect(name, device, alternatives or {}) for name in EXTENSIONS)


def install(device: str, alternatives: dict[str, str] | None = None) -> tuple[Extension, ...]:
    """Make every extension importable; a second call changes nothing.

    Each stand-in is a warning in the log.

    Args:
        device: PyTorch's name of the device, for example "cuda:1".
        alternatives: extension → package that TRELLIS.2 uses instead of it.

    Returns:
        As `inspect`.
    """
    found = inspect(device, alternatives)
    for extension in found:
        if extension.kind != "real" and not is_standin(extension.name):
            _add_modules(extension.name)
            logger.warning(
                "TRELLIS.2 extension replaced by a slower stand-in",
                extra={"extension": extension.name, "why": extension.why},
            )
    if is_standin("o_voxel"):
        importlib.import_module(f"{__name__}.voxelization").compute_on(device)
    return found


def is_standin(name: str) -> bool:
    """Whether the imported module of that name is a stand-in."""
    return getattr(sys.modules.get(name), "__version__", None) == STANDIN_VERSION


def why_unusable(name: str, used: Mapping[str, Sequence[str]]) -> str:
    """Import a package; return why it cannot be used, or "" if it can.

    Args:
        name: of the package as it is imported; a stand-in counts as not installed.
        used: modules of it → names that must be there; a name with dots is an attribute of an
            attribute.
    """
    spec = None if is_standin(name) else importlib.util.find_spec(name)
    if spec is None:
        return NOT_INSTALLED
    if spec.origin is None and spec.submodule_search_locations is not None:
        return "installed in parts, without the package itself: perhaps another package's folder"
    before = set(sys.modules)
    try:
        modules = {path: importlib.import_module(path) for path in used}
    except Exception as error:  # noqa: BLE001 - a compiled package can raise anything
        for path in set(sys.modules) - before:
            if path.partition(".")[0] == name:
                del sys.modules[path]
        return f"installed, but its import fails: {type(error).__name__}: {error}"
    missing = [
        f"{path}.{attribute}"
        for path, attributes in used.items()
        for attribute in attributes
        if not _has(modules[path], attribute)
    ]
    if not missing:
        return ""
    more = f" and {len(missing) - _MAX_NAMES} more" if len(missing) > _MAX_NAMES else ""
    return (
        f"installed, but without {', '.join(missing[:_MAX_NAMES])}{more}: another version, or "
        "another package of this name"
    )


def _has(module: object, attribute: str) -> bool:
    try:
        operator.attrgetter(attribute)(module)
    except AttributeError:
        return False
    return True


def _inspect(name: str, device: str, alternatives: dict[str, str]) -> Extension:
    if name in alternatives:
        return Extension(name, "real", f"replaced by {alternatives[name]}")
    is_installed = not is_standin(name) and importlib.util.find_spec(name) is not None
    if is_installed and device.partition(":")[0] != "cuda":
        return Extension(name, "standin", f"the installed package does not run on {device}")
    why = why_unusable(name, _USED[name])
    if not why:
        return Extension(name, "real", "")
    return Extension(name, "standin" if why == NOT_INSTALLED else "broken", why)


def _add_modules(name: str) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]
    for path, sources in _SURFACES[name].items():
        # transformers and others read the specification of modules in `sys.modules`.
        spec = importlib.machinery.ModuleSpec(path, loader=None, is_package=True)
        module: Any = ModuleType(path, f"Stand-in for {path} in plain PyTorch.")
        module.__spec__ = spec
        module.__path__ = []
        module.__version__ = STANDIN_VERSION
        for source, attributes in sources.items():
            standin = importlib.import_module(f"{__name__}.{source}")
            for attribute in attributes:
                setattr(module, attribute, getattr(standin, attribute))
        sys.modules[path] = module
        parent, _, child = path.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
