"""Memory that TRELLIS.2's models need besides their weights, by tokens and voxels.

    TRELLIS2_HOME=path/to/TRELLIS.2 python bench/working_memory.py

Models with the real widths and fewer blocks run on the CPU, in the real dtypes, with random
weights and this server's stand-ins. Counted are the bytes of all live tensors, without
workspaces inside of operations. `engines/trellis2/working_memory.py` has the results.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import weakref
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.record import Record, add_option
from tests.gpu.random_pipeline import full_models
from trellis2_server.engines.trellis2 import weights
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.settings import ModelSettings


def live_bytes(torch: Any) -> Any:
    """A context that counts the bytes of the tensors that exist at the same time."""
    mode: Any = importlib.import_module("torch.utils._python_dispatch").TorchDispatchMode
    leaves: Any = importlib.import_module("torch.utils._pytree").tree_leaves

    class LiveBytes(mode):
        """Attributes: now, peak: bytes."""

        def __init__(self) -> None:
            super().__init__()
            self.now = self.peak = 0
            self._known: set[int] = set()

        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in leaves(out):
                if isinstance(tensor, torch.Tensor):
                    self._add(tensor.untyped_storage())
            return out

        def _add(self, storage: Any) -> None:
            key, size = storage.data_ptr(), storage.nbytes()
            if key in self._known:
                return
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, size)

        def _remove(self, key: int, size: int) -> None:
            self._known.discard(key)
            self.now -= size

    return LiveBytes()


def build(up: Any, name: str, **changes: Any) -> Any:
    """A model with the real widths and random weights."""
    kind, args = full_models()[name]
    with weights.no_initial_values(up.torch):
        model = getattr(up.models, kind)(**{**args, **changes})
    for parameter in model.parameters():
        width = parameter[0].numel() if parameter.dim() > 1 else 0
        parameter.data.normal_(std=0.5 / width**0.5 if width else 0.05)
    if name == "shape_slat_decoder":
        for level in model.blocks[:-1]:  # each voxel becomes a sheet of four
            subdivide = level[-1].to_subdiv
            subdivide.weight.data.mul_(0.05)
            subdivide.bias.data.copy_(up.torch.tensor([2.0] * 4 + [-2.0] * 4))
        model.output_layer.bias.data[5] = 1.0
    return model.eval().requires_grad_(requires_grad=False)


def sheet(up: Any, count: int) -> Any:
    """Sparse random features, 32 channels, on a square of about that many voxels."""
    torch, edge = up.torch, int(count**0.5)
    y, z = torch.cartesian_prod(*[torch.arange(edge)] * 2).unbind(1)
    coords = torch.stack([torch.zeros_like(y), torch.full_like(y, 8), y, z], dim=1).int()
    return up.sparse.SparseTensor(feats=torch.randn(len(coords), 32), coords=coords)


def show(record: Record, what: str, count: int, unit: str, size: int) -> None:
    """Print and record a row."""
    figures = {"what": what, "unit": unit, "count": count, "bytes": size}
    record.add("working memory", figures | {"bytes_per_unit": size / count})
    print(f"{what}: {count} {unit}s, {size / 1e6:.1f} MB, {size / count:.0f} B a {unit}")


def measure_sampling(record: Record, up: Any, tokens: tuple[int, ...]) -> None:
    """Measure the peak of one evaluation of a sampling model."""
    torch = up.torch
    model = build(up, "shape_slat_flow_model_1024", num_blocks=2)
    condition = torch.zeros(1, 4101, 1024)
    for count in tokens:
        latent = sheet(up, count)
        with live_bytes(torch) as counted:
            model(latent, torch.tensor([500.0]), condition)
        show(record, "sampling", len(latent.coords), "token", counted.peak)


def measure_decoding(record: Record, up: Any, tokens: tuple[int, ...]) -> None:
    """Measure the peak of both decoders."""
    blocks = {"num_blocks": [1, 1, 1, 1, 0]}
    shape, texture = (
        build(up, name, **blocks) for name in ("shape_slat_decoder", "tex_slat_decoder")
    )
    for count in tokens:
        with live_bytes(up.torch) as counted:
            meshes, guides = shape(sheet(up, count), return_subs=True)
        voxels = len(meshes[0].vertices)
        show(record, "shape decoder", voxels, "voxel", counted.peak)
        with live_bytes(up.torch) as counted:
            texture(sheet(up, count), guide_subs=guides)
        show(record, "texture decoder", voxels, "voxel", counted.peak)


def main() -> None:
    """Print bytes for each token and each voxel, at two sizes each."""
    parser = argparse.ArgumentParser(description="Working memory of models.")
    parser.add_argument("--tokens", type=int, default=1024, help="of the sampling models")
    parser.add_argument("--decoded", type=int, default=64, help="tokens that are decoded")
    add_option(parser)
    arguments = parser.parse_args()
    record = Record(__file__, arguments)
    up = import_upstream(ModelSettings(engine="trellis2", device="cpu"))
    with up.torch.inference_mode():
        measure_sampling(record, up, (arguments.tokens, 4 * arguments.tokens))
        measure_decoding(record, up, (arguments.decoded, 4 * arguments.decoded))


if __name__ == "__main__":
    main()
