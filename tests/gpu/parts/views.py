"""A `512` job with several pictures, by `multi_image`, and what equal pictures give.

Does not know: other pipeline types.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from tests.gpu.parts.engine_checks import differences, result
from tests.gpu.parts.whole_512 import STEPS, TINY_STEPS, TINY_TOKENS, TOKENS
from tests.gpu.sample_job import job, picture
from trellis2_server.inputs.images import Cutout, View

if TYPE_CHECKING:
    from tests.gpu.full_model import FullModel, MeasuredJob
    from tests.gpu.session import Session
    from trellis2_server.engines.trellis2.state import Trellis2State
    from trellis2_server.request_fields import MultiImage

_VIEWS: Final = 3
_MODES: Final[tuple[MultiImage, ...]] = ("stochastic", "multidiffusion", "concat", "mean")
#: Modes in which equal pictures are one: with others the model sees more tokens of features.
_SAME_AS_ONE: Final[tuple[MultiImage, ...]] = ("stochastic", "multidiffusion", "mean")
#: Seconds of two jobs of one picture on the modelled H100, and how many a mode takes at most.
_JOB_S: Final = 3.0
_JOBS: Final = 2 * _VIEWS


def run(session: Session) -> None:
    """Measure each mode, then compare equal pictures with one."""
    made = session.full()
    made.set_tokens("512", TINY_TOKENS if session.is_tiny else TOKENS)
    one = _measure(session, made, _pictures(1), "auto", None)
    if one is None:
        return
    for mode in _MODES:
        _measure(session, made, _pictures(_VIEWS), mode, one)
    for mode in _SAME_AS_ONE:
        session.attempt(
            "equal pictures against one",
            {"multi_image": mode, "pictures": _VIEWS},
            _JOBS * _JOB_S,
            lambda mode=mode: _compare(session, made, mode, one),
        )


def _measure(
    session: Session,
    made: FullModel,
    pictures: tuple[View, ...],
    mode: MultiImage,
    one: MeasuredJob | None,
) -> MeasuredJob | None:
    """Measure the second of two jobs; add a row with its time against that of one picture."""
    kept: list[MeasuredJob] = []

    def work() -> dict[str, Any]:
        first, best = (_run(session, made, pictures, mode) for _ in range(2))
        kept.append(best)
        row = {
            "first_job_s": first.seconds,
            "job_s": best.seconds,
            "peak_gib": best.gib,
            "is_finite": bool(np.isfinite(best.field.attributes).all()),
            **{
                f"{stage}_s": seconds
                for times in best.times.values()
                for stage, (seconds, _) in times.measured.items()
                if stage != "decode"
            },
        }
        return row | ({"against_one": best.seconds / one.seconds} if one else {})

    labels = {"multi_image": mode, "pictures": len(pictures)}
    session.attempt("a 512 job of several pictures", labels, _JOBS * _JOB_S, work)
    return kept[0] if kept else None


def _compare(
    session: Session, made: FullModel, mode: MultiImage, one: MeasuredJob
) -> dict[str, Any]:
    """Differences of a job of equal pictures from one of one picture."""
    got = _run(session, made, _pictures(1) * _VIEWS, mode)
    expected, latent = (cast("Trellis2State", each.shape.state).features for each in (one, got))
    found = differences(result(one.shape, one.field), result(got.shape, got.field))
    return {
        "equal": found["equal"],
        "latent_difference": float(np.abs(latent - expected).max() / np.abs(expected).max()),
        "different_faces": found["different_faces"],
    }


def _run(
    session: Session, made: FullModel, pictures: tuple[View, ...], mode: MultiImage
) -> MeasuredJob:
    steps = TINY_STEPS if session.is_tiny else STEPS
    requested = dataclasses.replace(job("512", steps, session.size), multi_image=mode)
    first, *others = pictures
    cutout = Cutout(first.rgba, "alpha", views=pictures if others else ())
    return made.measure(session.meter, requested, cutout)


def _pictures(count: int) -> tuple[View, ...]:
    """The sample picture, turned by a quarter each time."""
    return tuple(View(np.rot90(picture().rgba, at).copy()) for at in range(count))
