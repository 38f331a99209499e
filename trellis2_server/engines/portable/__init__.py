"""Stand-ins in plain PyTorch for the compiled extensions that TRELLIS.2 imports.

    flash_attn   attention.py      sequences of different lengths
    flex_gemm    convolution.py    submanifold convolution
                 sampling.py       trilinear look-up in sparse voxels
    o_voxel      dualgrid.py       voxels with dual vertices → mesh
                 voxelization.py   mesh → voxels with dual vertices
    cumesh       holes.py          boundary loops, hole filling

`install` puts one into `sys.modules` where the real package is absent, cannot be imported,
or cannot run on the device: the real ones run on CUDA alone. Importing this package imports
nothing heavy.

What this package does not know: TRELLIS.2, models, checkpoints.
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

#: Marks a stand-in; also what packages that look for a version see.
STANDIN_VERSION: Final = "0.0.0+standin"

_ATTENTION: Final = (
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
)
_CONVOLUTION: Final = ("set_algorithm", "set_hashmap_ratio", "sparse_submanifold_conv3d")
#: Extension → its modules → our modules and the names that it takes from each.
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
    """How TRELLIS.2 gets one of its extensions.

    Attributes:
        name: as it is imported.
        kind: `real`; `standin`: ours, because the real one is absent or of no use on the
            device; `broken`: ours, because the real one is installed and fails.
        why: a sentence; empty for a real one.
    """

    name: str
    kind: Literal["real", "standin", "broken"]
    why: str


def inspect(device: str, alternatives: dict[str, str] | None = None) -> tuple[Extension, ...]:
    """How each extension would be had on a device. Imports the real ones where they are.

    Args:
        device: PyTorch's name of it, "cuda:1".
        alternatives: extension → a package that takes its place, so that it is not needed.
    """
    return tuple(_inspect(name, device, alternatives or {}) for name in EXTENSIONS)


def install(device: str, alternatives: dict[str, str] | None = None) -> tuple[Extension, ...]:
    """Make every extension importable; a second call changes nothing.

    Args:
        device: PyTorch's name of it, "cuda:1".
        alternatives: extension → a package that takes its place, so that it is not needed.

    Returns:
        What is real and what stands in. Warned of in the log.
    """
    found = inspect(device, alternatives)
    for extension in found:
        if extension.kind != "real" and not is_standin(extension.name):
            _put(extension.name)
            logger.warning(
                "TRELLIS.2 extension replaced by a slower stand-in",
                extra={"extension": extension.name, "why": extension.why},
            )
    return found


def is_standin(name: str) -> bool:
    """Whether what `import name` gives is ours."""
    return getattr(sys.modules.get(name), "__version__", None) == STANDIN_VERSION


def _inspect(name: str, device: str, alternatives: dict[str, str]) -> Extension:
    if name in alternatives:
        return Extension(name, "real", f"{alternatives[name]} takes its place")
    if not is_standin(name) and importlib.util.find_spec(name) is not None:
        if device.partition(":")[0] != "cuda":
            return Extension(name, "standin", f"the installed one does not run on {device}")
        before = set(sys.modules)
        try:
            for module in _SURFACES[name]:
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 - a compiled package fails in any way it likes
            for module in set(sys.modules) - before:
                if module.partition(".")[0] == name:
                    del sys.modules[module]
            return Extension(
                name,
                "broken",
                f"installed, but it fails to import: {type(error).__name__}: {error}",
            )
        return Extension(name, "real", "")
    return Extension(name, "standin", "not installed")


def _put(name: str) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == name]:
        del sys.modules[module]
    for path, sources in _SURFACES[name].items():
        # transformers and others look for the specification of what is in `sys.modules`.
        spec = importlib.machinery.ModuleSpec(path, loader=None, is_package=True)
        module: Any = ModuleType(path, f"Stand-in for {path} in plain PyTorch.")
        module.__spec__ = spec
        module.__path__ = []
        module.__version__ = STANDIN_VERSION
        for source, attributes in sources.items():
            ours = importlib.import_module(f"{__name__}.{source}")
            for attribute in attributes:
                setattr(module, attribute, getattr(ours, attribute))
        sys.modules[path] = module
        parent, _, child = path.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
