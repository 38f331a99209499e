"""The configured GPU is the current device wherever an extension can start a kernel.

PyTorch's CUDA is replaced by a record of its current device: no machine of these tests has two
GPUs. That kernels of FlexGEMM, CuMesh and Triton follow the current device is read from their
sources, not shown here.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.trellis2_engine import cone, options, picture, settings, silent
from trellis2_server.engines.trellis2 import Trellis2Engine, upstream, upstream_glb
from trellis2_server.engines.trellis2 import engine as engine_module
from trellis2_server.engines.trellis2.device_memory import DeviceMemory
from trellis2_server.engines.trellis2.loaded_model import LoadedModel
from trellis2_server.errors import EngineBrokenError, EngineError
from trellis2_server.mesh import Shape, VoxelField

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

DEVICES = ("cuda:1", "xpu:1")


class Backend:
    """Two GPUs, of which each thread has a current one.

    Attributes:
        current: current device.
        emptied: current device of each call that emptied the cache.
        fails: whether the device is lost: it cannot be left any more.
        reserved: bytes that PyTorch holds, of which none is in use.
    """

    def __init__(self, kind: str) -> None:
        self._first = self.current = f"{kind}:0"
        self.emptied: list[str] = []
        self.fails = False
        self.reserved = 0

    def is_available(self) -> bool:
        return True

    def empty_cache(self) -> None:
        self.emptied.append(self.current)

    def memory_allocated(self, device: str) -> int:
        del device
        return 0

    max_memory_allocated = memory_allocated

    def memory_reserved(self, device: str) -> int:
        del device
        return self.reserved

    def mem_get_info(self, device: str) -> tuple[int, int]:
        del device
        return 2**40, 2**41

    def get_device_properties(self, device: str) -> SimpleNamespace:
        del device
        return SimpleNamespace(total_memory=2**41)

    def reset_peak_memory_stats(self, device: str) -> None:
        """Do nothing."""

    @contextlib.contextmanager
    def device(self, device: str) -> Iterator[None]:
        before, self.current = self.current, device
        try:
            yield
        finally:
            self.current = before
            if self.fails:
                raise RuntimeError("CUDA error: unspecified launch failure")


class Torch:
    """PyTorch with another backend."""

    def __init__(self, torch: Any, kind: str, backend: Backend) -> None:
        self._torch = torch
        self.cuda = self.xpu = self.mps = SimpleNamespace(is_available=lambda: False)
        setattr(self, kind, backend)
        self.accelerator = SimpleNamespace()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)


class Stages:
    """Notes the current device of each stage; raises `error` if it is not None."""

    def __init__(self, backend: Backend, notes: dict[str, str]) -> None:
        self._backend = backend
        self._notes = notes
        self.error: Exception | None = None

    def _note(self, name: str) -> None:
        self._notes[name] = self._backend.current
        if self.error is not None:
            raise self.error

    def shape(self, *_: object) -> Shape:
        self._note("shape")
        return Shape(cone(), 512, SimpleNamespace(pipeline_type="512"))

    def texture(self, *_: object) -> VoxelField:
        self._note("texture")
        return VoxelField(np.zeros((1, 3), np.int32), np.zeros((1, 6), np.float32), 512)

    def mesh_texture(self, *_: object) -> VoxelField:
        self._note("mesh_texture")
        return VoxelField(np.zeros((1, 3), np.int32), np.zeros((1, 6), np.float32), 512)


class Machine:
    """An engine on the second GPU, whose stages are notes.

    Attributes:
        backend: the GPUs.
        notes: what ran → current device.
        engine: the engine.
        stages: its stages.
    """

    def __init__(self, torch: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = device.partition(":")[0]
        self.backend = Backend(kind)
        self.notes: dict[str, str] = {}
        self._torch = Torch(torch, kind, self.backend)
        self.engine = Trellis2Engine(
            settings("x").model_copy(update={"device": device}), exports=True
        )

        def note(name: str, result: object = None) -> Any:
            def call(*_: object, **__: object) -> object:
                self.notes[name] = self.backend.current
                return result

            return call

        def remove(image: Image.Image) -> Image.Image:
            self.notes["remover"] = self.backend.current
            return image.convert("RGBA")

        pipeline = SimpleNamespace(
            low_vram=False,
            models={},
            device=device,
            image_cond_model=None,
            sparse_structure_sampler=SimpleNamespace(),
            shape_slat_sampler=SimpleNamespace(),
            tex_slat_sampler=SimpleNamespace(),
        )
        imported = SimpleNamespace(torch=self._torch, extensions=(), patches=())
        texturing = SimpleNamespace(models={"shape_slat_encoder": torch.nn.Linear(1, 1)})
        model = LoadedModel(imported, pipeline, texturing, "", remove)  # type: ignore[arg-type]
        monkeypatch.setattr(engine_module, "import_upstream", lambda _: imported)
        monkeypatch.setattr(engine_module.loading, "load_model", note("load", model))
        monkeypatch.setattr(upstream_glb, "check", note("exporter"))
        monkeypatch.setattr(upstream_glb, "write", note("export", b"glb"))
        monkeypatch.setattr(engine_module.gc, "freeze", lambda: None)
        self.engine.load(silent)
        assert self.engine._loaded is not None
        self.stages = Stages(self.backend, self.notes)
        self.engine._loaded = replace(self.engine._loaded, stages=self.stages)  # type: ignore[arg-type]


@pytest.mark.parametrize("device", DEVICES)
def test_the_configured_gpu_is_current_in_each_stage_and_in_nothing_else(
    torch: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(torch, device, monkeypatch)
    engine = machine.engine
    shape = engine.shape(picture(), options(), silent)
    field = engine.texture(shape, picture(), options(), silent)
    engine.texture_mesh(cone(), picture(), options(), silent)
    engine.remove_background(np.zeros((8, 8, 3), np.uint8))
    engine.export(shape, field, options(), silent)
    ran = ("exporter", "load", "shape", "texture", "mesh_texture", "remover", "export")
    assert {name: machine.notes.get(name) for name in ran} == dict.fromkeys(ran, device)
    assert machine.backend.current == machine.backend._first


@pytest.mark.parametrize("device", DEVICES)
def test_memory_is_released_on_the_configured_gpu(
    torch: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(torch, device, monkeypatch)
    machine.backend.reserved = 2**43  # more than the others may lack
    machine.engine.shape(picture(), options(), silent)
    assert machine.backend.emptied
    machine.stages.error = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
    with pytest.raises(EngineError, match="CUDNN_STATUS_EXECUTION_FAILED"):
        machine.engine.shape(picture(), options(), silent)
    machine.engine.unload()
    assert len(machine.backend.emptied) >= 4
    assert set(machine.backend.emptied) == {device}


def test_a_lost_gpu_does_not_hide_the_error_that_lost_it(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(torch, "cuda:1", monkeypatch)
    machine.backend.fails = True
    machine.stages.error = RuntimeError("CUDA error: an illegal memory access was encountered")
    with pytest.raises(EngineBrokenError, match="illegal memory access"):
        machine.engine.shape(picture(), options(), silent)
    with pytest.raises(EngineBrokenError, match="illegal memory access"):
        machine.engine.shape(picture(), options(), silent)


def test_extensions_are_imported_with_the_configured_gpu_as_the_current_one(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend("cuda")
    monkeypatch.setattr(torch, "cuda", backend)
    monkeypatch.setattr(upstream.environment, "missing_device", lambda _: None)
    calls: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        def call(*_: object) -> list[str]:
            calls.append((name, backend.current))
            if name == "install":
                raise EngineError("as far as this test needs")
            return []

        return call

    monkeypatch.setattr(upstream.kernel_caches, "keep", note("keep"))
    monkeypatch.setattr(upstream.backends, "problems", note("problems"))
    monkeypatch.setattr(upstream.portable, "install", note("install"))
    monkeypatch.setattr(upstream, "_choose_attention", lambda _: None)
    with pytest.raises(EngineError, match="as far as"):
        upstream.import_upstream(settings("x").model_copy(update={"device": "cuda:1"}))
    # FlexGEMM reads its variable when it is imported, which `problems` may do.
    assert calls == [(name, "cuda:1") for name in ("keep", "problems", "install")]
    assert backend.current == "cuda:0"


def test_free_memory_is_read_after_the_cache_is_emptied() -> None:
    backend = Backend("cuda")
    memory = DeviceMemory(SimpleNamespace(cuda=backend), "cuda:1")
    assert memory.free() == 2**40
    assert backend.emptied == ["cuda:1"]
    assert DeviceMemory(SimpleNamespace(cuda=backend), "cpu").free() is None
