"""The `trellis2` package, what it needs, and the device: found, imported, or said to be missing.

`trellis2` is pure Python, on no package index and without a setup file: users clone it and
say where. Its image encoder and its background remover are replaced by ours before they are
imported. They are written for CUDA alone, and they are what needs torchvision and code
downloaded along with gated weights.

What this module does not know: checkpoints, stages.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.machinery
import importlib.util
import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines import portable
from trellis2_server.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from trellis2_server.settings import ModelSettings

logger = logging.getLogger(__name__)

HOME_VARIABLE: Final = "TRELLIS2_HOME"
#: Package → the line that installs it.
PACKAGES: Final = {
    "torch": "install PyTorch as https://pytorch.org/get-started/locally says",
    "transformers": 'pip install "transformers>=4.56"',
    "safetensors": "pip install safetensors",
    "huggingface_hub": "pip install huggingface_hub",
    "easydict": "pip install easydict",
    "tqdm": "pip install tqdm",
}
#: What TRELLIS.2 imports to write GLBs, with a module of it that is imported by name.
_FOR_GLBS: Final = {"trimesh": None, "nvdiffrast": "torch", "cv2": None}
_CLONE: Final = (
    "git clone https://github.com/microsoft/TRELLIS.2 and set model.trellis2_path or "
    f"{HOME_VARIABLE} to it"
)


@dataclass(frozen=True, slots=True)
class Upstream:
    """TRELLIS.2's modules and classes, imported.

    Attributes:
        torch: PyTorch.
        pipeline: class `Trellis2ImageTo3DPipeline`.
        samplers: module of the samplers.
        models: module of the models.
        sparse: module of the sparse tensors.
        extensions: which of its extensions are real.
    """

    torch: Any
    pipeline: Any
    samplers: Any
    models: Any
    sparse: Any
    extensions: tuple[portable.Extension, ...]


def why_not(settings: ModelSettings) -> str | None:
    """What keeps `model.engine: "auto"` from taking TRELLIS.2, in one sentence; None: nothing.

    Loads and downloads nothing, and does not wait for PyTorch to import.
    """
    if settings.device == "cpu":
        return 'model.device is the CPU, which takes more than an hour a model; "cuda" is a GPU'
    return missing_package(settings) or _missing_build(settings.device)


def _missing_build(device: str) -> str | None:
    """What is known of a device without importing PyTorch, which takes seconds."""
    kind = device.partition(":")[0]
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if kind != "cuda" or file is None or not file.is_file():
        return missing_device(device)
    said = dict(re.findall(r"^(\w+)\b[^=\n]*= '([^']+)'", file.read_text("utf-8"), re.MULTILINE))
    version = said.get("__version__", "")
    if "cuda" in said:
        count = _count_cuda()
    elif "hip" in said:
        count = _count_rocm()
    else:
        return f"model.device: PyTorch {version} finds no cuda device: it is built without CUDA"
    number = int(device.partition(":")[2] or 0)
    if number < count:
        return None
    if number:
        return f"model.device: there is no {device}, only {count} cuda device(s)"
    return f"model.device: PyTorch {version} finds no cuda device: there is no driver, or no GPU"


def _count_rocm() -> int:
    """AMD's devices, by the files of the kernel's driver."""
    return len(list(Path("/dev/dri").glob("renderD*"))) if Path("/dev/kfd").exists() else 0


def _count_cuda() -> int:
    """NVIDIA's devices, by its driver's own library."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(name)
        is_counted = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if is_counted else 0


def missing_package(settings: ModelSettings) -> str | None:
    """The first package that is not installed and how to get it; nothing is imported."""
    try:
        home = find_home(settings)
    except MissingPackageError as error:
        return str(error)
    if home is None and importlib.util.find_spec("trellis2") is None:
        return f"TRELLIS.2 is not installed: {_CLONE}"
    for package, install in PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            return f"{package}, which TRELLIS.2 needs, is not installed: {install}"
    return None


def missing_device(device: str) -> str | None:
    """Why PyTorch has no such device; imports PyTorch."""
    torch: Any = importlib.import_module("torch")
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return None
    if kind == "mps":
        return None if torch.backends.mps.is_available() else "model.device: PyTorch finds no MPS"
    backend = getattr(torch, kind, None)
    if backend is None or not backend.is_available():
        return (
            f"model.device: PyTorch {torch.__version__} finds no {kind} device; install a driver "
            "and a build of PyTorch for it"
        )
    count = backend.device_count()
    if int(number or 0) >= count:
        return f"model.device: there is no {device}, only {count} {kind} device(s)"
    return None


def find_home(settings: ModelSettings) -> Path | None:
    """The checkout that is configured, if one is.

    Raises:
        MissingPackageError: it is no checkout of TRELLIS.2.
    """
    for source, given in (
        ("model.trellis2_path", settings.trellis2_path),
        (HOME_VARIABLE, os.environ.get(HOME_VARIABLE)),
    ):
        if given:
            home = Path(given).expanduser()
            if (home / "trellis2" / "pipelines" / "__init__.py").is_file():
                return home
            raise MissingPackageError(f"{source}: no checkout of TRELLIS.2 is there: {_CLONE}")
    return None


def alternatives() -> dict[str, str]:
    """What takes an extension's place, by TRELLIS.2's own choice of backends."""
    chosen = os.environ.get("SPARSE_ATTN_BACKEND") or os.environ.get("ATTN_BACKEND")
    package = {"xformers": "xformers", "flash_attn_3": "flash_attn_interface"}.get(chosen or "")
    return {"flash_attn": package} if package else {}


def import_upstream(settings: ModelSettings) -> Upstream:
    """TRELLIS.2, ready to be used on the configured device.

    Raises:
        MissingPackageError: it or something that it needs is not installed.
        EngineError: the device is not there, or the package does not import.
    """
    missing = missing_package(settings)
    if missing:
        raise MissingPackageError(missing)
    missing = missing_device(settings.device)
    if missing:
        raise EngineError(missing)
    home = find_home(settings)
    if home is not None and str(home) not in sys.path:
        sys.path.insert(0, str(home))
    torch: Any = importlib.import_module("torch")
    _choose_attention(settings.device)
    extensions = portable.install(settings.device, alternatives())
    _replace_modules()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints its choices
            pipelines: Any = importlib.import_module("trellis2.pipelines")
            return Upstream(
                torch=torch,
                pipeline=pipelines.Trellis2ImageTo3DPipeline,
                samplers=pipelines.samplers,
                models=importlib.import_module("trellis2.models"),
                sparse=importlib.import_module("trellis2.modules.sparse"),
                extensions=extensions,
            )
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"TRELLIS.2 needs the package {error.name}: pip install {error.name}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise EngineError(f"TRELLIS.2 does not import: {error}") from error


def import_texturing() -> Any:
    """Class `Trellis2TexturingPipeline`, after `import_upstream`.

    What its module imports for its GLBs alone is not needed, our exporter writes them: where
    that is not installed, a place is held for it while the module is imported.

    Raises:
        MissingPackageError: this version of TRELLIS.2 has none, or it does not import.
    """
    name = "trellis2.pipelines.trellis2_texturing"
    convert: Any = importlib.import_module("o_voxel.convert")
    if not hasattr(convert, "mesh_to_flexible_dual_grid"):
        raise MissingPackageError("the installed o_voxel has no mesh_to_flexible_dual_grid")
    held: list[str] = []
    try:
        for package, child in _FOR_GLBS.items():
            if package not in sys.modules and importlib.util.find_spec(package) is None:
                held += _hold_place(package, child)
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(name).Trellis2TexturingPipeline
    except (ImportError, AttributeError) as error:
        raise MissingPackageError(f"TRELLIS.2's texturing pipeline: {error}") from error
    finally:
        for module in held:
            del sys.modules[module]


def import_remover(name: str) -> Any:
    """TRELLIS.2's class of a background remover, which `import_upstream` keeps out.

    Raises:
        MissingPackageError: it, or what it needs, is not there.
    """
    path = "trellis2.pipelines.rembg"
    ours = sys.modules.pop(path, None)
    try:
        return getattr(importlib.import_module(path), name)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"model.background: TRELLIS.2's remover needs {error.name}: pip install {error.name}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise MissingPackageError(f"model.background: no {name} in TRELLIS.2: {error}") from error
    finally:
        if ours is not None:
            sys.modules[path] = ours


def _hold_place(package: str, child: str | None) -> list[str]:
    paths = [package] if child is None else [package, f"{package}.{child}"]
    for path in paths:
        module: Any = ModuleType(path, "Not installed.")
        module.__spec__ = importlib.machinery.ModuleSpec(path, loader=None, is_package=True)
        module.__path__ = []
        module.Trimesh = object  # named in annotations
        sys.modules[path] = module
    if child is not None:
        setattr(sys.modules[package], child, sys.modules[paths[1]])
    return paths


def _choose_attention(device: str) -> None:
    """Dense attention by PyTorch's own where flash_attn is not there; read once, at import.

    Sparse attention ignores this value and keeps to flash_attn, real or stand-in.
    """
    if "ATTN_BACKEND" not in os.environ:
        found = portable.inspect(device)[portable.EXTENSIONS.index("flash_attn")]
        if found.kind != "real":
            os.environ["ATTN_BACKEND"] = "sdpa"


def _replace_modules() -> None:
    encoder = importlib.import_module("trellis2_server.engines.trellis2.encoder")
    for name, attributes in {
        "trellis2.modules.image_feature_extractor": {
            "DinoV3FeatureExtractor": encoder.ImageEncoder
        },
        "trellis2.pipelines.rembg": {"BiRefNet": encoder.NoBackgroundRemover},
    }.items():
        if name not in sys.modules:
            module = ModuleType(name, "Replaced by trellis2_server.")
            module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None)
            module.__dict__.update(attributes)
            sys.modules[name] = module
