from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs ray")

from tests.support.engines import cube, voxels
from trellis2_server.mesh import Mesh
from trellis2_server.ray_serve.references import on_cpu, writable
from trellis2_server.ray_serve.stream import read_stream

if TYPE_CHECKING:
    from collections.abc import Generator


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def test_the_arrays_of_a_copy_are_writable() -> None:
    mesh = cube()
    stored = Mesh(read_only(mesh.vertices), read_only(mesh.faces))
    copy = writable(stored)
    copy.vertices[0] = 9
    copy.faces[0] = 0
    assert (stored.vertices == mesh.vertices).all()


def test_containers_of_arrays_keep_their_types() -> None:
    array = read_only(np.arange(3))
    for value in ((array, 1), [array, "a"], {"a": array}):
        copy: Any = writable(value)
        assert type(copy) is type(value)
        arrays = copy.values() if isinstance(copy, dict) else copy[:1]
        assert all(each.flags.writeable for each in arrays)


class OnDevice(NamedTuple):
    content: np.ndarray[Any, Any]

    def cpu(self) -> np.ndarray[Any, Any]:
        return self.content


def test_arrays_on_a_device_become_numpy_arrays() -> None:
    field = voxels()
    moved: Any = on_cpu(type(field)(field.coords, OnDevice(field.attributes), field.resolution))  # type: ignore[arg-type]
    assert isinstance(moved.attributes, np.ndarray)
    assert (moved.attributes == field.attributes).all()


@pytest.mark.usefixtures("deployment")
def test_large_results_stay_where_they_were_made() -> None:
    import ray
    from ray.experimental import get_object_locations

    @ray.remote(num_cpus=0, resources={"engine": 1}, num_returns="streaming")
    def step() -> Generator[Any]:
        yield "progress", "shape", 0, 1
        yield "result", ray.get_runtime_context().get_node_id(), 2
        for _ in range(2):
            threading.Event().wait(0.2)  # so that the reader waits for it
            yield np.zeros(5_000_000, np.uint8)

    async def opening() -> Any:
        return step.remote()

    async def make() -> tuple[str, list[Any]]:
        return await read_stream(opening(), lambda *_: None)

    node, large = asyncio.run(make())
    assert {tuple(at["node_ids"]) for at in get_object_locations(large).values()} == {(node,)}
