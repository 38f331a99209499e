"""Import a package only when one of its functions is called.

Does not know: which packages.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def deferred_import(package: str) -> Generator[None]:
    """Defer imports of a package within this context until one of its functions is called.

    Within the context, every name of the package's modules is a function that imports the real
    module when called. A package that is already imported is used as it is.
    """
    if package in sys.modules:
        yield
        return
    finder = _DeferredFinder(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _DeferredModule):
                del sys.modules[name]


class _DeferredModule(ModuleType):
    """A module whose names are functions that import the real module when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(_import_and_call, self.__name__, name)


def _import_and_call(module: str, function: str, *args: Any, **named: Any) -> Any:
    return getattr(importlib.import_module(module), function)(*args, **named)


class _DeferredFinder(MetaPathFinder, Loader):
    """Finds and makes deferred modules for a package and all of its submodules."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """Return a spec for any name in the package, whether or not it exists."""
        del path, target
        if fullname.partition(".")[0] != self._package:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty deferred module."""
        return _DeferredModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has no code."""
