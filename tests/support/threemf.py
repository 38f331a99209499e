"""3MF files, read by the library of the 3MF consortium."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

lib3mf = pytest.importorskip("lib3mf", reason="lib3mf is not installed")
trimesh = pytest.importorskip("trimesh")


def opened(content: bytes) -> Any:
    """The model of a 3MF, read without any warning."""
    model = lib3mf.get_wrapper().CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)  # noqa: FBT003 - the library takes no names
    reader.ReadFromBuffer(content)
    assert [reader.GetWarning(at) for at in range(reader.GetWarningCount())] == []
    return model


def meshes(model: Any) -> list[Any]:
    found, objects = [], model.GetMeshObjects()
    while objects.MoveNext():
        found.append(objects.GetCurrentMeshObject())
    return found


def arrays(mesh: Any) -> Any:
    places = np.array([list(each.Coordinates) for each in mesh.GetVertices()])
    faces = np.array([list(each.Indices) for each in mesh.GetTriangleIndices()])
    return trimesh.Trimesh(places, faces, process=False)
