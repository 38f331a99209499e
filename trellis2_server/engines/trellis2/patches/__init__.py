"""Faster replacements for functions of TRELLIS.2, applied from outside.

    modulation  exact    a block's scales and shifts are not copied for each token
    sequences   exact    bounds of sequences are copied to the device once a stage
    timesteps   exact    times and frequencies are not copied to the device in each evaluation
    guidance    exact    deviations are computed without waiting for the device
    condition   exact    keys and values of the picture's features are kept for a stage
    negative    rounding attention to features that are all zero is one vector per block

A function is replaced only where its source, and that of the functions which the replacement
relies on, are those of the TRELLIS.2 for which it was written (commit 5565d24); otherwise the
log says once what differs. Replacements compute in their own way only within `sampling`, in the
thread that opened it: for any other use of the package they call TRELLIS.2's functions.

Importing this package imports neither PyTorch nor TRELLIS.2.

Does not know: settings, stages, checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.patches import (
    conditions,
    guidance,
    modulation,
    scope,
    sequences,
    timesteps,
)
from trellis2_server.engines.trellis2.patches.patch import replace

if TYPE_CHECKING:
    from collections.abc import Collection, Generator
    from typing import Literal

    from trellis2_server.engines.trellis2.patches.patch import Patch, Replacement

logger = logging.getLogger(__name__)

PATCHES: Final = (
    modulation.PATCH,
    sequences.PATCH,
    timesteps.PATCH,
    guidance.PATCH,
    *conditions.PATCHES,
)

_lock = threading.Lock()
_installed: dict[Patch, list[Replacement]] = {}
_logged: set[tuple[str, str, str]] = set()


def install(*, choice: Literal["exact"] | bool) -> tuple[str, ...]:
    """Replace functions of the imported `trellis2` package; a second call changes nothing.

    Args:
        choice: "exact": patches with the same results, bit for bit; True: all; False: none.

    Returns:
        Names of the patches that can be used, for `sampling`.
    """
    wanted = [patch for patch in PATCHES if choice is True or (choice and patch.is_exact)]
    with _lock:
        return tuple(patch.name for patch in wanted if _install(patch))


def remove() -> None:
    """Put TRELLIS.2's functions back. No sampler may run."""
    with _lock:
        for patch in reversed(list(_installed)):
            for replacement in reversed(_installed.pop(patch)):
                replacement.undo()


@contextlib.contextmanager
def sampling(
    names: Collection[str], model: Any, features: dict[str, Any]
) -> Generator[dict[str, Any], None, None]:
    """Use patches in this thread within the block, which calls a sampler once.

    Args:
        names: of `install`. Empty: nothing changes.
        model: the model that is sampled.
        features: arguments of the sampler: "cond" and, with guidance, "neg_cond".

    Yields:
        The features to call the sampler with.
    """
    if not names:
        yield features
        return
    with scope.sampling(names) as opened:
        yield conditions.share(opened, model, features)


def _install(patch: Patch) -> bool:
    if patch in _installed:
        return True
    differences = list(patch.differences())
    for path, what in differences:
        if (patch.name, path, what) not in _logged:
            _logged.add((patch.name, path, what))
            logger.warning(
                "Patch of TRELLIS.2 not applied: the package has another version of a function",
                extra={"patch": patch.name, "function": path, "why": what},
            )
    if differences:
        return False
    _installed[patch] = [replace(path, make) for path, make in patch.replacements.items()]
    return True
