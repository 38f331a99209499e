"""Numbers of the command line, checked against the range of their field.

The server would clamp most of them, and refuse others only after the upload.

Does not know: the names of the options.
"""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from itertools import pairwise

from trellis2_server.request_fields import LEAST_LEVELS, MOST_LEVELS


@dataclass(frozen=True, slots=True)
class Number:
    """Reads a number, for argparse.

    Attributes:
        bounds: least and greatest value; None: any finite one.
        is_whole: whether it must be an integer.
        word: a word that is allowed beside numbers.
    """

    bounds: tuple[float, float] | None = None
    is_whole: bool = False
    word: str | None = None

    def __call__(self, text: str) -> float | str:
        """Return the number, or the word.

        Raises:
            ArgumentTypeError: it is neither, or out of bounds; says what is allowed.
        """
        if self.word is not None and text.strip().lower() == self.word:
            return self.word
        try:
            number = int(text) if self.is_whole else float(text)
        except ValueError:
            number = math.nan
        low, high = self.bounds or (-math.inf, math.inf)
        # Integers are compared as they are: too many digits do not fit a float.
        if not low <= number <= high or (isinstance(number, float) and not math.isfinite(number)):
            raise argparse.ArgumentTypeError(f"must be {self}, not {text[:40]!r}")
        return number

    def __str__(self) -> str:
        """Return what is allowed: "a whole number from 1 to 100"."""
        kind = "a whole number" if self.is_whole else "a number"
        span = f" from {self.bounds[0]:,} to {self.bounds[1]:,}" if self.bounds else ""
        return kind + span + (f", or {self.word}" if self.word else "")


@dataclass(frozen=True, slots=True)
class FaceCounts:
    """Reads the numbers of faces of levels of detail, for argparse.

    Attributes:
        bounds: least and greatest of each.
    """

    bounds: tuple[float, float]

    def __call__(self, text: str) -> list[int]:
        """Return the numbers.

        Raises:
            ArgumentTypeError: they are too few, too many, out of bounds or not descending.
        """
        parts = re.split(r"[,\s]+", text.strip(" []()"))
        if not LEAST_LEVELS <= len(parts) <= MOST_LEVELS:
            raise argparse.ArgumentTypeError(
                f"must be {LEAST_LEVELS} to {MOST_LEVELS} numbers, descending, not {text[:40]!r}"
            )
        number = Number(self.bounds, is_whole=True)
        found = [int(number(part)) for part in parts]
        if any(later >= earlier for earlier, later in pairwise(found)):
            raise argparse.ArgumentTypeError("each number must be less than the one before")
        return found
