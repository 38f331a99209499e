"""What this machine has for TRELLIS.2: its checkout, the packages it needs, the device.

`trellis2` is pure Python, on no package index and without a setup file: users clone it and
configure the path.

Does not know: checkpoints, how the package is imported.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import MissingPackageError

if TYPE_CHECKING:
    from trellis2_server.settings import ModelSettings

HOME_VARIABLE: Final = "TRELLIS2_HOME"
#: Package → how to install it.
PACKAGES: Final = {
    "torch": "install PyTorch as described at https://pytorch.org/get-started/locally",
    "transformers": 'pip install "transformers>=4.56"',
    "safetensors": "pip install safetensors",
    "huggingface_hub": "pip install huggingface_hub",
    "easydict": "pip install easydict",
    "tqdm": "pip install tqdm",
}
_CLONE: Final = (
    "git clone https://github.com/microsoft/TRELLIS.2 and set model.trellis2_path or "
    f"{HOME_VARIABLE} to it"
)


def reason_unavailable(settings: ModelSettings) -> str | None:
    """Return why `model.engine: "auto"` does not use TRELLIS.2; None if it does.

    Loads and downloads nothing, and usually does not import PyTorch, which takes seconds.
    """
    if settings.device == "cpu":
        return 'model.device is "cpu", which takes more than an hour per model; "cuda" is a GPU'
    return missing_package(settings) or missing_build(settings.device)


def missing_package(settings: ModelSettings) -> str | None:
    """Return the first package that is not installed and how to get it; None if all are.

    Imports nothing.
    """
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


def missing_build(device: str) -> str | None:
    """Return why PyTorch cannot use a device, if possible without importing PyTorch."""
    kind = device.partition(":")[0]
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if kind != "cuda" or file is None or not file.is_file():
        return missing_device(device)
    values = dict(re.findall(r"^(\w+)\b[^=\n]*= '([^']+)'", file.read_text("utf-8"), re.MULTILINE))
    version = values.get("__version__", "")
    if "cuda" in values:
        count = _count_cuda()
    elif "hip" in values:
        count = _count_rocm()
    else:
        return f"model.device: PyTorch {version} finds no cuda device: it is built without CUDA"
    number = int(device.partition(":")[2] or 0)
    if number < count:
        return None
    if number:
        return f"model.device: there is no {device}, only {count} cuda device(s)"
    return f"model.device: PyTorch {version} finds no cuda device: there is no driver, or no GPU"


def missing_device(device: str) -> str | None:
    """Return why PyTorch cannot use a device; None if it can. Imports PyTorch."""
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
    """Return the configured checkout; None if none is configured.

    Raises:
        MissingPackageError: the configured folder is not a checkout of TRELLIS.2.
    """
    for source, path in (
        ("model.trellis2_path", settings.trellis2_path),
        (HOME_VARIABLE, os.environ.get(HOME_VARIABLE)),
    ):
        if path:
            home = Path(path).expanduser()
            if (home / "trellis2" / "pipelines" / "__init__.py").is_file():
                return home
            raise MissingPackageError(f"{source}: no checkout of TRELLIS.2 there: {_CLONE}")
    return None


def _count_cuda() -> int:
    """Number of NVIDIA's devices, from its driver's library."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(name)
        is_counted = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    except (OSError, AttributeError):
        return 0
    return count.value if is_counted else 0


def _count_rocm() -> int:
    """Number of AMD's devices, from the files of the kernel's driver."""
    return len(list(Path("/dev/dri").glob("renderD*"))) if Path("/dev/kfd").exists() else 0
