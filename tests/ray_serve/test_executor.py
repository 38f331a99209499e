"""`ClusterExecutor` and `Recovery`, with calls that return without a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("ray", reason="needs ray")

from ray.exceptions import ActorDiedError, ObjectLostError, RayError

from tests.support.server import settings
from trellis2_server.errors import EngineError
from trellis2_server.parameters import read_options
from trellis2_server.ray_serve import tasks
from trellis2_server.ray_serve.engine_monitor import EngineMonitor
from trellis2_server.ray_serve.executor import ClusterExecutor
from trellis2_server.ray_serve.remote_calls import RemoteOutcome, retry_once

if TYPE_CHECKING:
    from trellis2_server.ray_serve.references import ShapeReference


class LocalCalls:
    """Answers every call.

    Args:
        lost: the calls of which the first one fails, because its input is lost.
        error: raised by every call; None: nothing.

    Attributes:
        made: the calls, in order.
    """

    def __init__(self, *lost: str, error: RayError | None = None) -> None:
        self.made: list[str] = []
        self._lost = set(lost)
        self._error = error

    def _note(self, call: str) -> None:
        self.made.append(call)
        if self._error is not None:
            raise self._error
        if call in self._lost:
            self._lost.remove(call)
            raise ObjectLostError("id", None, "")  # type: ignore[arg-type]

    async def on_engine(self, method: str, *args: Any, report: Any) -> RemoteOutcome:
        del args, report
        self._note(method)
        if method == "shape":
            return RemoteOutcome(
                (8, (), "node", {"depth": "flat"}), [f"mesh {len(self.made)}", "state"]
            )
        return RemoteOutcome(("node", (), {"back": "fill"}), ["field"])

    async def as_task(self, task: Any, *args: Any, node: str | None, report: Any) -> RemoteOutcome:
        del args, node, report
        self._note(task.__name__)
        glb: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        glb.set_result(b"glb")
        if task.__name__ in {"export_shape", "read_mesh"}:
            return RemoteOutcome(("md5", ()), ["prepared", glb])
        return RemoteOutcome(None, [glb if task.__name__ == "export_model" else "prepared again"])


def ignore(stage: str, step: int, steps: int) -> None:
    del stage, step, steps


def make_executor(calls: Any, **sections: Any) -> ClusterExecutor:
    return ClusterExecutor("gated", 1, settings(**sections), calls, EngineMonitor("trellis2"))


def make_model(
    calls: LocalCalls, mesh: bytes | None = None, *, backend: str = "own", solid: bool = False
) -> tuple[bytes, bytes]:
    """Do all steps of a job; return its two files."""

    async def make() -> tuple[bytes, bytes]:
        executor = make_executor(calls, export={"backend": backend})
        options = read_options({"solid": solid}, settings())
        cutout: Any = object()
        if mesh is None:
            source = await executor.make_shape(cutout, options, ignore)
            assert source.details == {"depth": "flat"}
            exported = await executor.export_shape(source, options, ignore)
        else:
            exported = await executor.read_mesh(mesh, options, ignore)
            source = exported.geometry
        field = await executor.make_texture(source, cutout, options, ignore)
        assert field.details == {"back": "fill"}
        geometry, plain = exported.geometry, exported.glb
        return plain, await executor.export_model(geometry, field, options, ignore)

    return asyncio.run(make())


def test_lost_results_are_made_again_from_the_cutout() -> None:
    calls = LocalCalls("export_shape", "texture", "export_model")
    assert make_model(calls) == (b"glb", b"glb")
    assert calls.made == [
        "shape", "export_shape",
        "shape", "export_shape",
        "texture", "shape", "texture",
        "export_model", "shape", "prepare_mesh", "texture", "export_model",
    ]  # fmt: skip


@pytest.mark.parametrize("solid", [False, True])
def test_the_engines_own_exporter_writes_everything_but_solids(*, solid: bool) -> None:
    on_engine: list[str] = []

    class Calls(LocalCalls):
        async def on_engine(self, method: str, *args: Any, report: Any) -> RemoteOutcome:
            on_engine.append(method)
            if method == "export_model":
                return await self.as_task(tasks.export_model, node=None, report=report)
            return await super().on_engine(method, *args, report=report)

    assert make_model(Calls(), backend="upstream", solid=solid) == (b"glb", b"glb")
    assert ("export_model" in on_engine) is not solid


@pytest.mark.usefixtures("deployment")  # `ray.put` needs a cluster
def test_a_lost_mesh_of_a_client_is_read_again() -> None:
    calls = LocalCalls("texture_mesh")
    assert make_model(calls, mesh=b"glTF") == (b"glb", b"glb")
    assert calls.made == ["read_mesh", "texture_mesh", "read_mesh", "texture_mesh", "export_model"]


def test_errors_of_ray_become_errors_of_the_engine() -> None:
    with pytest.raises(EngineError, match="the cluster failed: RayError"):
        make_model(LocalCalls(error=RayError("a traceback")))
    lost = ObjectLostError("id", None, "")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="send the picture again"):
        make_model(LocalCalls(error=lost))


@pytest.mark.parametrize(("losses", "calls"), [(0, 1), (1, 2)])
def test_a_call_whose_process_is_lost_is_repeated(losses: int, calls: int) -> None:
    made: list[int] = []

    async def call() -> str:
        made.append(1)
        if len(made) <= losses:
            raise ActorDiedError
        return "result"

    assert asyncio.run(retry_once(call)) == "result"
    assert len(made) == calls


def test_a_call_is_not_repeated_twice() -> None:
    async def call() -> str:
        raise ActorDiedError

    with pytest.raises(EngineError, match="lost, twice"):
        asyncio.run(retry_once(call))


class SlowCalls(LocalCalls):
    """Lets other tasks run before each call."""

    async def on_engine(self, *args: Any, **named: Any) -> RemoteOutcome:
        await asyncio.sleep(0)
        return await super().on_engine(*args, **named)

    async def as_task(self, *args: Any, **named: Any) -> RemoteOutcome:
        await asyncio.sleep(0)
        return await super().as_task(*args, **named)


def test_a_shape_that_two_steps_miss_is_made_again_once() -> None:
    calls = SlowCalls("export_shape", "texture")

    async def make() -> ShapeReference:
        executor, options = make_executor(calls), read_options({}, settings())
        cutout: Any = object()
        shape = await executor.make_shape(cutout, options, ignore)
        exported, field = await asyncio.gather(
            executor.export_shape(shape, options, ignore),
            executor.make_texture(shape, cutout, options, ignore),
        )
        assert exported.geometry.shape is shape
        assert await executor.export_model(exported.geometry, field, options, ignore) == b"glb"
        return shape

    shape = asyncio.run(make())
    assert calls.made == [
        "shape", "export_shape", "texture", "shape", "export_shape", "texture", "export_model",
    ]  # fmt: skip
    assert shape.mesh == "mesh 4"


@pytest.mark.parametrize("lost", ["", "prepare_mesh"])
def test_a_shape_whose_export_failed_is_prepared_for_its_texture(lost: str) -> None:
    calls = LocalCalls(lost)

    async def make() -> bytes:
        executor, options = make_executor(calls), read_options({}, settings())
        cutout: Any = object()
        shape = await executor.make_shape(cutout, options, ignore)
        field = await executor.make_texture(shape, cutout, options, ignore)
        return await executor.export_model(shape, field, options, ignore)

    assert asyncio.run(make()) == b"glb"
    again = ["prepare_mesh", "shape"] if lost else []
    assert calls.made == ["shape", "texture", *again, "prepare_mesh", "export_model"]
