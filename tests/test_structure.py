"""Sizes: a file, class or constructor that grows beyond them has more than one purpose."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import distribution

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
MAX_FILE_LINES = 400
MAX_CLASS_LINES = 250
MAX_PARAMETERS = 6

#: Files that may be longer, and why.
LONGER_FILES = {
    "trellis2_server/export/kernels/bake.py": "the compiled loops of one algorithm",
    "trellis2_server/export/kernels/charts.py": "the compiled loops of one algorithm",
    "trellis2_server/export/kernels/decimate.py": "the compiled loops of one algorithm",
    "trellis2_server/export/kernels/remesh.py": "the compiled loops of one algorithm",
    "trellis2_server/request_fields.py": "a table of declarations",
    "trellis2_server/settings.py": "a table of declarations",
}
SOURCES = sorted(
    path
    for folder in ("trellis2_server", "tests", "bench", "docs")
    for pattern in ("*.py", "*.js", "*.css")
    for path in (ROOT / folder).rglob(pattern)
    if "standin" not in path.parts  # has upstream's signatures
)


def lines(node: ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@functools.cache
def classes() -> list[tuple[str, ast.ClassDef]]:
    return list(_classes())


def _classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in SOURCES:
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ClassDef):
                    yield f"{path.relative_to(ROOT).as_posix()}: {node.name}", node


def test_no_file_is_long_without_a_reason() -> None:
    long = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if path.read_text("utf-8").count("\n") > MAX_FILE_LINES
    }
    assert long == set(LONGER_FILES)


def test_files_that_are_run_first_are_there() -> None:
    assert [name for name in distribution.LONG if not (ROOT / name).is_file()] == []
    assert len(set(distribution.LONG)) == len(distribution.LONG)


def test_no_class_is_long() -> None:
    assert {name for name, node in classes() if lines(node) > MAX_CLASS_LINES} == set()


@pytest.mark.parametrize("package", ["trellis2_server/jobs", "trellis2_server"])
def test_no_constructor_takes_many_parameters(package: str) -> None:
    many: set[str] = set()
    for name, node in classes():
        for method in node.body:
            is_constructor = isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_constructor and method.name == "__init__" and name.startswith(package):
                parameters = [*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]
                if len(parameters) - 1 > MAX_PARAMETERS:
                    many.add(name)
    assert many == set()
