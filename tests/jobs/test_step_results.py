from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.support.engines import cube, voxels
from tests.support.managers import in_a_loop, submit, working
from trellis2_server.mesh import Shape

if TYPE_CHECKING:
    from tests.support.engines import GatedEngine


@in_a_loop
async def test_a_job_tells_the_warnings_of_all_its_steps_in_their_order(
    engine: GatedEngine,
) -> None:
    engine.returns["shape"] = Shape(cube(), 8, state=None, warnings=("a coarser shape",))
    engine.returns["texture"] = replace(voxels(), warnings=("a coarser texture", "a seam"))
    async with working(engine) as service:
        done = await service.wait_for_texture(await submit(service, 1))
        assert done.warnings == ("a coarser shape", "a coarser texture", "a seam")
        other = await service.wait_for_texture(await submit(service, 2))
        assert other.warnings == ()
