"""Changed GLBs are read, or are the client's error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.glb_scenes import BOTH, skinned
from trellis2_server.decoders.tasks import read_mesh
from trellis2_server.errors import InputError, ServerError, TooLargeError
from trellis2_server.inputs.meshes import read_scene, unpack_scene

if TYPE_CHECKING:
    from tests.support.built_glb import Glb

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 6), st.floats(width=32), st.text(max_size=2),
    st.lists(st.integers(-1, 5), max_size=4), st.just({}), st.just(10**400),
)  # fmt: skip

ARGUMENTS = {"rotation_deg": 0, "up_axis": "auto", "keep_uv": False}


def everything() -> Glb:
    """A file with all that this module tests."""
    file = skinned(*BOTH, nodes=[{}, {"children": [3]}, {"translation": [0, 0, 4]}])
    shift = file.accessor(np.eye(4, 3, dtype=np.float32))
    attributes = file.document["meshes"][0]["primitives"][0]["attributes"]
    plain = {"POSITION": attributes["POSITION"]}
    targets = [{"POSITION": shift}]
    file.document["meshes"][0]["primitives"][0]["targets"] = targets
    file.document["meshes"].append({"primitives": [{"attributes": plain, "mode": 5}]})
    instances = {"EXT_mesh_gpu_instancing": {"attributes": {"TRANSLATION": shift}}}
    file.document["nodes"] += [
        {"mesh": 1, "extensions": instances},
        {"mesh": 1, "extensions": {"KHR_node_visibility": {"visible": True}}},
    ]
    file.document["nodes"][0]["weights"] = [0.5]
    file.document["scenes"] = [{"nodes": [0, 1, 2, 4]}]
    file.document["extensionsRequired"] = ["EXT_mesh_gpu_instancing", "KHR_node_visibility"]
    file.document["buffers"] = [{"byteLength": len(file.data)}]
    return file


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Return every container and key of a JSON value."""
    found: list[tuple[Any, Any]] = []
    keys = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in keys:
        found.append((value, key))
        if isinstance(inner, dict | list):
            found += spots(inner)
    return found


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data())
def test_a_changed_file_is_read_or_is_the_clients_error(data: st.DataObject) -> None:
    file = everything()
    for _ in range(data.draw(st.integers(1, 3))):
        places = spots(file.document)
        container, key = places[data.draw(st.integers(0, len(places) - 1))]
        if data.draw(st.booleans()):
            container[key] = data.draw(VALUES)
        else:
            del container[key]
    content = bytearray(bytes(file))
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(1, len(file.data)))
        content[-at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    try:
        unpack_scene(
            *read_mesh(
                memoryview(content), {"rotation_deg": 0, "up_axis": "auto", "keep_uv": False}
            )
        )
    except ServerError as error:
        assert isinstance(error, InputError | TooLargeError)  # noqa: PT017 - or none at all


def test_the_file_that_is_changed_can_be_read() -> None:
    scene = read_scene(bytes(everything()))
    assert len(scene.meshes) == 2
    assert sum("mesh" in node for node in scene.nodes) == 6
