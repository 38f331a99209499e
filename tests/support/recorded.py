"""Comparing arrays with recorded ones."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

#: What processors may differ by.
TOLERANCE: Final = {"rtol": 1e-4, "atol": 1e-5}


class Recorded:
    """What a test compares with what was recorded for it.

    Args:
        regression: the fixture `ndarrays_regression`.
    """

    def __init__(self, regression: Any) -> None:
        self._regression = regression

    def check(self, tolerance: dict[str, float] | None = None, /, **arrays: Any) -> None:
        """Fail if arrays, or numbers, differ from the recorded ones of the same names."""
        found = {name: np.atleast_1d(array) for name, array in arrays.items()}
        self._regression.check(found, default_tolerance=tolerance or TOLERANCE)
