"""Tasks of a process that holds a model, whose behaviour the picture's first value chooses."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_model(content: memoryview, arguments: Mapping[str, Any]) -> Any:
    """Load nothing; the name may be "crash"."""
    del content
    if arguments["name"] == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"problem": None}, {}


def find_object(content: memoryview, arguments: Mapping[str, Any]) -> Any:
    """Return an empty mask, or crash, hang, return another shape, fail."""
    shape = arguments["height"], arguments["width"]
    if content[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if content[0] == 2:
        threading.Event().wait()
    if content[0] == 4:
        raise EngineError("the model failed on this picture")
    return {}, {"mask": np.zeros(shape[:: -1 if content[0] == 3 else 1], np.uint8)}


TASKS = {"load_model": load_model, "find_object": find_object}
