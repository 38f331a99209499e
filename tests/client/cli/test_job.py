"""Jobs of the command line, and the files that they write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trellis2_server.client.cli import job
from trellis2_server.client.cli.atomic_write import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from tests.support.engines import GatedEngine
    from tests.support.server import Server

    Run = Callable[..., tuple[int, str, str]]


def test_the_shape_is_written_while_its_texture_is_generated(
    run: Run, server: Server, engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.gates["texture"].clear()
    written: list[str] = []

    def write(path: Path, content: bytes) -> None:
        write_atomically(path, content)
        written.append(str(path))
        engine.open_all()

    monkeypatch.setattr(job, "write_atomically", write)
    assert run("one.png", "--with-shape")[0] == 0
    assert written == ["one_shape.glb", "one.glb"]
    del server


def test_a_mesh_is_textured_and_not_overwritten(run: Run) -> None:
    assert run("one.png", "--shape-only", "--output", "chair.glb")[0] == 0
    code, output, _ = run("two.png", "--mesh", "chair.glb", "--geo-rotation", 90)
    assert (code, output) == (0, "two.glb\n")
    code, _, error = run("two.png", "--mesh", "chair.glb", "--output", "chair.glb")
    assert (code, "chair.glb: would be overwritten" in error) == (2, True)


def test_a_thumbnail_shows_the_glb_of_a_model_of_another_type(run: Run) -> None:
    assert run("one.png", "--type", "ply", "--thumbnail")[:2] == (0, "one.ply\none_thumbnail.png\n")
    assert run("one.png", "--type", "obj_zip", "--output", "x.zip")[:2] == (0, "x.zip\n")
