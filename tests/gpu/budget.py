"""Seconds that are left, and whether a part fits into them.

An estimate has a share of the host and one of the device. The device's share is multiplied by
how much slower the device is than the modelled H100: first as the probe measures it, then as
the parts that ended took against their estimates.

Does not know: what a part does, how it is stopped.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.gpu.part import Estimate

#: Kept at the end, to write the tables and to stop a process; seconds.
RESERVE_S: Final = 4.0
#: A part is cut off at this multiple of its estimate: estimates are good to a factor of two.
PATIENCE: Final = 2.5
#: Shortest time after which a part is cut off, seconds.
MIN_LIMIT_S: Final = 45.0
#: The same with tiny models, whose machine other programs use too.
MIN_TINY_LIMIT_S: Final = 600.0
#: A slower device than this is a fault of a measurement, not of the device.
_SLOWEST: Final = 1000.0
_FASTEST: Final = 0.25


class Budget:
    """Seconds of one run.

    Args:
        seconds: in all.
        is_tiny: whether the models are tiny.
        clock: seconds.

    Attributes:
        slowness: time on this device over time on the modelled one.
    """

    def __init__(
        self, seconds: float, *, is_tiny: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._is_tiny = is_tiny
        self._end = clock() + seconds
        self._device_s = self._estimated_s = 0.0
        self.slowness = 1.0

    @property
    def left_s(self) -> float:
        """Seconds that parts may still take."""
        return self._end - self._clock() - RESERVE_S

    def seconds(self, estimate: Estimate) -> float:
        """Estimate for this device."""
        if self._is_tiny:
            return estimate.tiny_s
        return estimate.host_s + estimate.device_s * self.slowness

    def fits(self, estimate: Estimate) -> bool:
        """Whether a part is estimated to end in time."""
        return self.seconds(estimate) <= self.left_s

    def limit_s(self, estimate: Estimate) -> float:
        """Seconds after which a part is cut off."""
        shortest = MIN_TINY_LIMIT_S if self._is_tiny else MIN_LIMIT_S
        return min(self.left_s, max(PATIENCE * self.seconds(estimate), shortest))

    def note_speed(self, slowness: float) -> None:
        """Correct all estimates by what the probe measured."""
        if not self._estimated_s:
            self.slowness = min(max(slowness, _FASTEST), _SLOWEST)

    def note_part(self, estimate: Estimate, seconds: float) -> None:
        """Correct the other estimates by a part that has ended."""
        if self._is_tiny or not estimate.device_s:
            return
        # The host's share is as estimated, or the whole was faster.
        self._device_s += max(seconds - estimate.host_s, _FASTEST * estimate.device_s)
        self._estimated_s += estimate.device_s
        self.slowness = min(max(self._device_s / self._estimated_s, _FASTEST), _SLOWEST)
