"""The `trellis2` package, imported with the changes that this server needs.

    extensions     stand-ins where a compiled extension is absent or not usable on the device
    attention      PyTorch's own for dense attention where flash_attn is absent; its kernel
                   is chosen by `attention.install`
    encoder        the image encoder is replaced by `encoder.ImageEncoder`: TRELLIS.2's runs
                   on CUDA only and needs torchvision
    remover        the background remover is replaced by one that is never called: TRELLIS.2's
                   downloads code and gated weights
    patches        slow functions are replaced, see `patches`

Does not know: checkpoints, stages.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines import portable
from trellis2_server.engines.trellis2 import (
    attention,
    backends,
    environment,
    kernel_caches,
    patches,
)
from trellis2_server.engines.trellis2.device_memory import DeviceMemory
from trellis2_server.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from trellis2_server.settings import ModelSettings

_REMOVER_MODULE: Final = "trellis2.pipelines.rembg"
#: Packages that TRELLIS.2 needs only to write GLBs, and a submodule that it imports.
_GLB_PACKAGES: Final = {"trimesh": None, "nvdiffrast": "torch", "cv2": None}


@dataclass(frozen=True, slots=True)
class Upstream:
    """TRELLIS.2's modules and classes.

    Attributes:
        torch: PyTorch.
        pipeline: class `Trellis2ImageTo3DPipeline`.
        samplers: module of the samplers.
        models: module of the models.
        sparse: module of the sparse tensors.
        extensions: each extension, and whether it is compiled or a stand-in.
        patches: names of the patches that samplers use.
    """

    torch: Any
    pipeline: Any
    samplers: Any
    models: Any
    sparse: Any
    extensions: tuple[portable.Extension, ...]
    patches: tuple[str, ...] = ()


def import_upstream(settings: ModelSettings) -> Upstream:
    """Import TRELLIS.2 for the configured device.

    Raises:
        MissingPackageError: TRELLIS.2 or a package that it needs is not installed.
        EngineError: the device does not exist, a backend that an environment variable chooses
            is not usable, or the import fails.
    """
    missing = environment.missing_package(settings)
    if missing:
        raise MissingPackageError(missing)
    missing = environment.missing_device(settings.device)
    if missing:
        raise EngineError(missing)
    home = environment.find_home(settings)
    if home is not None and str(home) not in sys.path:
        sys.path.insert(0, str(home))
    torch: Any = importlib.import_module("torch")
    # FlexGEMM asks for the current device's name when it is imported.
    with DeviceMemory(torch, settings.device).as_current_device():
        return _import(torch, settings)


def _import(torch: Any, settings: ModelSettings) -> Upstream:
    if settings.device.partition(":")[0] == "cuda":
        kernel_caches.keep()  # FlexGEMM reads its variable when it is imported
    problems = backends.problems(settings.device)
    if problems:
        raise EngineError("; ".join(problems))
    _choose_attention(settings.device)
    extensions = portable.install(settings.device, backends.replaced_extensions())
    _replace_modules()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints its choices
            pipelines: Any = importlib.import_module("trellis2.pipelines")
            attention.install(settings.attention)
            return Upstream(
                torch=torch,
                pipeline=pipelines.Trellis2ImageTo3DPipeline,
                samplers=pipelines.samplers,
                models=importlib.import_module("trellis2.models"),
                sparse=importlib.import_module("trellis2.modules.sparse"),
                extensions=extensions,
                patches=patches.install(choice=settings.patches),
            )
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"TRELLIS.2 needs the package {error.name}: pip install {error.name}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise EngineError(f"the import of TRELLIS.2 fails: {error}") from error


def import_texturing() -> Any:
    """Import class `Trellis2TexturingPipeline`, after `import_upstream`.

    Its module imports packages that only its GLBs need. Where they are not installed, empty
    modules take their place during the import.

    Raises:
        MissingPackageError: this version of TRELLIS.2 has none, or its import fails.
    """
    name = "trellis2.pipelines.trellis2_texturing"
    convert: Any = importlib.import_module("o_voxel.convert")
    if not hasattr(convert, "mesh_to_flexible_dual_grid"):
        raise MissingPackageError("the installed o_voxel has no mesh_to_flexible_dual_grid")
    placeholders: list[str] = []
    try:
        for package, child in _GLB_PACKAGES.items():
            if package not in sys.modules and importlib.util.find_spec(package) is None:
                placeholders += _add_placeholders(package, child)
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name).Trellis2TexturingPipeline
    except (ImportError, AttributeError) as error:
        raise MissingPackageError(f"TRELLIS.2's texturing pipeline: {error}") from error
    finally:
        for module in placeholders:
            del sys.modules[module]


def import_remover(name: str) -> Any:
    """Import TRELLIS.2's own class of background remover.

    Raises:
        MissingPackageError: the class, or a package that it needs, does not exist.
    """
    replacement = sys.modules.pop(_REMOVER_MODULE, None)
    try:
        return getattr(importlib.import_module(_REMOVER_MODULE), name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"model.background: TRELLIS.2's remover needs {error.name}: pip install {error.name}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise MissingPackageError(f"model.background: no {name} in TRELLIS.2: {error}") from error
    finally:
        if replacement is not None:
            sys.modules[_REMOVER_MODULE] = replacement


def _add_placeholders(package: str, child: str | None) -> list[str]:
    """Add empty modules for a package and its submodule; return their names."""
    paths = [package] if child is None else [package, f"{package}.{child}"]
    for path in paths:
        module: Any = ModuleType(path, "Not installed.")
        module.__spec__ = importlib.machinery.ModuleSpec(path, loader=None, is_package=True)
        module.__path__ = []
        module.Trimesh = object  # used in annotations
        sys.modules[path] = module
    if child is not None:
        setattr(sys.modules[package], child, sys.modules[paths[1]])
    return paths


def _choose_attention(device: str) -> None:
    """Use PyTorch's own dense attention where flash_attn is absent.

    TRELLIS.2 reads the variable once, when it is imported. Its sparse attention ignores this
    value and uses flash_attn, real or stand-in.
    """
    if not os.environ.get(backends.DENSE_ATTENTION):
        found = portable.inspect(device)[portable.EXTENSIONS.index("flash_attn")]
        if found.kind != "real":
            os.environ[backends.DENSE_ATTENTION] = "sdpa"


def _replace_modules() -> None:
    encoder = importlib.import_module("trellis2_server.engines.trellis2.encoder")
    for name, attributes in {
        "trellis2.modules.image_feature_extractor": {
            "DinoV3FeatureExtractor": encoder.ImageEncoder
        },
        _REMOVER_MODULE: {"BiRefNet": encoder.NoBackgroundRemover},
    }.items():
        if name not in sys.modules:
            module = ModuleType(name, "Replaced by trellis2_server.")
            module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
            module.__dict__.update(attributes)
            sys.modules[name] = module
