from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.support.trellis2_engine import STANDIN, make, options, picture, settings, silent
from trellis2_server import pipeline
from trellis2_server.engines.trellis2 import Trellis2Engine, inspect_trellis2, upstream_glb
from trellis2_server.engines.trellis2.device_memory import DeviceMemory
from trellis2_server.errors import MissingPackageError
from trellis2_server.inputs.meshes import read_scene
from trellis2_server.settings import ExportSettings

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def test_trellis2s_exporter_writes_the_same_frame_and_is_named_in_the_file(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trimesh", reason="TRELLIS.2's exporter makes its files with it")
    monkeypatch.syspath_prepend(STANDIN)
    monkeypatch.setitem(sys.modules, "o_voxel.postprocess", importlib.import_module("to_glb"))
    requested = options(decimation_target=20_000, texture_size=512, texture_format="png")
    shape, field = make(loaded, picture(), requested)
    geometry, _ = pipeline.export_shape(loaded, shape, requested, silent)
    boxes: list[NDArray[np.float32]] = []
    for backend, is_solid in (("own", False), ("upstream", False), ("upstream", True)):
        asked = replace(requested, solid=is_solid)
        glb = pipeline.export_model(
            loaded,
            geometry,
            field,
            asked,
            ExportSettings.model_validate({"backend": backend}),
            silent,
        )
        asset = json.loads(glb[20 : 20 + int.from_bytes(glb[12:16], "little")])["asset"]
        if is_solid:  # which only the exporter of this server keeps
            assert "exporter" not in asset["extras"]
            continue
        assert asset["generator"].startswith("trellis2-server")
        assert asset["extras"].get("exporter", "own") == backend
        assert asset["extras"]["seed"] == 7
        points = np.concatenate([part.positions for part in read_scene(glb).parts])
        boxes.append(np.stack([points.min(axis=0), points.max(axis=0)]))
    assert np.abs(boxes[0] - boxes[1]).max() < 2 / shape.resolution
    assert loaded.texture(shape, picture(), requested, silent).attributes.tobytes() == (
        field.attributes.tobytes()
    )


def test_the_exporter_gets_the_memory_that_pytorch_keeps(
    loaded: Trellis2Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    geometry: Any = SimpleNamespace(mesh=None)
    monkeypatch.setattr(DeviceMemory, "release", lambda _: calls.append("release"))
    monkeypatch.setattr(upstream_glb, "write", lambda *_, **__: calls.append("write"))
    loaded.export(geometry, geometry, options(), silent)
    assert calls[:2] == ["release", "write"]


def test_a_missing_exporter_is_an_error_of_the_load(checkpoint: Path) -> None:
    made = Trellis2Engine(settings(checkpoint), exports=True)
    with pytest.raises(MissingPackageError, match=r"export\.backend: .*compiled o_voxel, cumesh"):
        made.load(silent)
    found = inspect_trellis2(settings(checkpoint), exports=True)
    assert [f.level for f in found if f.what == "export"] == ["error"]


def test_an_exporter_is_found_if_all_its_packages_can_be_imported(tmp_path: Path) -> None:
    for package in ("o_voxel", "cumesh", "flex_gemm", "nvdiffrast", "trimesh", "cv2"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    postprocess = tmp_path / "o_voxel" / "postprocess.py"
    postprocess.write_text("import nvdiffrast.torch\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines.trellis2 import upstream_glb
print(upstream_glb.missing_part())
"""

    def missing() -> str:
        run = [sys.executable, "-B", "-c", code]
        return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()

    assert "fails: ModuleNotFoundError: No module named 'nvdiffrast.torch'" in missing()
    (tmp_path / "nvdiffrast" / "torch.py").write_text(
        "RasterizeCudaContext = rasterize = interpolate = 1\n"
    )
    assert "cumesh is installed, but without cumesh.CuMesh.simplify" in missing()
    (tmp_path / "cumesh" / "__init__.py").write_text(
        "class CuMesh: simplify = uv_unwrap = 1\n"
        "class remeshing: remesh_narrow_band_dc = 1\n"
        "cuBVH = 1\n"
    )
    assert "o_voxel is installed, but without o_voxel.postprocess.to_glb" in missing()
    postprocess.write_text("import nvdiffrast.torch\nto_glb = 1\n")
    assert missing() == "None"
    shutil.rmtree(tmp_path / "cumesh")
    shutil.rmtree(tmp_path / "nvdiffrast")
    assert "not installed: cumesh, nvdiffrast" in missing()
