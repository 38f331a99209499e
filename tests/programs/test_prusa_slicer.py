"""STL and 3MF files of ten models, sliced by PrusaSlicer."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from tests.support import preview, shapes
from trellis2_server import export
from trellis2_server.engines.preview import PreviewEngine
from trellis2_server.export import formats
from trellis2_server.mesh import Mesh
from trellis2_server.parameters import PlacedFile, default_placement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from trellis2_server.parameters import FileType

SLICER = shutil.which("prusa-slicer")

pytestmark = pytest.mark.skipif(SLICER is None, reason="needs PrusaSlicer: install prusa-slicer")

#: Of a print that is quick to compute, whose walls and layers are all there.
QUICK = (
    "--layer-height=0.3", "--first-layer-height=0.3", "--perimeters=1", "--fill-density=0%",
    "--top-solid-layers=1", "--bottom-solid-layers=1", "--skirts=0",
)  # fmt: skip
#: Words of its output about meshes that it had to change.
FAULTS = ("repair", "error", "warning", "degenerate", "open edge", "empty layer", "not manifold")
SIZE_MM, LAYER_MM = 20.0, 0.3
TYPES = ("stl", "3mf")


def stretched(mesh: Mesh, *scale: float) -> Mesh:
    points = np.asarray(mesh.vertices) * np.float32(scale)
    return Mesh(points.astype(np.float32), mesh.faces)


def shown(mask: Any) -> Callable[[], Mesh]:
    """Return a call that makes the preview engine's shape of an outline."""

    def make() -> Mesh:
        engine = PreviewEngine()
        engine.load(preview.ignore)
        request: Any = preview.Request()
        return engine.shape(preview.cutout(mask), request, preview.ignore).mesh

    return make


MODELS: dict[str, Callable[[], Mesh]] = {
    "torus": shapes.torus,
    "torus on its side": lambda: shapes.torus(turned=True),
    "sphere": shapes.sphere,
    "ellipsoid": lambda: stretched(shapes.sphere(24), 0.5, 0.7, 1.1),
    "blob": shapes.noisy_blob,
    "thin box": shapes.thin_box,
    "two links": shapes.links,
    "coarse torus": lambda: shapes.torus(16, 8),
    "preview of a disc": shown(preview.disc(128, 64, 64, 40)),
    "preview of two discs": shown(
        np.maximum(preview.disc(128, 40, 64, 25), preview.disc(128, 80, 64, 30))
    ),
}


@dataclass(frozen=True)
class Sliced:
    """What the slicer says of a file.

    Attributes:
        about: of each object of the file, before it is sliced.
        x_mm: least and greatest x of the tool's way.
        layers: number of layers.
    """

    about: list[dict[str, str]]
    x_mm: tuple[float, float]
    layers: int

    def box(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the least and the greatest coordinates of all objects, millimetres."""
        low, high = (
            [[float(each[f"{end}_{axis}"]) for axis in "xyz"] for each in self.about]
            for end in ("min", "max")
        )
        return np.min(low, axis=0), np.max(high, axis=0)


def run(*arguments: str) -> str:
    assert SLICER is not None
    done = subprocess.run([SLICER, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def about(path: Path) -> list[dict[str, str]]:
    """Return what the slicer says of the objects of a file, before it slices them."""
    found: list[dict[str, str]] = []
    for line in run("--info", str(path)).splitlines():
        name, equals, value = line.partition("=")
        if line.startswith("["):
            found.append({} if line == f"[{path.name}]" else {"error": line})
        elif equals:
            found[-1][name.strip()] = value.strip()
    return [each for each in found if "error" not in each]


def write(path: Path, mesh: Mesh) -> None:
    """Write a file of the type of its name."""
    file_type = cast("FileType", path.suffix[1:])
    glb = export.textured_glb(
        export.prepare(mesh, decimation_target=4000), shapes.field(24), texture_size=64
    )
    placed = PlacedFile(file_type, replace(default_placement(file_type), size=SIZE_MM))
    path.write_bytes(formats.convert(glb, placed))


@pytest.fixture(scope="module")
def sliced(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Sliced]:
    """Return all models as all types, by their names. One process slices all of them."""
    folder = tmp_path_factory.mktemp("sliced")
    paths = {
        (name, file_type): folder / f"{name.replace(' ', '_')}-{file_type}.{file_type}"
        for name in MODELS
        for file_type in TYPES
    }
    for (name, _), path in paths.items():
        write(path, MODELS[name]())
    # Otherwise the objects of a 3MF are arranged beside each other.
    said = run("--export-gcode", "--dont-arrange", *QUICK, *map(str, paths.values()))
    assert not [word for word in FAULTS if word in said.lower()], said
    found: dict[tuple[str, str], Sliced] = {}
    for key, path in paths.items():
        # Of a file with several objects, it is named after the first.
        (code,) = folder.glob(f"{path.stem}*.gcode")
        lines = code.read_text("utf-8").splitlines()
        x = [float(line.split()[1][1:]) for line in lines if line.startswith("G1 X")]
        layers = {line for line in lines if line.startswith(";Z:")}
        found[key] = Sliced(about(path), (min(x), max(x)), len(layers))
    return found


@pytest.mark.costly("sliced")
@pytest.mark.parametrize("file_type", TYPES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_sliced_as_it_is(
    sliced: dict[tuple[str, str], Sliced], name: str, file_type: str
) -> None:
    found = sliced[name, file_type]
    for each in found.about:
        assert each["manifold"] == "yes"
        assert not {"open_edges", "facets_removed", "edges_fixed", "facets_reversed"} & set(each)
        assert float(each["volume"]) > 0
    low, high = found.box()
    assert max(high - low) == pytest.approx(SIZE_MM, rel=1e-4)
    assert low[2] == pytest.approx(0, abs=1e-4)  # on the bed
    assert found.layers == pytest.approx((high - low)[2] / LAYER_MM, abs=2)
    assert found.x_mm == pytest.approx((low[0], high[0]), abs=1)


def test_shells_are_objects_of_a_3mf(sliced: dict[tuple[str, str], Sliced]) -> None:
    assert len(sliced["two links", "3mf"].about) == 2
    assert len(sliced["two links", "stl"].about) == 1
    assert len(sliced["torus", "3mf"].about) == 1


def test_the_slicer_says_if_a_model_is_open(tmp_path: Path) -> None:
    """Otherwise the tests above could not fail."""
    write(tmp_path / "open.stl", shapes.sheet())
    assert [each["manifold"] for each in about(tmp_path / "open.stl")] == ["no"]
