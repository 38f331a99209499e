"""Each stage of an export reports its steps one after the other, to the last."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.support import shapes
from trellis2_server.export.bake import bake, build_index
from trellis2_server.export.levels import create_levels
from trellis2_server.export.remesh import remesh
from trellis2_server.export.unwrap import unwrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.mesh import Mesh
    from trellis2_server.reports import Report


def run_bake(mesh: Mesh, report: Report) -> None:
    bake(mesh, unwrap(mesh, 32), build_index(shapes.field(12)), report)


def run_levels(mesh: Mesh, report: Report) -> None:
    list(create_levels(mesh, unwrap(mesh, 32), (30, 20), report))


@pytest.mark.parametrize(
    ("stage", "steps", "run"),
    [
        ("remesh", 6, lambda mesh, report: remesh(mesh, 12, report)),
        ("unwrap", 4, lambda mesh, report: unwrap(mesh, 32, report)),
        ("bake", 3, run_bake),
        ("levels", 2, run_levels),
    ],
)
def test_a_stage_reports_its_steps_in_order(
    stage: str, steps: int, run: Callable[[Mesh, Report], None]
) -> None:
    said: list[tuple[str, int, int]] = []
    run(shapes.sphere(3), lambda *step: said.append(step))
    assert {(name, of) for name, _, of in said} == {(stage, steps)}
    numbers = [number for number, _ in itertools.groupby(step for _, step, _ in said)]
    assert numbers == list(range(steps + 1))
