"""Comparing arrays with recorded ones."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

#: What processors may differ by, share.
_RTOL: Final = 1e-4


class Recorded:
    """What a test compares with what was recorded for it.

    Args:
        regression: the fixture `ndarrays_regression`.
        atol: what processors may differ by beside their share.
    """

    def __init__(self, regression: Any, atol: float) -> None:
        self._regression = regression
        self._tolerance = {"rtol": _RTOL, "atol": atol}

    def check(self, **arrays: Any) -> None:
        """Fail if arrays, or numbers, differ from the recorded ones of the same names."""
        found = {name: np.atleast_1d(array) for name, array in arrays.items()}
        self._regression.check(found, default_tolerance=self._tolerance)
