"""A patch: functions of TRELLIS.2, what replaces them, and what it depends on.

Does not know: which patches there are, settings.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trellis2_server.engines.trellis2.patches.sources import digest, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Replacements of functions that belong together.

    Attributes:
        name: for logs and clients.
        is_exact: whether results stay the same bit for bit.
        sources: path of each function that is replaced or whose behaviour a replacement relies
            on → digest of its source, see `sources`.
        replacements: path of a function → makes its replacement from the function. The
            replacement calls the function for all cases that it does not cover.
    """

    name: str
    is_exact: bool
    sources: Mapping[str, str]
    replacements: Mapping[str, Callable[[Any], Callable[..., Any]]]

    def differences(self) -> Iterator[tuple[str, str]]:
        """Each function that is not the known one, and what differs."""
        for path, known in self.sources.items():
            try:
                found = digest(find(path).function)
            except LookupError as error:
                yield path, str(error)
                continue
            if found != known:
                yield path, f"its source has the digest {found}, known is {known}"


@dataclass(frozen=True, slots=True, eq=False)
class Replacement:
    """A function that took the place of another.

    Attributes:
        original: TRELLIS.2's function.
        function: its replacement.
        holder: class that has it; None for a function of a module.
        name: its name.
        stored: what the class had: the function, or a `staticmethod`.
    """

    original: Any
    function: Any
    holder: Any
    name: str
    stored: Any

    def undo(self) -> None:
        """Put TRELLIS.2's function back."""
        if self.holder is not None:
            setattr(self.holder, self.name, self.stored)
        else:
            _substitute(self.function, self.original)


def replace(path: str, make: Callable[[Any], Callable[..., Any]]) -> Replacement:
    """Replace a function, in its class or in all of TRELLIS.2's modules that imported it."""
    place = find(path)
    original = place.function
    function = functools.wraps(original)(make(original))
    if not isinstance(place.holder, type):
        _substitute(original, function)
        return Replacement(original, function, None, place.name, place.stored)
    is_static = isinstance(place.stored, staticmethod)
    setattr(place.holder, place.name, staticmethod(function) if is_static else function)
    return Replacement(original, function, place.holder, place.name, place.stored)


def _substitute(old: Any, new: Any) -> None:
    """Bind every name in TRELLIS.2's modules that means `old` to `new`."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "trellis2":
            for attribute in [key for key, value in list(vars(module).items()) if value is old]:
                setattr(module, attribute, new)
