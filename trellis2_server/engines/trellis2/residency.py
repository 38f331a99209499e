"""Which models have their weights on the device, while a stage runs with `low_vram`.

A stage uses its models in a known order. While one computes, the next one is copied, and a
model that is used again keeps its copy; both only if the stage's working memory stays free.
So each model is copied once a stage at most, and what does not fit is copied when it is used.

Does not know: how weights are copied, what models compute, why `low_vram` is on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from trellis2_server.engines.trellis2.device_errors import is_out_of_memory
from trellis2_server.engines.trellis2.weight_copies import WeightCopies
from trellis2_server.engines.trellis2.weight_mirror import WeightMirror

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)


class Memory(Protocol):
    """The device's memory, as far as it matters here."""

    def allocatable(self) -> int | None:
        """Bytes that tensors may still take; None: unknown."""
        ...

    def lap(self) -> int | None:
        """Peak of the bytes in use since the last call; None: unknown."""
        ...


class DeviceResidency:
    """Weights on the device, by the names of their models.

    `add` replaces the methods `to`, `cuda` and `cpu` of a model: TRELLIS.2's pipelines call them
    around each use.

    Args:
        memory: of the device.
        copies: of the device.

    Attributes:
        demand: working memory that is left free when copies are made ahead, bytes.
        is_strict: whether only the weights of the running model may be on the device.
        working_peak: largest memory in use besides weights, since it was set to 0, bytes.
        was_ahead: whether a copy was on the device beside the running model's, since it was
            set to False.
    """

    def __init__(self, memory: Memory, copies: WeightCopies) -> None:
        self.demand = 0
        self.is_strict = False
        self.working_peak = 0
        self.was_ahead = False
        self._memory = memory
        self._copies = copies
        self._mirrors: dict[str, WeightMirror] = {}
        self._order: Sequence[str] = ()
        self._at = 0

    def __contains__(self, name: object) -> bool:
        return name in self._mirrors

    def add(self, name: str, module: Any, *, is_on_device: bool) -> None:
        """Take over the moves of a model.

        Args:
            name: of the model.
            module: the model.
            is_on_device: where its weights are now.
        """
        self._mirrors[name] = WeightMirror(module, self._copies, is_on_device=is_on_device)
        device = self._copies.device

        def enter(*_: object, **__: object) -> Any:
            self.enter(name)
            return module

        def leave() -> Any:
            self.leave(name)
            return module

        def move(target: Any, *_: object, **__: object) -> Any:
            return leave() if str(target) == "cpu" != device else enter()

        module.to, module.cuda, module.cpu = move, enter, leave

    def keep_on_host(self, name: str) -> None:
        """Copy a model's weights to memory from which they are copied fast."""
        self._mirrors[name].keep_on_host()

    def bytes_of(self, names: Iterable[str]) -> int:
        """Bytes of the weights of some models."""
        return sum(self._mirrors[name].size for name in names)

    @property
    def device_bytes(self) -> int:
        """Bytes of the weights that are on the device now."""
        return sum(mirror.device_bytes for mirror in self._mirrors.values())

    def expect(self, order: Sequence[str]) -> None:
        """Set the order in which models are used from now on; a model may be in it again."""
        self._order, self._at = order, 0

    def enter(self, name: str) -> None:
        """Let a model run on the device; copy the next one ahead."""
        mirror = self._mirrors[name]
        if mirror.is_on_device:
            return
        self.note_peak()
        if name in self._order[self._at :]:
            self._at = self._order.index(name, self._at) + 1
        if not mirror.device_bytes and not self._fits(mirror.size):
            self._drop(n for n in self._mirrors if n != name)
        mirror.to_device()
        following = self._mirrors.get(next((n for n in self._order[self._at :] if n != name), ""))
        if (
            following is not None
            and self._copies.can_copy_ahead
            and not following.device_bytes
            and self._may_hold(following.size)
        ):
            self._copy_ahead(following)
        self.was_ahead |= self.device_bytes > mirror.size

    def leave(self, name: str) -> None:
        """Let a model name the CPU's memory; keep its copy if it is used again and fits."""
        mirror = self._mirrors[name]
        if not mirror.is_on_device:
            return
        self.note_peak()
        rest = self._order[self._at :]
        keep = name in rest and self._may_hold(self._missing(rest[0]))
        mirror.to_host(keep_copy=keep)

    def finish(self) -> None:
        """Let all models leave the device, and expect no order any more."""
        self.note_peak()
        self._order, self._at = (), 0
        for mirror in self._mirrors.values():
            mirror.to_host()

    def enter_all(self, names: Iterable[str]) -> None:
        """Let models stay on the device, as without `low_vram`."""
        self.note_peak()
        for name in names:
            self._mirrors[name].to_device()

    def note_peak(self) -> None:
        """Update `working_peak`; to be called before weights move."""
        peak = self._memory.lap()
        if peak is not None:
            self.working_peak = max(self.working_peak, peak - self.device_bytes)

    def _copy_ahead(self, mirror: WeightMirror) -> None:
        try:
            mirror.copy_ahead()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # What is free can be in pieces. The stage itself may still fit.
            self.is_strict = True
            logger.info("No memory for a copy ahead of its use")

    def _missing(self, name: str) -> int:
        mirror = self._mirrors.get(name)
        return 0 if mirror is None or mirror.device_bytes else mirror.size

    def _may_hold(self, size: int) -> bool:
        return not self.is_strict and self._fits(size)

    def _fits(self, size: int) -> bool:
        free = self._memory.allocatable()
        return free is not None and free >= size + self.demand

    def _drop(self, names: Iterable[str]) -> None:
        """Drop copies of models that do not run."""
        for name in names:
            if not self._mirrors[name].is_on_device:
                self._mirrors[name].to_host()


def for_device(torch: Any, device: str, memory: Memory) -> DeviceResidency | None:
    """Build what moves weights to a device; None for the CPU, where they stay."""
    return None if device == "cpu" else DeviceResidency(memory, WeightCopies(torch, device))
