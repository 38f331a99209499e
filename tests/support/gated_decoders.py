"""Decoders whose calls wait at gates that a test opens one by one; no processes are started."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.support.server import picture
from trellis2_server.decoders import DecoderLimits, DecoderPool, pictures
from trellis2_server.decoders.process import Decoded, DecoderEndedError
from trellis2_server.decoders.tasks import TASKS
from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.images import Cutter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.gates import Gates, Place
    from trellis2_server.reports import Check

#: How often a call looks whether its job has ended, seconds.
_INTERVAL_S = 0.001

#: What can happen to a decoder in a call.
ENDS: dict[str, Callable[[], Exception]] = {
    "is killed": lambda: DecoderEndedError("crash", "ended the process (SIGKILL)"),
    "takes too long": lambda: DecoderEndedError("timeout", "took longer than 30 seconds"),
    "takes too much": lambda: DecoderEndedError("memory", "took too much memory"),
    "has no memory": lambda: TooLargeError("image: decoding it takes more memory than is allowed"),
}


class GatedDecoders:
    """A pool of decoders that stand at the gates of the step `cutout`.

    Attributes:
        pool: the pool.
        looks: how often the call at each gate has looked whether its job has ended.
        alive: number of decoders.
    """

    def __init__(self, gates: Gates, jobs: int, size: int) -> None:
        self.gates = gates
        self.seeds = {picture(seed): seed for seed in range(jobs)}
        self.looks: Counter[Place] = Counter()
        self.pool = DecoderPool(DecoderLimits(2**28, 30), size)
        self.pool._start = partial(GatedDecoder, self)  # type: ignore[assignment]

    def cutter(self) -> Cutter:
        decode = partial(pictures.decode_image, self.pool)
        return Cutter(background="none", decode=decode)


class GatedDecoder:
    """A decoder process that is none."""

    pids = itertools.count(1)

    def __init__(self, decoders: GatedDecoders) -> None:
        self.decoders = decoders
        self.pid = next(self.pids)
        self.is_spent = False
        self.stopped = threading.Event()

    @property
    def is_alive(self) -> bool:
        return not self.stopped.is_set()

    def wait_until_ready(self, check: Check) -> None:
        check()

    def call(
        self, task: str, content: bytes, arguments: Mapping[str, Any], *, check: Check, **_: object
    ) -> Decoded:
        try:
            self.stand(self.decoders.seeds[content], check)
        except BaseException:
            self.kill()
            raise
        return Decoded(*map(dict, TASKS[task](memoryview(content), arguments)))  # type: ignore[arg-type]

    def stand(self, seed: int, check: Check) -> None:
        gates = self.decoders.gates
        check()
        key, gate = ("cutout", seed, next(gates.numbers)), threading.Event()
        if not gates.is_open:
            gates.at[key] = gate
            try:
                while not gate.wait(_INTERVAL_S):
                    self.look(check)
                    self.decoders.looks[key] += 1
            except BaseException:
                gates.at.pop(key, None)
                raise
        outcome = gates.outcomes.pop(key, None)
        if outcome is not None:
            raise outcome

    def look(self, check: Check) -> None:
        check()
        if self.stopped.is_set():
            raise DecoderEndedError("crash", "ended the process (SIGKILL)")

    def stop(self) -> None:
        self.is_spent = True
        self.stopped.set()

    kill = stop
