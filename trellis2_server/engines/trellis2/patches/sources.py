"""Finds TRELLIS.2's functions, and tells by their source whether they are the known ones.

Does not know: what a patch changes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any

#: Fields of a syntax tree that change nothing, or that not every version of Python has.
_IGNORED = frozenset({"ctx", "kind", "type_comment", "type_params"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a function is: a module, or a class in it.

    Attributes:
        holder: the module or class.
        name: name of the function in it.
        stored: what is stored there: the function, or a `staticmethod`.
        function: the function.
    """

    holder: Any
    name: str
    stored: Any
    function: Any


def find(path: str) -> Place:
    """Find a function.

    Args:
        path: "package.module:Class.function" or "package.module:function".

    Raises:
        LookupError: it does not exist; says why.
    """
    module, _, names = path.partition(":")
    *classes, name = names.split(".")
    try:
        holder: Any = importlib.import_module(module)
        for part in classes:
            holder = getattr(holder, part)
        stored = vars(holder)[name]
    except (ImportError, AttributeError, KeyError) as error:
        raise LookupError(f"{path} does not exist") from error
    function = stored.fget if isinstance(stored, property) else getattr(stored, "__func__", stored)
    return Place(holder, name, stored, function)


def digest(function: Any) -> str:
    """Digest of a function's source, without comments, docstrings, annotations and layout.

    Equal for equal syntax trees, in every version of Python.

    Raises:
        LookupError: there is no source.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError) as error:
        raise LookupError("its source cannot be read") from error
    return hashlib.sha256(_canonical(tree).encode()).hexdigest()[:16]


def _canonical(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields: dict[str, Any] = {}
    for name, value in ast.iter_fields(node):
        if name in _IGNORED or value is None or value == []:
            continue
        if name in {"annotation", "returns"}:
            continue
        fields[name] = value
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    content = ",".join(f"{name}={_canonical(value)}" for name, value in fields.items())
    return f"{type(node).__name__}({content})"
