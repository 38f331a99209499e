"""The picture and the options of a measured job.

Does not know: engines, tables.
"""

from __future__ import annotations

import functools

import numpy as np

from trellis2_server.inputs.images import Cutout
from trellis2_server.parameters import Options, read_options
from trellis2_server.settings import Settings


def silent(stage: str, step: int, steps: int) -> None:
    """Ignore a report."""


@functools.cache
def picture() -> Cutout:
    """A disc in two colours."""
    rgba = np.zeros((1024, 1024, 4), np.uint8)
    y, x = np.mgrid[:1024, :1024]
    disc = (y - 512) ** 2 + (x - 512) ** 2 < 511**2
    rgba[disc] = (200, 60, 40, 255)
    rgba[:512][disc[:512]] = (30, 90, 220, 255)
    return Cutout(rgba, "alpha")


def job(kind: str, steps: int, size: str, seed: int = 1) -> Options:
    """Options of a request."""
    return read_options(
        {
            "pipeline_type": kind,
            "seed": seed,
            "max_num_tokens": 65_536,
            "texture_size": 2048 if size == "full" else 256,
            **{f"{s}_sampling_steps": steps for s in ("ss", "shape", "tex")},
        },
        Settings(),
    )
