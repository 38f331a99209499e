"""Tasks of a process that holds a model, whose behaviour the picture's first value chooses."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping


loaded: list[Any] = []


def load_model(content: memoryview, arguments: Mapping[str, Any]) -> Any:
    """Load nothing, or what the name says: "crash", "large"."""
    del content
    if arguments["name"] == "large":
        loaded.append(np.ones(300 * 2**20, np.uint8))
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


def read(content: memoryview, arguments: Mapping[str, Any]) -> Any:
    """Return whether a file can be read."""
    del arguments
    try:
        Path(bytes(content).decode()).read_bytes()
    except OSError:
        return {"can_be_read": False}, {}
    return {"can_be_read": True}, {}


TASKS = {"read": read, "load_model": load_model, "find_object": find_object}
