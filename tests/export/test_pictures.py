"""Drawing GLBs with compiled loops: the same pictures as the client's, and they can be stopped."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from tests.support import shapes
from trellis2_server import export
from trellis2_server.drawing import draw_thumbnail, load_glb
from trellis2_server.errors import ExportError
from trellis2_server.export import cancellation, pictures
from trellis2_server.export.gltf import set_asset
from trellis2_server.export.kernels.drawing import draw_faces
from trellis2_server.export.pictures import draw_picture
from trellis2_server.parameters import PictureForm

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = PictureForm("thumbnail", 96)


def textured(**options: Any) -> bytes:
    mesh = export.prepare(shapes.torus(), decimation_target=2000)
    return export.textured_glb(mesh, shapes.field(24), texture_size=128, **options)


def untextured() -> bytes:
    return export.untextured_glb(shapes.torus())


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(content)) as opened:
        assert opened.mode == "RGBA"
        return np.asarray(opened).astype(int)


@pytest.mark.costly
@pytest.mark.parametrize("view", ["front", "three_quarter", "back"])
@pytest.mark.parametrize(
    "make",
    [
        untextured,
        textured,
        lambda: textured(alpha_mode="MASK"),
        lambda: textured(alpha_mode="BLEND"),
        lambda: textured(occlusion=True),
    ],
    ids=["untextured", "textured", "mask", "blend", "occlusion"],
)
def test_the_servers_picture_is_the_clients(make: Callable[[], bytes], view: Any) -> None:
    glb = make()
    server = pixels(draw_picture(glb, PictureForm("thumbnail", 96, view)))
    client = pixels(draw_thumbnail(load_glb(glb), size_px=96, view=view))
    assert 0.1 < (server[..., 3] > 200).mean() < 0.9
    # Vertices at one place are one here: a few samples on edges may belong to another face.
    assert np.abs(server - client).max() <= 2


def test_a_model_without_a_texture_is_grey_and_one_with_a_texture_is_not() -> None:
    grey, colored = (pixels(draw_picture(glb, SMALL)) for glb in (untextured(), textured()))
    assert np.ptp(grey[..., :3], axis=-1).max() == 0
    assert np.ptp(colored[..., :3], axis=-1).max() > 60


@pytest.mark.parametrize("compress", ["meshopt", "draco"])
def test_a_compressed_model_is_drawn(compress: Any) -> None:
    pytest.importorskip("DracoPy" if compress == "draco" else "meshopt", reason="not installed")
    plain, packed = (
        pixels(draw_picture(glb, SMALL)) for glb in (textured(), textured(compress=compress))
    )
    assert (np.abs(plain - packed).max(-1) > 16).mean() < 0.03


def test_a_mesh_that_was_sent_with_z_up_stands_upright() -> None:
    torus = trimesh.load(io.BytesIO(untextured()), file_type="glb", force="mesh")
    turn = [[1, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]]
    lying = torus.copy().apply_transform(turn).export(file_type="glb")
    lying = set_asset(lying, extras={"up_axis": "z"}, generator="test")
    upright, turned = (
        pixels(draw_picture(glb, SMALL)) for glb in (torus.export(file_type="glb"), lying)
    )
    assert np.abs(upright - turned).max() <= 2
    client = pixels(draw_thumbnail(load_glb(lying), size_px=96))
    assert np.abs(client - turned).mean() < 1  # the file has no normals, which are made otherwise


def test_a_turntable_reports_each_frame() -> None:
    reports: list[tuple[str, int, int]] = []
    content = draw_picture(
        textured(), PictureForm("turntable", 48), lambda *progress: reports.append(progress)
    )
    with Image.open(io.BytesIO(content)) as opened:
        assert (opened.format, getattr(opened, "n_frames", 1)) == ("WEBP", 24)
    assert list(dict.fromkeys(reports)) == [("draw", step, 24) for step in range(25)]


class StopError(Exception):
    """Raised by the report."""


@pytest.mark.parametrize("kind", ["thumbnail", "turntable"])
def test_a_drawing_stops_when_its_report_raises(kind: Any) -> None:
    def stop(*_: object) -> None:
        raise StopError

    with pytest.raises(StopError):
        draw_picture(textured(), PictureForm(kind, 64), stop)


def test_compiled_loops_poll_the_flag() -> None:
    model = pictures.read_drawn_model(textured())
    flag = cancellation.new_flag()
    flag[0] = cancellation.CANCELLED
    owner, depth = np.full(64, -1, np.int32), np.full(64, -np.inf)
    points = np.zeros((len(model.positions), 3))
    points[:, :2] = (model.positions[:, :2] + 0.5) * 8
    draw = (points, model.faces, 8, False, np.empty(0), 1e-9, owner, depth)
    draw_faces(*draw, flag)
    assert (owner == -1).all()
    flag[0] = cancellation.RUNNING
    draw_faces(*draw, flag)
    assert (owner >= 0).any()


def test_what_is_no_glb_cannot_be_drawn() -> None:
    with pytest.raises(ExportError, match="cannot be drawn"):
        draw_picture(b"no GLB", SMALL)


def test_without_webp_a_turntable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.SAVE_ALL, "WEBP")
    with pytest.raises(ExportError, match="WebP"):
        draw_picture(untextured(), PictureForm("turntable", 32))
