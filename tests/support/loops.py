"""Compiled loops: run on their own, or watched while an export runs."""

from __future__ import annotations

import itertools
import sys
import zlib
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.export import cancellation, parallel
from trellis2_server.export.cancellation import OBSERVED, new_flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from numpy.typing import NDArray


def observed(loop: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Return what a loop returns, and how often it looked at its flag.

    Args:
        loop: with the flag as its last argument.
        arguments: those before the flag.
    """
    flag = new_flag()
    flag[0] = OBSERVED
    return loop(*arguments, flag), int(flag[1])


def replace_calls(patch: pytest.MonkeyPatch, call: Callable[..., Any]) -> None:
    """Let the exporter and the preview engine call their loops by another function.

    Args:
        patch: undoes it.
        call: with the arguments of `cancellation.call`. Of `parallel_for`, it gets the whole range.
    """

    def parallel_for(loop: Any, count: int, *arguments: Any, grain: int = 4096) -> None:
        del grain
        call(loop, 0, count, *arguments)

    known_calls = cancellation.call, parallel.parallel_for
    for module in _callers():
        for known, ours in (("call", call), ("parallel_for", parallel_for)):
            if getattr(module, known, None) in known_calls:
                patch.setattr(module, known, ours)


def _callers() -> list[ModuleType]:
    """Return the modules that may call loops, not those that numba compiles."""
    rooms = "trellis2_server.export.", "trellis2_server.engines.preview"
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith(rooms) and ".kernels." not in name
    ]


class _Filled:
    """NumPy, but new arrays have values."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, {"empty": "zeros", "empty_like": "zeros_like"}.get(name, name))


@contextmanager
def traced() -> Iterator[Callable[[], dict[str, NDArray[np.float64]]]]:
    """Note what loops make of their arguments; give a function that returns what there is so far.

    By module and name of the loop: the number of calls, then weighted sums over them of the looks
    at the flag, the result, and the numbers of each array, see `summary`. Those who call the loops
    never have memory without values meanwhile, so that nothing depends on what was there before.
    """
    rows: dict[str, list[list[float]]] = defaultdict(list)

    def call(loop: Any, *arguments: Any) -> Any:
        result, looks = observed(loop, *arguments)
        numbers = result if isinstance(result, tuple) else (result,)
        row = [float(looks), *(float(each) for each in numbers if each is not None)]
        for each in arguments:
            if isinstance(each, np.ndarray):
                row += summary(each)
        module = getattr(loop, "py_func", loop).__module__.rsplit(".", 1)[-1]
        rows[f"{module}.{loop.__name__}"].append(row)
        return result

    def trace() -> dict[str, NDArray[np.float64]]:
        found: dict[str, NDArray[np.float64]] = {}
        for name, calls in rows.items():
            columns = itertools.zip_longest(*calls, fillvalue=0.0)
            weights = 0.5 + _spread(len(calls))
            found[name] = np.array([len(calls), *(weights @ column for column in columns)])
        return found

    with pytest.MonkeyPatch.context() as patch:
        for module in _callers():
            if getattr(module, "np", None) is np:
                patch.setattr(module, "np", _Filled())
        replace_calls(patch, call)
        yield trace


def summary(values: NDArray[Any]) -> tuple[float, float]:
    """Return two numbers that tell arrays apart.

    Of real numbers, sums in which each place has its weight, one of them with the signs, neither
    near to zero; of others, their number and a checksum.
    """
    if values.dtype.kind != "f":
        return float(values.size), float(zlib.crc32(np.ascontiguousarray(values).tobytes()))
    flat = np.nan_to_num(values.ravel().astype(np.float64), nan=7, posinf=1e3, neginf=-1e3)
    weights = _spread(flat.size)
    return float(abs(flat) @ (0.5 + weights)), float((abs(flat) + flat * (weights - 0.5)).sum())


def _spread(count: int) -> NDArray[np.float64]:
    """Return numbers between 0 and 1, those of neighbours far apart."""
    return np.arange(count) * 0.6180339887 % 1
