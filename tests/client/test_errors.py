"""The hierarchy of errors."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from trellis2_server import client as package
from trellis2_server.client import ClientError, errors

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_the_documented_tree_of_errors_is_complete() -> None:
    drawn = errors.__doc__ or ""
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass)]
    for each in classes:
        assert issubclass(each, ClientError)
        assert f" {each.__name__} " in f"{drawn} ".replace("\n", " ")
        assert each.__name__ in package.__all__
