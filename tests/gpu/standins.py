"""Error of each stand-in against float64, on the device."""

from __future__ import annotations

from typing import Any

#: Largest relative error by the end of the stand-in's name: one or two roundings.
LIMITS = {"float32": 2e-5, "bfloat16": 1.6e-2, ".float16": 2e-3, "CPU's": 0.0, "run's": 0.0}
#: Edge of the grid, voxels.
_SIZE = 24


def limit(name: str) -> float:
    """Largest error that is allowed for that name."""
    return next(most for end, most in LIMITS.items() if name.endswith(end))


def check_standins(torch: Any, device: str, channels: int) -> dict[str, float]:
    """Relative error of each stand-in against float64.

    Args:
        torch: PyTorch.
        device: PyTorch's name of the device.
        channels: of the convolution; 1024 give the longest sums in TRELLIS.2.
    """
    double = torch.float64 if device.partition(":")[0] != "mps" else torch.float32
    torch.manual_seed(0)
    grid = torch.cartesian_prod(torch.zeros(1, dtype=torch.long), *[torch.arange(_SIZE)] * 3)
    coords = grid[torch.rand(len(grid)) < 0.3].int().to(device)
    feats = torch.randn(len(coords), channels, device=device)
    weight = torch.randn(channels, 3, 3, 3, channels, device=device) / (9 * channels) ** 0.5
    errors: dict[str, float] = {}
    queries = 3 * channels  # a CPU's float64 takes long
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        errors |= _convolutions(torch, coords, feats.to(dtype), weight.to(dtype), double)
        qkv = torch.randn(queries, 3, 12, 128, device=device, dtype=dtype)
        errors[f"attention {dtype}"] = _attention(torch, qkv, double)
    errors["grid sample torch.float32"] = _grid_sample(torch, grid.int().to(device), double)
    errors["dual grid, faces that differ from the CPU's"] = _dual_grid(torch, coords)
    return errors | _voxels(torch, device)


def _relative(got: Any, expected: Any) -> float:
    """Norm of the difference over the norm."""
    return float((got.double() - expected).norm() / expected.norm())


def _convolutions(
    torch: Any, coords: Any, feats: Any, weight: Any, double: Any
) -> dict[str, float]:
    """By PyTorch, and by the Triton kernel where it is used, which must repeat its bits."""
    from trellis2_server.engines.portable import convolution

    b, x, y, z = coords.long().unbind(1)
    dense = torch.zeros(1, feats.shape[1], _SIZE, _SIZE, _SIZE, dtype=double, device=feats.device)
    dense[b, :, x, y, z] = feats.to(double)
    kernel = weight.to(double).permute(0, 4, 1, 2, 3)
    expected = torch.nn.functional.conv3d(dense, kernel, padding=1)[b, :, x, y, z]
    convolution.select_algorithm("gather")
    got, _ = convolution.sparse_submanifold_conv3d(feats, coords, (), weight)
    errors = {f"convolution, PyTorch, {feats.dtype}": _relative(got, expected)}
    convolution.select_algorithm("auto")
    try:
        if convolution.is_kernel_used_on(feats.device):
            # An error of the kernel must not end in PyTorch's result.
            convolution.select_algorithm("triton")
            got, neighbors = convolution.sparse_submanifold_conv3d(feats, coords, (), weight)
            errors[f"convolution, Triton, {feats.dtype}"] = _relative(got, expected)
            again, _ = convolution.sparse_submanifold_conv3d(
                feats, coords, (), weight, None, neighbors
            )
            name = f"convolution, Triton, {feats.dtype}, numbers that differ from the first run's"
            errors[name] = float((got != again).sum())
    except Exception as error:  # noqa: BLE001 - a compiler can raise anything; the rest goes on
        errors[f"convolution, Triton: {type(error).__name__}, {feats.dtype}"] = float("inf")
    convolution.select_algorithm("auto")
    return errors


def _attention(torch: Any, qkv: Any, double: Any) -> float:
    from trellis2_server.engines.portable import attention

    first = len(qkv) // 3
    bounds = torch.tensor([0, first, len(qkv)], dtype=torch.int32, device=qkv.device)
    got = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, len(qkv) - first)
    parts = []
    for rows in (slice(0, first), slice(first, len(qkv))):
        q, k, v = (t.transpose(0, 1) for t in qkv[rows].to(double).unbind(1))
        parts.append(((q @ k.transpose(1, 2) / 128**0.5).softmax(-1) @ v).transpose(0, 1))
    return _relative(got, torch.cat(parts))


def _grid_sample(torch: Any, full: Any, double: Any) -> float:
    from trellis2_server.engines.portable import sampling

    points = torch.rand(1, 5000, 3, device=full.device) * (_SIZE - 1) + 0.5
    values = torch.randn(len(full), 6, device=full.device)
    volume = torch.zeros(1, 6, _SIZE, _SIZE, _SIZE, dtype=double, device=full.device)
    _, x, y, z = full.long().unbind(1)
    volume[0, :, z, y, x] = values.to(double).t()
    where = (points / _SIZE * 2 - 1).to(double).view(1, 1, 1, -1, 3)
    expected = torch.nn.functional.grid_sample(volume, where, align_corners=False)
    got = sampling.grid_sample_3d(values, full, (), points)[0]
    return _relative(got, expected[0, :, 0, 0].t())


def _dual_grid(torch: Any, coords: Any) -> float:
    """Number of indices that differ between the device and the CPU."""
    from trellis2_server.engines.portable import dualgrid

    flags, split = torch.rand(len(coords), 3) > 0.5, torch.rand(len(coords), 1)
    faces = [
        dualgrid.flexible_dual_grid_to_mesh(
            coords[:, 1:].to(place),
            torch.zeros(len(coords), 3, device=place),
            flags.to(place),
            split.to(place),
            aabb=[[0.0] * 3, [1.0] * 3],
            grid_size=_SIZE,
        )[1].cpu()
        for place in (coords.device, "cpu")
    ]
    return float((faces[0] != faces[1]).sum())


def _voxels(torch: Any, device: str) -> dict[str, float]:
    """Voxels of a mesh computed on the device against the CPU's, and repeated."""
    from trellis2_server.engines.portable import voxelization

    corners = torch.rand(3000, 3) * 0.1 + (torch.rand(1000, 3) * 0.8 - 0.45).repeat_interleave(3, 0)
    faces = torch.arange(3000).view(-1, 3)
    found: list[Any] = []
    for place in ("cpu", device, device):
        voxelization.compute_on(place)
        found.append(
            voxelization.mesh_to_flexible_dual_grid(
                corners, faces, grid_size=64, aabb=[[-0.5] * 3, [0.5] * 3], boundary_weight=0.2
            )
        )
    cpu, first, second = found
    is_same = cpu[0].shape == first[0].shape
    differ = sum(int((a != b).sum()) for a, b in zip(cpu[::2], first[::2], strict=True) if is_same)
    again = sum(int((a != b).sum()) for a, b in zip(first, second, strict=True))
    return {
        "voxelisation, numbers that differ from the CPU's": float(differ if is_same else "inf"),
        "voxelisation, numbers that differ from the first run's": float(again),
        "voxelisation, vertices torch.float32": (
            _relative(first[1], cpu[1].double()) if is_same else float("inf")
        ),
    }
