"""An engine and a cut-out whose steps wait at gates that a test opens one by one."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import TYPE_CHECKING, Any

from tests.support.engines import PATIENCE_S, cube, voxels
from tests.support.server import picture
from trellis2_server.inputs.images import Cutter
from trellis2_server.mesh import Shape
from trellis2_server.reports import no_check

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from trellis2_server import pipeline
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.reports import Check


Place = tuple[str, int, int]


class Gates:
    """Where steps stand until the model lets them go on.

    They stand by (step, seed, number): a cancelled job's step may still stand where the same
    picture's next job comes to.
    """

    def __init__(self) -> None:
        self.at: dict[Place, threading.Event] = {}
        self.outcomes: dict[Place, BaseException | None] = {}
        self.numbers = itertools.count()
        self.is_open = False

    def stand(self, step: str, seed: int, report: Callable[[str, int, int], None]) -> None:
        key, gate = (step, seed, next(self.numbers)), threading.Event()
        report(step, 0, 2)
        if not self.is_open:
            self.at[key] = gate
            assert gate.wait(PATIENCE_S), f"{key} was not released"
        outcome = self.outcomes.pop(key, None)
        if outcome is not None:
            raise outcome
        report(step, 1, 2)

    def let_go(self, key: Place, outcome: BaseException | None) -> None:
        self.outcomes[key] = outcome
        self.at.pop(key).set()


class Engine:
    name = "model"

    def __init__(self, gates: Gates) -> None:
        self.gates = gates
        self.loads = self.unloads = 0

    def load(self, report: pipeline.Report) -> None:
        report("load", 0, 1)
        self.loads += 1

    def unload(self) -> None:
        self.unloads += 1

    def describe(self) -> dict[str, object]:
        return {}

    def device_memory(self) -> dict[str, int]:
        return {}

    def shape(self, cutout: Cutout, options: Any, report: pipeline.Report) -> Shape:
        del cutout
        self.gates.stand("shape", options.seed, report)
        return Shape(cube(), 8, state=None)

    def texture(self, shape: Shape, cutout: Cutout, options: Any, report: pipeline.Report) -> Any:
        del shape, cutout
        self.gates.stand("texture", options.seed, report)
        return voxels()

    def texture_mesh(self, *_: object) -> Any:
        raise NotImplementedError


class GatedCutter(Cutter):
    """Knows each picture's job."""

    def __init__(self, gates: Gates, jobs: int) -> None:
        super().__init__(background="none")
        self.gates = gates
        self.seeds = {picture(seed): seed for seed in range(jobs)}

    def cut_out(
        self,
        data: bytes,
        *,
        remove_background: bool = True,
        wait: bool = True,
        check: Check = no_check,
    ) -> Cutout:
        self.gates.stand("cutout", self.seeds[data], lambda *_: None)
        return super().cut_out(data, remove_background=remove_background, wait=wait, check=check)


class Compiled:
    """A compilation with nothing left to do."""

    def __init__(self, **_: object) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def finish(self) -> None: ...


class Complaints(logging.Handler):
    """Takes note of results that were not understood, which is our own fault."""

    def __init__(self, complaints: list[Any]) -> None:
        super().__init__()
        self.complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "Result not understood":
            self.complaints.append(record.exc_info)
