"""What a patched function may use during one call of a sampler: names, and what is kept.

A replacement computes in its own way only while the thread that calls it is within `sampling`;
otherwise it calls TRELLIS.2's function. Nothing that is kept outlives the block.

Does not know: which functions are replaced.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Hashable

    Tensor = Any

Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class Condition:
    """Features of the picture, as the blocks of a model get them.

    Attributes:
        features: float [B, L, C], in the dtype of the model's blocks.
        is_zero: whether all are zero, as for the negative pass.
        kept: attention module → tensors that depend on the features only.
    """

    features: Tensor
    is_zero: bool = False
    kept: dict[Any, tuple[Tensor, ...]] = field(default_factory=dict[Any, "tuple[Tensor, ...]"])


class SamplingScope:
    """One call of a sampler.

    Args:
        names: patches that are active.

    Attributes:
        conditions: features that the call's evaluations share.
        budget: memory that `Condition.kept` may still take, bytes.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)
        self.conditions: list[Condition] = []
        self.budget = 0
        self._kept: dict[Hashable, Any] = {}

    def keep(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key; make it at its first use."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def condition(self, features: Tensor) -> Condition | None:
        """Return the condition with that very tensor; None if there is none."""
        for condition in self.conditions:
            if condition.features is features:
                return condition
        return None

    def clear(self) -> None:
        """Drop all tensors."""
        for condition in self.conditions:
            condition.kept.clear()
        self.conditions.clear()
        self._kept.clear()


class _Local(threading.local):
    scope: SamplingScope | None = None


_LOCAL = _Local()


def active(name: str) -> SamplingScope | None:
    """Return this thread's scope if a patch is active in it; None otherwise."""
    scope = _LOCAL.scope
    return scope if scope is not None and name in scope.names else None


@contextlib.contextmanager
def sampling(names: Collection[str]) -> Generator[SamplingScope, None, None]:
    """Make patches active in this thread within the block; drop what they kept at its end."""
    before, scope = _LOCAL.scope, SamplingScope(names)
    _LOCAL.scope = scope
    try:
        yield scope
    finally:
        _LOCAL.scope = before
        # Also after an error or a cancelled stage, whose frames may hold the scope.
        scope.clear()
