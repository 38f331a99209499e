from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("ray", reason="needs ray")

from tests.support.engines import cube, voxels
from trellis2_server.mesh import Mesh
from trellis2_server.ray_serve.references import on_cpu, writable


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
