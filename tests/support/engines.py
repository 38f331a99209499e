"""A small engine that tests control: gates block a stage, failures end it."""

from __future__ import annotations

import queue
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from trellis2_server.mesh import Mesh, Shape, VoxelField

if TYPE_CHECKING:
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.parameters import Options
    from trellis2_server.reports import Report

#: Longest wait; only a failing test reaches it.
PATIENCE_S = 60.0
#: How long an engine waits until a test opens a gate, seconds: a browser may be slow meanwhile.
GATE_S = 5 * PATIENCE_S


def cube() -> Mesh:
    """A closed cube of 12 faces, wound outward."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = [[q[0], q[i], q[i + 1]] for q in quads for i in (1, 2)]
    return Mesh((corners - np.float32(0.5)) * np.float32(0.6), np.array(faces, np.int32))


def voxels() -> VoxelField:
    """One colour on a full grid of 8³ voxels."""
    coords = np.stack(np.meshgrid(*[np.arange(8)] * 3, indexing="ij"), -1).reshape(-1, 3)
    attributes = np.tile(np.array([0.8, 0.4, 0.2, 0.0, 0.7, 1.0], np.float32), (len(coords), 1))
    return VoxelField(coords.astype(np.int32), attributes, 8)


class GatedEngine:
    """Makes cubes.

    Args:
        closed: stages whose gates are closed at first.
        name: name of the engine.

    Attributes:
        gates: one event per stage, open (set) at first; a closed gate blocks the stage.
        failures: stage → exception that its next call raises after its gate.
        returns: stage → value that its next call returns.
        made: weak references to the arrays that were returned.
        begun: (stage, seed) of each call that began, to wait for.
        calls: (stage, seed) of each call, in order.
        memory: result of `device_memory`.
    """

    def __init__(self, *closed: str, name: str = "gated") -> None:
        self.name = name
        self.gates = {
            stage: threading.Event()
            for stage in ("load", "unload", "shape", "texture", "texture_mesh")
        }
        for stage, gate in self.gates.items():
            if stage not in closed:
                gate.set()
        self.failures: dict[str, BaseException] = {}
        self.returns: dict[str, Any] = {}
        self.made: list[weakref.ref[Any]] = []
        self._held: dict[tuple[str, int], threading.Event] = {}
        self.begun: queue.Queue[tuple[str, int]] = queue.Queue()
        self.calls: list[tuple[str, int]] = []
        self.memory: dict[str, int] = {}

    def hold(self, stage: str, seed: int) -> threading.Event:
        """Return a closed gate for that stage of the job with that seed only."""
        return self._held.setdefault((stage, seed), threading.Event())

    def enter(self, stage: str, seed: int) -> None:
        """Record that a stage begins."""
        self.calls.append((stage, seed))
        self.begun.put((stage, seed))

    def wait(self, stage: str, seed: int) -> None:
        """Wait until the gates of a stage are open."""
        assert self.gates[stage].wait(GATE_S), f"the gate of {stage} was not opened"
        held = self._held.get((stage, seed))
        assert held is None or held.wait(GATE_S), (
            f"the gate of {stage} for seed {seed} was not opened"
        )

    def run_stage(self, stage: str, seed: int, report: Report) -> None:
        """Begin a stage, wait at its gates, and fail if that is due."""
        self.enter(stage, seed)
        report(stage, 0, 2)
        self.wait(stage, seed)
        report(stage, 1, 2)
        failure = self.failures.pop(stage, None)
        if failure is not None:
            raise failure

    def wait_for(self, stage: str) -> int:
        """Wait for the next call of a stage; return its seed."""
        while True:
            begun, seed = self.begun.get(timeout=PATIENCE_S)
            if begun == stage:
                return seed

    def open_all(self) -> None:
        for gate in (*self.gates.values(), *self._held.values()):
            gate.set()

    def load(self, report: Report) -> None:
        self.run_stage("load", -1, report)

    def unload(self) -> None:
        self.run_stage("unload", -1, lambda *_: None)

    def describe(self) -> dict[str, object]:
        return {"device": "none"}

    def device_memory(self) -> dict[str, int]:
        return self.memory

    def shape(self, cutout: Cutout, options: Options, report: Report) -> Shape:
        assert cutout.rgba.shape[2] == 4
        self.run_stage("shape", options.seed, report)
        mesh = cube()
        self.made += [weakref.ref(mesh.vertices), weakref.ref(mesh.faces)]
        return self.returns.pop("shape", Shape(mesh, 8, state=None))

    def texture(self, shape: Shape, cutout: Cutout, options: Options, report: Report) -> VoxelField:
        assert shape.resolution == 8
        assert cutout.rgba.shape[2] == 4
        self.run_stage("texture", options.seed, report)
        field = voxels()
        self.made.append(weakref.ref(field.attributes))
        return self.returns.pop("texture", field)

    def texture_mesh(
        self, mesh: Mesh, cutout: Cutout, options: Options, report: Report
    ) -> VoxelField:
        assert cutout.rgba.shape[2] == 4
        assert np.abs(mesh.vertices).max() <= 0.5
        self.run_stage("texture_mesh", options.seed, report)
        return self.returns.pop("texture_mesh", voxels())
