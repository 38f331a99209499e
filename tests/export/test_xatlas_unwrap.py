from __future__ import annotations

import numpy as np
import pytest

from tests.support import shapes
from tests.support.atlases import texels
from trellis2_server import export
from trellis2_server.errors import MissingPackageError
from trellis2_server.export.xatlas_unwrap import unwrap_with_xatlas


def test_xatlas_creates_an_atlas_in_another_process() -> None:
    mesh = export.prepare(shapes.torus(), decimation_target=4000)
    try:
        atlas = unwrap_with_xatlas(mesh, 256)
    except MissingPackageError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(atlas.source[atlas.faces], mesh.faces)
    assert atlas.uv.min() >= 0
    assert atlas.uv.max() <= 256
    count = texels(atlas)
    assert (count > 1).sum() <= 0.002 * (count > 0).sum()
