"""The time of a step, made on the device.

TRELLIS.2 copies the time and the frequencies of its embedding from the CPU to the device in each
evaluation, and waits for the device both times. Here the time is written by the device, and the
frequencies are copied once a stage.

Does not know: models, conditions.
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.patches.patch import Patch
from trellis2_server.engines.trellis2.patches.scope import active

if TYPE_CHECKING:
    from collections.abc import Callable

    Tensor = Any

NAME: Final = "timesteps"
_EMBEDDING: Final = "trellis2.models.sparse_structure_flow:TimestepEmbedder.timestep_embedding"
_EVALUATION: Final = "trellis2.pipelines.samplers.flow_euler:FlowEulerSampler._inference_model"


def _replace_embedding(original: Any) -> Callable[..., Any]:
    torch: Any = importlib.import_module("torch")

    def embed(t: Tensor, dim: int, max_period: float = 10000) -> Tensor:
        scope = active(NAME)
        if scope is None or dim % 2:
            return original(t, dim, max_period)

        def frequencies() -> Tensor:
            # On the CPU, as there: devices differ in the last bit of exp.
            count = dim // 2
            exponents = torch.arange(count, dtype=torch.float32).mul(-math.log(max_period))
            return exponents.div(count).exp().to(t.device)

        angles = t[:, None].float() * scope.keep((NAME, dim, max_period, t.device), frequencies)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    return embed


def _replace_evaluation(original: Any) -> Callable[..., Any]:
    torch: Any = importlib.import_module("torch")

    def evaluate(self: Any, model: Any, x_t: Any, t: Any, cond: Any = None, **kwargs: Any) -> Any:
        if active(NAME) is None or not isinstance(t, float):
            return original(self, model, x_t, t, cond, **kwargs)
        times = torch.full((x_t.shape[0],), 1000 * t, dtype=torch.float32, device=x_t.device)
        return model(x_t, times, cond, **kwargs)

    return evaluate


PATCH: Final = Patch(
    NAME,
    is_exact=True,
    sources={_EMBEDDING: "9e0b7816c3b2abe9", _EVALUATION: "9a8f876f0b7bad93"},
    replacements={_EMBEDDING: _replace_embedding, _EVALUATION: _replace_evaluation},
)
