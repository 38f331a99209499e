"""The engine against TRELLIS.2's own `run`, with each setting of the patches, on the device.

Kernels that are not deterministic can make equal calls differ: `run` is compared with itself
too, and a difference is reported in numbers.

Does not know: HTTP, full-size models.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from tests.gpu.sample_job import silent
from trellis2_server.engines.trellis2 import Trellis2Engine
from trellis2_server.engines.trellis2.pipeline_types import PIPELINE_TYPES
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.inputs.images import Cutout
from trellis2_server.parameters import Options, read_options
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from tests.gpu.session import Session
    from trellis2_server.mesh import Shape, VoxelField

#: Settings of `model.patches`, whether results must be equal to `run`, bit for bit on a CPU.
#: In this order: an engine never has to undo the patches of another.
PATCHES: Final = ((False, True), ("exact", True), (True, False))
#: Largest difference of results that are equal to rounding: edges and colours are about 1.
TOLERANCE: Final = 2e-3
#: The small checkpoint works in float32. Half precision of a real one would differ more.
_STEPS: Final = 2
#: To try the script: a CPU takes seconds for each job, and tests of their own check it there.
TINY_TYPES: Final = ("512", "1024_cascade")
#: Seconds of a job of the small checkpoint on the modelled H100.
_JOB_S: Final = 1.0
_TABLE: Final = "engine, small checkpoint"

#: vertices, faces, coords, attributes; of `run` and of the engine alike.
Result = dict[str, Any]


class CancelledError(Exception):
    """Raised by a report, as for a cancelled job."""


def run(session: Session, folder: Path) -> None:
    """Write the small checkpoint and check everything."""
    import_upstream(session.settings(patches=False))
    importlib.import_module("tests.support.tiny_checkpoint").write(folder)
    references: dict[str, Result] = {}
    for patches, is_exact in PATCHES:
        engine = Trellis2Engine(
            session.settings(model_path=str(folder), patches=patches), oom_fallback="none"
        )
        labels = {"patches": str(patches)}
        loaded = session.attempt(_TABLE, {"what": "load", **labels}, 5.0, lambda e=engine: _load(e))
        if loaded is None:
            continue
        if patches is False:
            _make_references(session, engine, references)
        for kind, reference in references.items():
            session.attempt(
                _TABLE,
                {"what": "against run()", "type": kind, **labels},
                _JOB_S,
                lambda e=engine, k=kind, r=reference, x=is_exact: _against_run(
                    session, e, k, r, must_be_exact=x
                ),
            )
        if not session.is_tiny or patches == "exact":
            _check_order(session, engine, labels)
        engine.unload()
        del engine
        session.release()


def _make_references(
    session: Session, engine: Trellis2Engine, references: dict[str, Result]
) -> None:
    """Fill in the results of `run`, with a row for each type."""
    for kind in TINY_TYPES if session.is_tiny else PIPELINE_TYPES:
        session.attempt(
            _TABLE,
            {"what": "run() twice", "type": kind, "patches": "False"},
            2 * _JOB_S,
            lambda kind=kind: _reference(session, engine, kind, references),
        )


def _check_order(session: Session, engine: Trellis2Engine, labels: dict[str, str]) -> None:
    """Check jobs that are cancelled, and jobs that take turns."""
    for what, check in (("cancel in the middle", _cancel), ("two jobs interleaved", _interleave)):
        session.attempt(
            _TABLE,
            {"what": what, "type": "1024_cascade", **labels},
            4 * _JOB_S,
            lambda check=check: check(session, engine),
        )


def _load(engine: Trellis2Engine) -> dict[str, Any]:
    engine.load(silent)
    return {"extensions": {e.name: e.kind for e in engine.extensions}}


def _reference(
    session: Session, engine: Trellis2Engine, kind: str, references: dict[str, Result]
) -> dict[str, Any]:
    pipeline = importlib.import_module("bench.engine").pipeline_of(engine)
    if not hasattr(pipeline, "run"):
        return {"unavailable": "this package has no run(): it is a stand-in for tests"}
    with _without_cuda(session):
        references[kind] = _run(pipeline, kind)
        again = _run(pipeline, kind)
    found = differences(references[kind], again)
    return {key: found[key] for key in ("equal", "max_difference", "faces")}


def _run(pipeline: Any, kind: str) -> Result:
    """Call TRELLIS.2's `run`. It closes small holes at the end, by rows after the others."""
    requested = _options(kind)
    keys = ("sparse_structure", "shape_slat", "tex_slat")
    samplers = zip(keys, (requested.ss, requested.shape, requested.tex), strict=True)
    whole, (_, _, resolution) = pipeline.run(
        Image.fromarray(_picture().rgb),
        seed=requested.seed,
        **{
            f"{key}_sampler_params": {
                "steps": given.sampling_steps,
                "guidance_strength": given.guidance_scale,
            }
            for key, given in samplers
        },
        preprocess_image=False,
        return_latent=True,
        pipeline_type=kind,
        max_num_tokens=requested.max_num_tokens,
    )
    arrays = {name: getattr(whole[0], name) for name in ("vertices", "faces", "coords", "attrs")}
    return {name: array.cpu().numpy() for name, array in arrays.items()} | {
        "resolution": resolution
    }


@contextlib.contextmanager
def _without_cuda(session: Session) -> Generator[None, None, None]:
    """Off CUDA, let `Tensor.cuda`, which `run` calls at its end, do nothing."""
    tensor = session.torch.Tensor
    if session.is_cuda:
        yield
        return
    before = tensor.cuda

    def stay(self: Any, *_: object, **__: object) -> Any:
        return self

    tensor.cuda = stay
    try:
        yield
    finally:
        tensor.cuda = before


def _against_run(
    session: Session, engine: Trellis2Engine, kind: str, expected: Result, *, must_be_exact: bool
) -> dict[str, Any]:
    found = differences(expected, result(*_job(engine, kind)))
    return judged(found, must_be_exact=must_be_exact and not session.is_cuda)


def _cancel(session: Session, engine: Trellis2Engine) -> dict[str, Any]:
    """Cancel in the middle of sampling; the next job must be as one before."""
    before = result(*_job(engine, "1024_cascade"))
    stages: list[str] = []

    def cancel(stage: str, step: int, steps: int) -> None:
        if stage == "shape" and step > steps // 2:
            stages.append(stage)
            raise CancelledError

    with contextlib.suppress(CancelledError):
        engine.shape(_picture(), _options("1024_cascade"), cancel)
    if not stages:
        raise AssertionError("the job was not cancelled")
    found = differences(before, result(*_job(engine, "1024_cascade")))
    return judged(found, must_be_exact=not session.is_cuda)


def _interleave(session: Session, engine: Trellis2Engine) -> dict[str, Any]:
    """Shape, shape, texture, texture of two jobs must be as one after the other."""
    first, second = _options("1024_cascade"), _options("512", 8)
    alone = [result(*_job(engine, "1024_cascade")), result(*_job(engine, "512", 8))]
    shapes = [engine.shape(_picture(), requested, silent) for requested in (first, second)]
    found: dict[str, Any] = {}
    for expected, shape, requested in zip(alone, shapes, (first, second), strict=True):
        field = engine.texture(shape, _picture(), requested, silent)
        one = differences(expected, result(shape, field))
        if not found or one["max_difference"] >= found["max_difference"]:
            found = one
    return judged(found, must_be_exact=not session.is_cuda)


def differences(expected: Result, got: Result) -> Result:
    """Compare two results: whether all is equal, and the largest difference.

    Rows that only `expected` has at the end, of closed holes, are left out. With another
    number of voxels or faces the largest difference is infinite.
    """
    vertices, faces = (expected[name][: len(got[name])] for name in ("vertices", "faces"))
    pairs = [(vertices, got["vertices"]), (expected["attrs"], got["attrs"])]
    same_rows = (
        np.array_equal(expected["coords"], got["coords"])
        and expected["resolution"] == got["resolution"]
        and all(a.shape == b.shape for a, b in pairs)
        and faces.shape == got["faces"].shape
    )
    found: Result = {
        "voxels": len(got["coords"]),
        "faces": len(got["faces"]),
        "same_voxels": bool(same_rows),
        "different_faces": -1,
        "equal": False,
        "max_difference": float("inf"),
    }
    if not same_rows:
        return found
    found["different_faces"] = int((faces != got["faces"]).any(axis=1).sum())
    found["max_difference"] = max((float(np.abs(a - b).max(initial=0.0)) for a, b in pairs))
    found["equal"] = not found["different_faces"] and not found["max_difference"]
    return found


def judged(found: Result, *, must_be_exact: bool) -> dict[str, Any]:
    """The row of a comparison, with an error where it is not as it must be.

    On a GPU, where kernels may be chosen by timing, equal means: within rounding. Single
    faces may then be divided along the other diagonal.
    """
    row = {k: v for k, v in found.items() if k != "same_voxels"}
    if found["equal"]:
        return row
    if must_be_exact:
        row["error"] = "not equal bit for bit"
    elif not found["max_difference"] <= TOLERANCE:
        row["error"] = f"over {TOLERANCE:g}, or other voxels"
    return row


def _job(engine: Trellis2Engine, kind: str, seed: int = 7) -> tuple[Shape, VoxelField]:
    requested = _options(kind, seed)
    shape = engine.shape(_picture(), requested, silent)
    return shape, engine.texture(shape, _picture(), requested, silent)


def result(shape: Shape, field: VoxelField) -> Result:
    """What is compared of a job."""
    return {
        "vertices": shape.mesh.vertices,
        "faces": shape.mesh.faces,
        "coords": field.coords,
        "attrs": field.attributes,
        "resolution": shape.resolution,
    }


def _options(kind: str, seed: int = 7) -> Options:
    steps = {f"{stage}_sampling_steps": _STEPS for stage in ("ss", "shape", "tex")}
    return read_options({"pipeline_type": kind, "seed": seed, **steps}, Settings())


def _picture() -> Cutout:
    rgba = np.zeros((64, 64, 4), np.uint8)
    y, x = np.mgrid[:64, :64]
    rgba[(y - 32) ** 2 + (x - 32) ** 2 < 1000] = (200, 60, 40, 255)
    rgba[:32][rgba[:32, :, 3] > 0] = (30, 90, 220, 255)
    return Cutout(rgba, "alpha")
