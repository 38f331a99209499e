from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from trellis2_server.errors import ExportError, MissingPackageError
from trellis2_server.export import subprocess_call


def test_a_library_is_stopped_at_its_deadline_and_its_failure_is_an_error() -> None:
    mesh = shapes.noisy_blob()
    arrays = {
        "vertices": mesh.vertices, "faces": mesh.faces,
        "size_px": np.array(64), "gap_px": np.array(1),
    }  # fmt: skip
    with pytest.raises((ExportError, MissingPackageError)):
        subprocess_call.call("xatlas", arrays, 0.01)
    with pytest.raises((ExportError, MissingPackageError)):
        subprocess_call.call("xatlas", {"nothing": np.zeros(1)}, 60)
