"""The objects of a type that are in the process's memory."""

from __future__ import annotations

import gc
from typing import TypeVar

T = TypeVar("T")


def live_objects(kind: type[T], *, collect: bool = True) -> list[T]:
    """Return the objects of a type, or of types derived from it, that something refers to.

    Not by `isinstance`, which asks a weak reference's proxy for its object, which may be gone.

    Args:
        kind: the type.
        collect: whether those go first that only a garbage collection would free.
    """
    if collect:
        gc.collect()
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]
