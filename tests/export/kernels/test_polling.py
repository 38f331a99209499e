"""Loops look at their flag in the first or the last of every so many steps."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trellis2_server.engines.preview import kernels as preview_kernels
from trellis2_server.export import kernels

if TYPE_CHECKING:
    from types import ModuleType

#: Steps between two looks: more, and a loop of dear steps is stopped late.
MOST_STEPS = 4096
#: Fewer, and looking takes longer than the steps.
FEWEST_STEPS = 16

MODULES = {
    f"{package.__name__}.{info.name}".removeprefix("trellis2_server."): package
    for package in (kernels, preview_kernels)
    for info in pkgutil.iter_modules(package.__path__)
}


def looks(module: ModuleType) -> list[ast.expr]:
    """Return the conditions of a module under which its loops end early."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    return [
        node.test
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "is_cancelled(flag)" in ast.unparse(node.test)
    ]


def steps_of_looks(module: ModuleType, condition: ast.expr) -> list[int]:
    """Evaluate at many steps when a condition of the form `step & mask == rest` holds."""
    [step] = {each.id for each in ast.walk(condition) if isinstance(each, ast.Name)}
    code = compile(ast.Expression(condition), str(module.__file__), "eval")
    holds = eval(code, {step: np.arange(4 * MOST_STEPS)})  # noqa: S307 - our own source
    return np.flatnonzero(holds).tolist()


@pytest.mark.parametrize("name", MODULES)
def test_loops_look_at_their_flag_at_regular_steps(name: str) -> None:
    module = importlib.import_module(f"trellis2_server.{name}")
    for look in looks(module):
        if ast.unparse(look) == "is_cancelled(flag)":
            continue
        assert isinstance(look, ast.BoolOp), ast.unparse(look)
        assert isinstance(look.op, ast.And), ast.unparse(look)
        steps, call = look.values
        assert ast.unparse(call) == "is_cancelled(flag)"
        found = steps_of_looks(module, steps)
        between = found[1] - found[0]
        assert FEWEST_STEPS <= between <= MOST_STEPS, ast.unparse(look)
        regular = (list(range(first, 4 * MOST_STEPS, between)) for first in (0, between - 1))
        assert found in regular, ast.unparse(look)
