"""TRELLIS.2's samplers: built from `pipeline.json`, called with a request's parameters.

TRELLIS.2's sampler calls its own `sample_once` once per step. A subclass reports each step
there; the samples are bit-identical. Within its `sample`, patches are active.

Does not know: models, stages.
"""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2 import patches, views
from trellis2_server.errors import EngineError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from trellis2_server.engines.trellis2.upstream import Upstream
    from trellis2_server.parameters import SamplerOptions

#: Attributes of the pipeline, and sections of `pipeline.json`.
SAMPLERS: Final = ("sparse_structure_sampler", "shape_slat_sampler", "tex_slat_sampler")
#: Arguments of TRELLIS.2's samplers that a request may set.
_REQUESTABLE: Final = frozenset(
    {"steps", "rescale_t", "guidance_strength", "guidance_rescale", "guidance_interval"}
)


def build_sampler(upstream: Upstream, section: Any) -> Any:
    """Build a sampler from its section of `pipeline.json`.

    Its attribute `on_step`, None at first, is called after each step and may raise.

    Raises:
        EngineError: this version of TRELLIS.2 does not have its class.
    """
    base = getattr(upstream.samplers, section.get("name", ""), None)
    if base is None:
        raise EngineError(
            f"the checkpoint asks for the sampler {section.get('name')!r}, which this version of "
            "TRELLIS.2 does not have"
        )
    made = reporting(base)(**section.get("args", {}))
    made.patches = upstream.patches
    return made


def reporting(base: Any) -> Any:
    """Derive from a class of sampler one that calls `on_step` and shows no progress bar."""

    class ReportingSampler(base):
        """TRELLIS.2's sampler; `on_step()` is called after each step and may raise."""

        on_step: Callable[[], None] | None = None
        #: Called before the second and each further view of a step; may raise.
        on_view: Callable[[], None] | None = None
        #: Names of the patches that its calls use.
        patches: Collection[str] = ()
        #: `compilation.graphs.StageGraphs`, through which the model is called; None: directly.
        graphs: Any = None

        def sample(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            kwargs["verbose"] = False
            features = views.named_features(kwargs)
            with (
                patches.sampling(self.patches, model, features) as shared,
                self.graphs.stage(model) if self.graphs else nullcontext(model) as evaluate,
            ):
                given = views.with_features(kwargs, shared)
                evaluated = views.evaluation(evaluate, given.get("cond"), self.on_view)
                return super().sample(evaluated, *args, **given)

        def sample_once(self, *args: Any, **kwargs: Any) -> Any:
            views.begin_step((*args, *kwargs.values()))
            out = super().sample_once(*args, **kwargs)
            if self.on_step is not None:
                self.on_step()
            return out

    ReportingSampler.__name__ = ReportingSampler.__qualname__ = base.__name__
    return ReportingSampler


def supported_parameters(sampler: Any) -> frozenset[str]:
    """Names of the arguments that a request may set for this sampler."""
    names = set(inspect.signature(type(sampler).__mro__[1].sample).parameters)
    if "guidance_strength" in names:
        names.add("guidance_rescale")
    return frozenset(names & _REQUESTABLE)


def sampler_arguments(sampler: Any, options: SamplerOptions, prefix: str) -> dict[str, Any]:
    """Arguments for TRELLIS.2's sampler, which ignores unknown ones silently.

    Args:
        sampler: from `build_sampler`.
        options: of the request; None takes the checkpoint's value.
        prefix: of the request's fields, for errors: "ss", "shape", "tex".

    Raises:
        InputError: the sampler does not have a parameter, or a value is not usable.
    """
    known = supported_parameters(sampler)
    requested: dict[str, Any] = {
        "steps": options.sampling_steps,
        "guidance_strength": options.guidance_scale,
        "guidance_rescale": options.guidance_rescale,
        "guidance_interval": options.guidance_interval,
        "rescale_t": options.rescale_t,
    }
    arguments = {key: value for key, value in requested.items() if value is not None}
    unknown = arguments.keys() - known
    for key in unknown - {"guidance_strength"}:
        raise InputError(f"{prefix}_{key}: this checkpoint's sampler does not have it")
    numbers = [v for v in arguments.values() if not isinstance(v, tuple)]
    if not all(math.isfinite(n) for n in numbers) or options.sampling_steps < 1:
        raise InputError(f"{prefix}_sampling_steps: must be at least 1")
    return {key: value for key, value in arguments.items() if key in known}
