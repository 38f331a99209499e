"""Rows that a compressed primitive provides for an accessor that stores none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import built_glb
from trellis2_server.errors import InputError
from trellis2_server.inputs.meshes.glb_accessors import Accessors
from trellis2_server.inputs.meshes.glb_container import Glb

INT8, UINT8, INT16, UINT16, UINT32, FLOAT = 5120, 5121, 5122, 5123, 5125, 5126


def accessors(*declared: dict[str, Any]) -> Accessors:
    built = built_glb.Glb()
    built.document["accessors"] = [*declared]
    return Accessors(Glb(bytes(built)))


def declared(kind: str, component: int, count: int = 3, **more: Any) -> dict[str, Any]:
    return {"type": kind, "componentType": component, "count": count, **more}


@pytest.mark.parametrize(
    ("kind", "component", "given"),
    [
        # A library's integers may be larger than those that are stored.
        ("VEC2", UINT8, np.uint32([[0, 1], [2, 3], [4, 255]])),
        ("VEC2", INT16, np.int32([[0, 1], [2, 3], [-32768, 32767]])),
        ("SCALAR", INT8, np.int32([[-128], [0], [127]])),
        ("SCALAR", INT8, np.uint8([[0], [1], [127]])),
        ("VEC3", FLOAT, np.float32(np.arange(9).reshape(3, 3))),
    ],
    ids=lambda value: value if isinstance(value, str | int) else value.dtype.name,
)
def test_provided_rows_have_the_declared_type(kind: str, component: int, given: Any) -> None:
    found = accessors(declared(kind, component))
    found.provide(0, given, "meshes[0]")
    rows = found.rows(0, kind)
    assert (rows.count, rows.width) == given.shape
    wanted = {UINT8: "u1", INT16: "i2", INT8: "i1", FLOAT: "f4"}[component]
    assert rows.take().dtype == rows.dtype == np.dtype(wanted)
    np.testing.assert_array_equal(rows.take(), given)
    np.testing.assert_array_equal(rows.take(np.array([2, 0])), given[[2, 0]])


@pytest.mark.parametrize("component", [UINT8, UINT16, UINT32])
def test_indices_may_be_larger_than_declared(component: int) -> None:
    given = np.uint32([[0], [70_000], [2]])
    found = accessors(declared("SCALAR", component))
    found.provide(0, given, "meshes[0]")
    assert found.rows(0, "SCALAR").take().tolist() == given.tolist()


@pytest.mark.parametrize(
    ("kind", "component", "count", "given"),
    [
        ("VEC2", UINT8, 3, np.uint32([[0, 1], [2, 3], [4, 256]])),
        ("VEC2", INT8, 3, np.uint8([[0, 1], [2, 3], [4, 128]])),
        ("SCALAR", INT8, 3, np.uint8([[0], [1], [128]])),
        ("SCALAR", UINT16, 3, np.int32([[0], [1], [-1]])),
        ("SCALAR", UINT16, 3, np.float32([[0], [1], [2]])),
        ("SCALAR", FLOAT, 3, np.uint8([[0], [1], [2]])),
        ("SCALAR", UINT16, 4, np.uint32([[0], [1], [2]])),
        ("SCALAR", UINT16, 2, np.uint32([[0], [1], [2]])),
        ("VEC3", FLOAT, 3, np.zeros((3, 2), np.float32)),
        ("VEC2", FLOAT, 3, np.zeros((3, 3), np.float32)),
    ],
    ids=lambda value: value if isinstance(value, str | int) else value.dtype.name,
)
def test_rows_that_are_not_as_declared_name_the_accessor(
    kind: str, component: int, count: int, given: Any
) -> None:
    found = accessors(declared("VEC3", FLOAT), declared(kind, component, count))
    text = r"^mesh: accessors\[1\] of the GLB declares other rows than meshes\[7\] contains$"
    with pytest.raises(InputError, match=text):
        found.provide(1, given, "meshes[7]")


@pytest.mark.parametrize("is_normalized", [True, False])
def test_provided_integers_are_normalized_as_declared(*, is_normalized: bool) -> None:
    found = accessors(declared("VEC2", INT8, normalized=is_normalized))
    found.provide(0, np.int32([[-128, -127], [0, 127], [64, 1]]), "meshes[0]")
    wanted = [[-1, -1], [0, 1], [64 / 127, 1 / 127]]
    taken = found.rows(0, "VEC2").take()
    assert taken == pytest.approx(
        np.array(wanted if is_normalized else [[-128, -127], [0, 127], [64, 1]])
    )
