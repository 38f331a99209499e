"""Open rembg's background models. Imports `rembg` on first use.

Does not know: when a model is loaded, what happens with its masks.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background.deferred_import import deferred_import

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

_INSTALL: Final = 'pip install "rembg[cpu]"'
#: Only rembg's alpha matting needs it, which is not used here.
_MATTING: Final = "pymatting"


class Session(Protocol):
    """The used part of a `rembg` session."""

    def predict(self, img: Image.Image) -> Sequence[Image.Image]:
        """Return masks in mode L, of the picture's size."""
        ...


def open_rembg(name: str, *, offline: bool) -> Session:
    """Open a model of `rembg`, and download it first if it is not on this machine.

    Args:
        name: the model's name.
        offline: whether a missing model is an error instead of a download.

    Raises:
        MissingPackageError: `rembg` or `onnxruntime` is not installed.
        EngineError: the model does not exist, runs on an external service, or is missing while
            `offline`.
    """
    for package in ("rembg", "onnxruntime"):  # without onnxruntime, rembg prints and exits
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"{package} is not installed ({_INSTALL})")
    kinds = _import_rembg().sessions_class
    kind = next((kind for kind in kinds if kind.name() == name), None)
    if kind is None:
        raise EngineError(f"rembg has no background model {name!r}")
    if hasattr(kind, "is_local") and not kind.is_local():
        raise EngineError(f"the background model {name} would send the pictures to a service")
    if offline and not _is_downloaded(kind, name):
        raise EngineError(f"the background model {name} is not on this machine, which is offline")
    _silence_pooch()
    options = importlib.import_module("onnxruntime").SessionOptions()
    # Spinning idle threads would take cores from the engine and the exporter.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():
        options.intra_op_num_threads = int(threads)
    # All versions' classes take options; `rembg.new_session` does only in some.
    return cast("Session", kind(name, options))


def _import_rembg() -> Any:
    """Import rembg's sessions, and PyMatting only when it is called.

    Importing PyMatting compiles loops, once per installation, for most of a minute.
    """
    with deferred_import(_MATTING):
        return importlib.import_module("rembg.sessions")


def _is_downloaded(kind: Any, name: str) -> bool:
    file_name = f"{name}.onnx"
    if hasattr(kind, "resolve_existing"):  # newer versions of rembg have a folder per model
        return kind.resolve_existing(file_name) is not None
    return Path(kind.u2net_home(), file_name).exists()


def _silence_pooch() -> None:
    """Keep the download's progress bar and banner off stderr, which carries the log."""
    importlib.import_module("pooch").get_logger().setLevel(logging.WARNING)
    downloaders: Any = importlib.import_module("pooch.downloaders")
    bar: object = getattr(downloaders, "tqdm", None)
    if callable(bar) and not isinstance(bar, partial):
        downloaders.tqdm = partial(bar, disable=True)
