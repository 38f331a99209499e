from __future__ import annotations

from typing import Any

import pytest

from tests.support.recorded_graphs import RecordedGraphs
from trellis2_server.engines.trellis2.compilation import graphs
from trellis2_server.engines.trellis2.compilation.graphs import StageGraphs


class Voxels:
    """A sparse tensor."""

    def __init__(self, feats: Any, coords: Any) -> None:
        self.feats, self.coords = feats, coords

    def replace(self, feats: Any) -> Voxels:
        return Voxels(feats, self.coords)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("more", [0, 1])
def test_an_evaluation_of_too_many_tokens_is_not_captured(
    torch: Any, monkeypatch: pytest.MonkeyPatch, kind: str, more: int
) -> None:
    monkeypatch.setattr(graphs, "MAX_TOKENS", 6)
    x: Any = torch.ones(1, 4, 1, 2, 3 + more)
    if kind == "sparse":
        x = Voxels(torch.ones(6 + more, 4), torch.zeros(6 + more, 4))
    backend, condition, t = RecordedGraphs(), torch.zeros(1), torch.zeros(1)

    class Doubled:
        def forward(self, x: Any, t: Any, condition: Any) -> Any:
            del t, condition
            return x.replace(x.feats * 2) if hasattr(x, "feats") else x * 2

        __call__ = forward

    with StageGraphs(torch, backend).stage(Doubled()) as evaluate:
        for _ in range(3):
            evaluate(x, t, condition)
        assert backend.captured == (0 if more else 1)
