"""This server's exporter on the CPU beside TRELLIS.2's `to_glb` on the GPU, of the same object.

The objects are dual grids like TRELLIS.2's, made without weights. `to_glb` needs the compiled
extensions and nvdiffrast; without them the part is one row that says so.

Does not know: jobs, sampling.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

from bench.export_shapes import dual_grid, voxels
from tests.gpu.sample_job import job, silent
from trellis2_server import export
from trellis2_server.engines.trellis2 import upstream_glb
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.inputs.meshes import Glb

if TYPE_CHECKING:
    from tests.gpu.session import Session
    from trellis2_server.mesh import Mesh, VoxelField
    from trellis2_server.parameters import Options

_TABLE: Final = "exports of the same object"
#: Shape, faces to decimate to, whether it is remeshed.
_MEASURED: Final = (
    ("bolt", 200_000, False),
    ("bolt", 200_000, True),
    ("crowded", 200_000, False),
    ("cloth", 500_000, False),
)
_TEXTURE_SIZE: Final = 2048
_RESOLUTION: Final = {False: 512, True: 64}
_ROUNDS: Final = 2
#: Seconds of a row on an H100's machine.
_ROW_S: Final = 15.0


def run(session: Session) -> None:
    """Export each object twice with both exporters; keep the GLBs where files are kept."""
    import_upstream(session.settings())
    why_not = upstream_glb.missing_part() or (None if session.is_cuda else "needs CUDA")
    if why_not:
        session.row(_TABLE, what="to_glb", skipped=why_not)
    session.compile_exporter()
    resolution = _RESOLUTION[session.is_tiny]
    for shape, faces, is_remeshed in _MEASURED[: 1 if session.is_tiny else None]:
        mesh = dual_grid(shape, resolution, None)
        field = voxels(mesh, resolution, alpha=False)
        options = dataclasses.replace(
            job("512", 1, session.size),
            decimation_target=faces,
            texture_size=256 if session.is_tiny else _TEXTURE_SIZE,
            remesh=is_remeshed,
        )
        labels = {"shape": shape, "remesh": is_remeshed, "original_faces": len(mesh.faces)}
        exporters = {"this server": _own} | ({} if why_not else {"to_glb": _upstream})
        for name, exporter in exporters.items():
            kept = f"{shape}-{faces}{'-remesh' * is_remeshed}-{name.replace(' ', '-')}.glb"
            session.attempt(
                _TABLE,
                {"exporter": name, **labels},
                _ROW_S,
                lambda exporter=exporter, mesh=mesh, field=field, options=options, kept=kept: (
                    _measure(session, exporter, (mesh, field, options), kept)
                ),
            )


def _measure(
    session: Session, exporter: Any, given: tuple[Mesh, VoxelField, Options], name: str
) -> dict[str, Any]:
    """Export with one exporter, in the shortest of two runs; keep the file."""
    seconds: list[float] = []
    cpu: list[float] = []
    glb, gib = b"", 0.0
    for _ in range(_ROUNDS):
        cpu_began = time.process_time()
        glb, wall, gib = session.meter.run(lambda: exporter(session, *given))
        seconds.append(wall)
        cpu.append(time.process_time() - cpu_began)
    session.keep(name, glb)
    document = Glb(glb).json
    primitive = document["meshes"][0]["primitives"][0]
    return {
        "first_s": seconds[0],
        "seconds": min(seconds),
        "cpu_s": min(cpu),
        "peak_gib": gib,
        "faces": document["accessors"][primitive["indices"]]["count"] // 3,
        "mb": len(glb) / 1e6,
    }


def _own(session: Session, mesh: Mesh, field: VoxelField, options: Options) -> bytes:
    del session
    prepared = export.prepare(
        mesh,
        decimation_target=options.decimation_target,
        remesh_resolution=field.resolution if options.remesh else None,
        report=silent,
    )
    return export.textured_glb(
        prepared, field, original=mesh, texture_size=options.texture_size, report=silent
    )


def _upstream(session: Session, mesh: Mesh, field: VoxelField, options: Options) -> bytes:
    return upstream_glb.write(session.torch, mesh, field, options, device=session.device)
