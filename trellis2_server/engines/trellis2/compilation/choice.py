"""`Compilation`: what `model.compile` asks for, applied to a loaded pipeline.

Does not know: how a graph or a block is made.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2.compilation.cuda_graphs import CudaGraphs
from trellis2_server.engines.trellis2.compilation.graphs import StageGraphs

if TYPE_CHECKING:
    from trellis2_server.settings import ModelSettings

logger = logging.getLogger(__name__)

#: Part of the names of the models that samplers evaluate.
_FLOW: Final = "flow_model"
_WITH_BLOCKS: Final = ("blocks", "both")
_WITH_GRAPHS: Final = ("graphs", "both")


def compile_models(
    torch: Any, settings: ModelSettings, pipeline: Any, samplers: tuple[str, ...]
) -> Compilation:
    """Apply `settings.compile` to a loaded pipeline; see `Compilation`."""
    made = Compilation(torch, settings)
    made.install(pipeline, samplers)
    return made


class Compilation:
    """Compilation of one loaded pipeline's flow models.

    Args:
        torch: PyTorch.
        settings: `compile` and `device`.
    """

    def __init__(self, torch: Any, settings: ModelSettings) -> None:
        self._torch = torch
        self._mode = _chosen(settings)
        self._device = settings.device
        self._why_not: str | None = None
        self._graphs: StageGraphs | None = None
        self._blocks: Any = None

    def install(self, pipeline: Any, samplers: tuple[str, ...]) -> None:
        """Apply the setting to a pipeline; warn once if that is not possible.

        Args:
            pipeline: TRELLIS.2's, loaded.
            samplers: attributes of the pipeline, built by `samplers.build_sampler`.
        """
        if self._mode in _WITH_GRAPHS:
            if self._device.startswith("cuda"):
                self._graphs = StageGraphs(self._torch, CudaGraphs(self._torch, self._device))
            else:
                self._why_not = f"{self._device} has no CUDA graphs"
                logger.warning("model.compile: graphs: not used: %s", self._why_not)
        if self._mode in _WITH_BLOCKS:
            models = [model for name, model in pipeline.models.items() if _FLOW in name]
            self._blocks = _import("blocks").FusedBlocks()
            self._blocks.install(models, self._device)
        for name in samplers:
            getattr(pipeline, name).graphs = self._graphs

    def describe(self) -> dict[str, object]:
        """`compile`: the mode in use; `compile_failed`: what is not compiled, and why."""
        has_blocks = self._blocks is not None and self._blocks.failed is None
        in_use = {
            (False, False): "none",
            (True, False): "blocks",
            (False, True): "graphs",
            (True, True): "both",
        }[has_blocks, self._graphs is not None]
        failed = [
            self._why_not,
            self._blocks and self._blocks.failed,
            *(
                f"{name}: {why}"
                for name, why in (self._graphs.failed if self._graphs else {}).items()
            ),
        ]
        why = "; ".join(filter(None, failed))
        return {"compile": in_use, **({"compile_failed": why} if why else {})}


def _chosen(settings: ModelSettings) -> str:
    """`settings.compile`, with `auto` decided by the device: docs/gpu.md has the figures."""
    if settings.compile != "auto":
        return settings.compile
    return "both" if settings.device.startswith("cuda") else "none"


def _import(name: str) -> Any:
    """Import a module of this package that imports torch."""
    return importlib.import_module(f"trellis2_server.engines.trellis2.compilation.{name}")
