"""Stand-ins in plain PyTorch for the compiled extensions that TRELLIS.2 imports.

    flash_attn   attention       sequences of different lengths
    flex_gemm    convolution     submanifold convolution
                 sampling        trilinear look-up in sparse voxels
    o_voxel      dualgrid        voxels with dual vertices → mesh
                 voxelization    mesh → voxels with dual vertices
    cumesh       holes           boundary loops, hole filling

`lookup`, `neighbors`, `traversal` and `quadrics` are parts of them. On a GPU, the convolution
runs as a Triton kernel (`implicit_gemm`) where Triton is there. `install` adds a stand-in to
`sys.modules` where the real package is absent, cannot be imported, or cannot run on the
device: the real packages run on CUDA only. Importing this package imports nothing heavy.

Does not know: TRELLIS.2, models, checkpoints.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import logging
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal

logger = logging.getLogger(__name__)

#: `__version__` of a stand-in, by which it is recognised.
STANDIN_VERSION: Final = "0.0.0+standin"

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


@dataclass(frozen=True, slots=True)
class Extension:
    """Which implementation of an extension TRELLIS.2 uses.

    Attributes:
        name: name of the extension as it is imported.
        kind: `real`; `standin`: a stand-in, since the real extension is absent or cannot run
            on the device; `broken`: a stand-in, since the import of the real one fails.
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


def _inspect(name: str, device: str, alternatives: dict[str, str]) -> Extension:
    if name in alternatives:
        return Extension(name, "real", f"replaced by {alternatives[name]}")
    if not is_standin(name) and importlib.util.find_spec(name) is not None:
        if device.partition(":")[0] != "cuda":
            return Extension(name, "standin", f"the installed package does not run on {device}")
        before = set(sys.modules)
        try:
            for module in _SURFACES[name]:
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a compiled package can raise anything
            for module in set(sys.modules) - before:
                if module.partition(".")[0] == name:
                    del sys.modules[module]
            return Extension(
                name,
                "broken",
                f"installed, but its import fails: {type(error).__name__}: {error}",
            )
        return Extension(name, "real", "")
    return Extension(name, "standin", "not installed")


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
