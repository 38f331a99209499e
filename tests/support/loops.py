"""Compiled loops, run on their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trellis2_server.export.cancellation import OBSERVED, new_flag

if TYPE_CHECKING:
    from collections.abc import Callable


def observed(loop: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Return what a loop returns, and how often it looked at its flag.

    Args:
        loop: with the flag as its last argument.
        arguments: those before the flag.
    """
    flag = new_flag()
    flag[0] = OBSERVED
    return loop(*arguments, flag), int(flag[1])
