"""An executor whose steps stand at gates, with the real pool of decoders, which are none.

What it makes is small: pictures and meshes are named by a seed, models are a few bytes.

Does not know: jobs, when a step starts.
"""

from __future__ import annotations

import functools
import itertools
import re
import weakref
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.decoders import DecoderLimits, DecoderPool
from trellis2_server.decoders.process import Decoded, DecoderEndedError
from trellis2_server.digests import md5
from trellis2_server.errors import TooLargeError
from trellis2_server.inputs.background import ModelPending
from trellis2_server.inputs.images import Cutout
from trellis2_server.jobs.executor import ExportedShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.job_model.gates import Gates
    from tests.support.job_model.virtual_loop import VirtualLoop
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Check, Report
    from trellis2_server.request_fields import RemoveBackground

#: Longest call of a decoder, seconds.
DECODE_TIMEOUT_S = 30.0
#: How long a background model is waited for, seconds.
MODEL_TIMEOUT_S = 60.0

#: What can happen to a decoder in a call.
DECODER_ENDS: dict[str, Callable[[], Exception]] = {
    "dies": lambda: DecoderEndedError("crash", "ended the process (SIGKILL)"),
    "takes too much memory": lambda: DecoderEndedError("memory", "took too much memory"),
    "gets no memory": lambda: TooLargeError("image: decoding it takes more memory than is allowed"),
}


def picture(seed: int, variant: str = "") -> bytes:
    """A picture file. Those of one seed are cut out alike."""
    return b"picture %d %s" % (seed, variant.encode())


def mesh(seed: int) -> bytes:
    """A mesh file."""
    return b"mesh %d" % seed


def seed_of(content: bytes) -> int:
    """Return the seed of a picture, mesh, snapshot or model."""
    found = re.search(rb"\d+", content)
    assert found, content
    return int(found[0])


@functools.cache
def cutout(seed: int) -> Cutout:
    return Cutout(np.full((16, 16, 4), seed, np.uint8), "alpha")


@dataclass(eq=False)
class Made:
    """A shape, a geometry or a field: large, if it were real.

    Attributes:
        seed: of its job.
        resolution: as `Shape.resolution`.
        warnings: as `Shape.warnings`.
        details: as `Shape.details`.
    """

    seed: int
    resolution: int = 8
    warnings: tuple[str, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict[str, str])


class GatedDecoder:
    """A decoder process that is none."""

    pids = itertools.count(1)

    def __init__(self, decoders: Decoders) -> None:
        if decoders.failed_starts:
            decoders.failed_starts -= 1
            raise OSError("no process")
        self._decoders = decoders
        self.pid = next(self.pids)
        self.is_spent = False
        self.is_alive = True
        decoders.alive.add(self.pid)

    def wait_until_ready(self, check: Check) -> None:
        check()

    def call(
        self, task: str, content: bytes, arguments: Mapping[str, Any], *, check: Check, **_: object
    ) -> Decoded:
        del arguments
        loop, gates = self._decoders.loop, self._decoders.gates
        end_s = loop.time() + DECODE_TIMEOUT_S

        def look() -> None:
            check()
            if not self.is_alive:
                raise DecoderEndedError("crash", "ended the process (SIGKILL)")
            if loop.time() >= end_s:
                raise DecoderEndedError("timeout", "took longer than 30 seconds")

        try:
            outcome = gates.stand_and_look(task, seed_of(content), look)
        except BaseException:
            self.kill()
            raise
        return Decoded({"outcome": outcome}, {})

    def stop(self) -> None:
        self.is_spent, self.is_alive = True, False
        self._decoders.alive.discard(self.pid)

    kill = stop


class _Polled:
    """Stands in for the condition that decoders wait for: nothing blocks, and nobody interrupts."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def wait(self, timeout: float) -> None:
        del timeout
        self._loop.pause(is_polling=True)

    def notify(self) -> None: ...

    notify_all = notify


class Decoders:
    """The real pool, of decoders that stand at gates.

    Args:
        loop: of their calls.
        gates: where they stand.
        size: maximum number.

    Attributes:
        pool: the pool.
        alive: process IDs.
        failed_starts: how many starts are still to fail.
    """

    def __init__(self, loop: VirtualLoop, gates: Gates, size: int) -> None:
        self.loop, self.gates = loop, gates
        self.alive: set[int] = set()
        self.failed_starts = 0
        self.pool = DecoderPool(DecoderLimits(2**28, DECODE_TIMEOUT_S), size)
        self.pool._start = partial(GatedDecoder, self)  # type: ignore[assignment]
        self.pool._changed = _Polled(loop)  # type: ignore[assignment]

    @property
    def processes(self) -> list[GatedDecoder]:
        return list(self.pool._processes.values())  # type: ignore[arg-type]


class GatedExecutor:
    """An `Executor` whose steps stand at gates.

    Args:
        loop: of the calls.
        gates: where they stand.
        cpu_workers: see `Executor`.
        decoders: maximum number of decoders.

    Attributes:
        made: weak references to the large results of each seed.
        loads: how often the engine was loaded.
        models: what jobs wait for whose background model is being loaded.
    """

    name = "model"
    device_slots = 1

    def __init__(self, loop: VirtualLoop, gates: Gates, cpu_workers: int, decoders: int) -> None:
        self.cpu_workers = cpu_workers
        self.gates = gates
        self.decoders = Decoders(loop, gates, decoders)
        self.made: weakref.WeakSet[Made] = weakref.WeakSet()
        self.loads = self.unloads = 0
        self.models: list[Future[None]] = []

    # ---- the engine ----------------------------------------------------------------------

    def load(self, report: Report) -> None:
        self.gates.stand("load", -1, report)
        self.loads += 1

    def unload(self) -> None:
        self.gates.stand("unload", -1, lambda *_: None)
        self.unloads += 1

    def describe(self) -> Mapping[str, object]:
        return {}

    def device_memory(self) -> Mapping[str, int]:
        return {}

    def background_model(self) -> None: ...

    # ---- steps ---------------------------------------------------------------------------

    def _make(self, seed: int) -> Made:
        made = Made(seed)
        self.made.add(made)
        return made

    def _decode(self, task: str, content: bytes, report: Report) -> object:
        field = "image" if task == "decode_image" else "mesh"
        check = partial(report, "read", 0, 1)
        return self.decoders.pool.call(task, content, {}, field=field, check=check).meta["outcome"]

    def cut_out(
        self, picture: bytes, *, remove_background: RemoveBackground, report: Report
    ) -> Cutout:
        del remove_background
        outcome = self._decode("decode_image", picture, report)
        if outcome == "pending":
            self.models.append(Future())
            raise ModelPending(self.models[-1], MODEL_TIMEOUT_S)
        return cutout(seed_of(picture))

    def make_shape(self, cutout: Cutout, options: Options, report: Report) -> Any:
        del cutout
        return self.gates.stand("shape", options.seed, report) or self._make(options.seed)

    def export_shape(self, shape: Made, options: Options, report: Report) -> Any:
        assert isinstance(shape, Made)
        outcome = self.gates.stand("shape_export", options.seed, report)
        glb = b"shape %d" % options.seed
        return outcome or ExportedShape(self._make(options.seed), glb, md5(glb))

    def read_mesh(self, content: bytes, options: Options, report: Report) -> Any:
        outcome = self._decode("read_mesh", content, report)
        glb = b"read %d" % options.seed
        return outcome or ExportedShape(self._make(options.seed), glb, md5(glb))

    def make_texture(self, source: Made, cutout: Cutout, options: Options, report: Report) -> Any:
        assert isinstance(source, Made)
        assert isinstance(cutout, Cutout)
        return self.gates.stand("texture", options.seed, report) or self._make(options.seed)

    def export_model(self, geometry: Made, field: Made, options: Options, report: Report) -> Any:
        assert isinstance(geometry, Made)
        assert isinstance(field, Made)
        outcome = self.gates.stand("texture_export", options.seed, report)
        return outcome or b"textured %d" % options.seed

    def shape_snapshotter(self, shape: Made) -> Callable[[], bytes]:
        return partial(self._snapshot, b"shape snapshot %d", shape.seed)

    def field_snapshotter(self, field: Made) -> Callable[[], bytes]:
        return partial(self._snapshot, b"field snapshot %d", field.seed)

    def _snapshot(self, text: bytes, seed: int) -> bytes:
        self.gates.stand("snapshot", seed, lambda *_: None)
        return text % seed

    # ---- finished models -----------------------------------------------------------------

    def export_again(
        self, made_by: str, shape: bytes, field: bytes | None, options: Options, report: Report
    ) -> Any:
        assert made_by == self.name
        if b"mesh" in shape:
            self._decode("read_mesh", mesh(options.seed), report)
        outcome = self.gates.stand("export_again", options.seed, report)
        kind = b"shape" if field is None else b"textured"
        return outcome or b"%s %d of %d px" % (kind, options.seed, options.texture_size)

    def convert(self, glb: bytes, file_type: str, report: Report) -> Any:
        outcome = self.gates.stand("convert", seed_of(glb), report)
        return outcome or b"%s as %s" % (glb, file_type.encode())

    def close(self) -> None:
        self.decoders.pool.close()
