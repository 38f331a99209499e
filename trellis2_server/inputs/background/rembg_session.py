"""Load rembg's background models, and find objects with them. Imports `rembg` on first use.

Does not know: how files are downloaded, when a model is loaded, what happens with its masks.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.model_files import (
    FileProblem,
    existing_files_only,
    find_kind,
    find_problem,
    model_files,
    unreadable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trellis2_server.reports import Check

logger = logging.getLogger(__name__)

#: onnxruntime's errors for files that are no model; other ones have other causes.
_UNREADABLE: Final = frozenset({"InvalidProtobuf", "InvalidGraph"})


class RembgSession:
    """A model of rembg in this process. One call at a time.

    Args:
        name: the model's name.
        session: `rembg`'s session.
        file_bytes: size of the model's files.

    Attributes:
        file_bytes: the same.
    """

    def __init__(self, name: str, session: Any, file_bytes: int = 0) -> None:
        self.file_bytes = file_bytes
        self._name = name
        self._session = session

    def mask(self, rgb: NDArray[np.uint8], check: Check) -> NDArray[np.uint8]:
        """Find the object; the check is not called.

        Raises:
            EngineError: the model failed on this picture.
        """
        del check
        try:
            masks = self._session.predict(Image.fromarray(rgb))
            # A model for clothes returns a mask for each garment; their union is the object.
            return np.max([np.asarray(mask.convert("L")) for mask in masks], axis=0)
        except Exception as error:
            logger.exception("Background model failed", extra={"model": self._name})
            raise EngineError(
                f"the background model {self._name} failed ({type(error).__name__})"
            ) from error

    def close(self) -> None:
        """Do nothing: the model is freed with this object."""


def configured_threads() -> int | None:
    """Return the number of threads of `OMP_NUM_THREADS`; None: it is not set."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() else None


def load_rembg(name: str, threads: int | None = None) -> RembgSession | FileProblem:
    """Load a model from its files; check them before, where their hashes are known.

    Uses no network and writes nothing.

    Args:
        name: the model's name.
        threads: number of threads of a prediction; None: one per core.

    Returns:
        The session, or why the files cannot be used.

    Raises:
        MissingPackageError: `rembg` or `onnxruntime` is not installed.
        EngineError: the model does not exist, runs on an external service, or fails to load.
    """
    kind = find_kind(name)
    files = model_files(kind)
    problem = find_problem(files)
    if problem is not None:
        return problem
    try:
        with existing_files_only():
            # All versions' classes take options; `rembg.new_session` does only in some.
            session = kind(name, _session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:
        problem = unreadable(files) if type(error).__name__ in _UNREADABLE else None
        if problem is not None:
            return problem
        raise EngineError(
            f"the background model {name} could not be loaded ({type(error).__name__})"
        ) from error
    return RembgSession(name, session, sum(file.path.stat().st_size for file in files))


def _session_options(threads: int | None) -> Any:
    options = importlib.import_module("onnxruntime").SessionOptions()
    # Spinning idle threads would take cores from the engine and the exporter.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A plan of the memory saves no time with one picture at a time, and takes half as much again.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
