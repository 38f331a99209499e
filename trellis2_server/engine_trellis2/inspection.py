"""What `--check` prints about TRELLIS.2."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""


def inspect_trellis2() -> None:
    """Later."""
