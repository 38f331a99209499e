"""Each stand-in against an independent reference."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from trellis2_server.engines import portable  # noqa: E402
from trellis2_server.engines.portable import (  # noqa: E402
    attention,
    convolution,
    dualgrid,
    holes,
    lookup,
    sampling,
)

if TYPE_CHECKING:
    from pathlib import Path

Tensor = Any
CONV = convolution.sparse_submanifold_conv3d


def voxels(size: int, share: float, *, batch: int = 1, seed: int = 0) -> Tensor:
    """Random voxels, shuffled within a batch, int32 [N, 4]."""
    made = torch.Generator().manual_seed(seed)
    full = torch.cartesian_prod(torch.arange(batch), *[torch.arange(size)] * 3).int()
    kept = full[torch.rand(len(full), generator=made) < share]
    kept = kept[torch.randperm(len(kept), generator=made)]
    return kept[torch.sort(kept[:, 0], stable=True).indices]


def dense_convolution(  # noqa: PLR0913, PLR0917 - a convolution has that many
    coords: Tensor,
    feats: Tensor,
    weight: Tensor,
    bias: Tensor,
    dilation: tuple[int, ...],
    size: int,
) -> Tensor:
    """The same through `conv3d` on a full grid in float64."""
    grid = torch.zeros(
        int(coords[:, 0].max()) + 1, feats.shape[1], *[size] * 3, dtype=torch.float64
    )
    b, x, y, z = coords.long().unbind(1)
    grid[b, :, x, y, z] = feats.double()
    kernel = weight.double().permute(0, 4, 1, 2, 3)
    padding = [k // 2 * d for k, d in zip(weight.shape[1:4], dilation, strict=True)]
    out = torch.nn.functional.conv3d(
        grid, kernel, bias.double(), padding=padding, dilation=tuple(dilation)
    )
    return out[b, :, x, y, z]


@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 1, 1), (5, 3, 1)])
@pytest.mark.parametrize("dilation", [(1, 1, 1), (2, 1, 3)])
def test_the_convolution_equals_a_dense_one_on_the_voxels(
    kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    coords = voxels(10, 0.3, batch=2)
    feats = torch.randn(len(coords), 16)
    weight, bias = torch.randn(8, *kernel, 16), torch.randn(8)
    out, _ = CONV(feats, coords, (), weight, bias, None, dilation)
    expected = dense_convolution(coords, feats, weight, bias, dilation, 10)
    assert (out - expected).abs().max() < 5e-5
    assert (out - expected).norm() / expected.norm() < 1e-6


def test_the_convolution_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    coords = voxels(12, 0.4)
    feats, weight = torch.randn(len(coords), 4), torch.randn(6, 3, 3, 3, 4)
    whole, _ = CONV(feats, coords, (), weight)
    monkeypatch.setattr(convolution, "CHUNK_BYTES", 27 * 4 * 4 * 50)
    parts, _ = CONV(feats, coords, (), weight)
    assert torch.allclose(whole, parts, atol=1e-5)


def test_the_neighbor_map_is_made_once_and_handed_back() -> None:
    coords = voxels(8, 0.5)
    feats, weight = torch.randn(len(coords), 4), torch.randn(4, 3, 3, 3, 4)
    first, neighbors = CONV(feats, coords, (), weight)
    second, same = CONV(feats, coords[:0], (), weight, None, neighbors)
    assert same is neighbors
    assert torch.equal(first, second)


def test_long_sums_of_half_precision_are_whole_and_the_process_setting_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matmul, linear, seen = torch.backends.cuda.matmul, torch.nn.functional.linear, list[bool]()

    def noted(*args: Tensor) -> Tensor:
        seen.append(matmul.allow_fp16_reduced_precision_reduction)
        return linear(*args)

    before = matmul.allow_fp16_reduced_precision_reduction
    monkeypatch.setattr(torch.nn.functional, "linear", noted)
    coords = voxels(6, 0.5)
    CONV(torch.randn(len(coords), 2), coords, (), torch.randn(2, 3, 3, 3, 2))
    assert seen == [False]
    assert matmul.allow_fp16_reduced_precision_reduction == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_convolution_keeps_half_precision(dtype: Any) -> None:
    torch.manual_seed(3)
    coords = voxels(8, 0.5)
    feats = torch.randn(len(coords), 32).to(dtype)
    weight, bias = (torch.randn(16, 3, 3, 3, 32) / 30).to(dtype), torch.randn(16).to(dtype)
    out, _ = CONV(feats, coords, (), weight, bias)
    expected = dense_convolution(coords, feats, weight, bias, (1, 1, 1), 8)
    assert out.dtype == dtype
    assert (out - expected).norm() / expected.norm() < {torch.float16: 1e-3}.get(dtype, 8e-3)


def test_an_even_kernel_is_refused() -> None:
    coords = voxels(4, 0.5)
    with pytest.raises(NotImplementedError, match="odd kernel"):
        CONV(torch.randn(len(coords), 2), coords, (), torch.randn(2, 2, 2, 2, 2))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[Tq, H, D] in float64, written out."""
    q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
    return (weights @ v).transpose(0, 1)


def starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths"),
    [([50], [70]), ([20, 20, 20], [7, 7, 7]), ([3, 40, 1], [50, 2, 9]), ([5, 4], [0, 6])],
)
def test_attention_equals_a_softmax_for_each_sequence(
    q_lengths: list[int], k_lengths: list[int]
) -> None:
    torch.manual_seed(4)
    q = torch.randn(sum(q_lengths), 3, 16)
    kv = torch.randn(sum(k_lengths), 2, 3, 16)
    out = attention.flash_attn_varlen_kvpacked_func(
        q, kv, starts(q_lengths), starts(k_lengths), max(q_lengths), max(k_lengths)
    )
    k, v = kv.unbind(1)
    for i, (a, b) in enumerate(zip(q_lengths, k_lengths, strict=True)):
        rows = slice(starts(q_lengths)[i], starts(q_lengths)[i] + a)
        keys = slice(starts(k_lengths)[i], starts(k_lengths)[i] + b)
        expected = softmax_attention(q[rows], k[keys], v[keys]) if b else torch.zeros(a, 3, 16)
        assert (out[rows] - expected).abs().max() < 1e-6


def test_packed_self_attention_equals_the_unpacked_one() -> None:
    torch.manual_seed(5)
    qkv = torch.randn(60, 3, 2, 8)
    bounds = starts([25, 35])
    out = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, 35)
    for rows in (slice(0, 25), slice(25, 60)):
        assert (out[rows] - softmax_attention(*qkv[rows].unbind(1))).abs().max() < 1e-6


@pytest.mark.parametrize("lengths", [[60], [20, 40]])
def test_attention_is_the_same_in_portions(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(5)
    qkv, bounds = torch.randn(60, 3, 2, 8), starts(lengths)
    whole = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
    sizes: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(q: Tensor, *args: Tensor, **more: Tensor) -> Tensor:
        sizes.append(q.shape[2])
        return attend(q, *args, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    monkeypatch.setattr(attention, "_keeps_no_scores", lambda *_: False)
    monkeypatch.setattr(attention, "SCORE_BYTES", 4 * len(lengths) * 2 * max(lengths) * 7)
    parts = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
    assert (whole - parts).abs().max() < 1e-6
    assert max(sizes) == 7
    assert sum(sizes) == max(lengths)


def test_pytorch_is_asked_for_its_kernels_in_words_that_it_knows() -> None:
    q = torch.randn(1, 2, 8, 16)
    cuda = torch.backends.cuda
    asked = cuda.SDPAParams(q, q, q, None, 0.0, False, False)  # noqa: FBT003 - PyTorch's
    assert cuda.can_use_flash_attention(asked) in {True, False}
    assert cuda.can_use_efficient_attention(asked) in {True, False}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_and_sampling_keep_half_precision(dtype: Any) -> None:
    torch.manual_seed(5)
    qkv = torch.randn(60, 3, 2, 8).to(dtype)
    for lengths in ([60], [25, 35]):
        bounds = starts(lengths)
        out = attention.flash_attn_varlen_qkvpacked_func(qkv, bounds, max(lengths))
        expected = torch.cat(
            [softmax_attention(*qkv[a:b].unbind(1)) for a, b in itertools.pairwise(bounds.tolist())]
        )
        assert out.dtype == dtype
        assert (out - expected).norm() / expected.norm() < 8e-3
    coords = voxels(5, 2.0)
    feats = torch.randn(len(coords), 6).to(dtype)
    points = torch.rand(1, 50, 3) * 4 + 0.5
    out = sampling.grid_sample_3d(feats, coords, (), points)
    expected = sampling.grid_sample_3d(feats.float(), coords, (), points)
    assert out.dtype == dtype
    assert (out - expected).norm() / expected.norm() < 8e-3


def test_what_is_looked_up_on_the_cpu_for_apples_devices_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(5)
    coords = voxels(6, 0.5)
    feats, weight = torch.randn(len(coords), 4), torch.randn(4, 3, 3, 3, 4)
    points, flags = torch.rand(1, 50, 3) * 6, torch.rand(len(coords), 3) > 0.5
    box = [[0.0] * 3, [1.0] * 3]

    def all_of_it() -> list[Tensor]:
        return [
            CONV(feats, coords, (), weight)[0],
            sampling.grid_sample_3d(feats, coords, (), points),
            *dualgrid.flexible_dual_grid_to_mesh(
                coords[:, 1:], feats[:, :3], flags, None, aabb=box, grid_size=6
            ),
        ]

    expected = all_of_it()
    monkeypatch.setattr(lookup, "SORTED_ON_CPU", frozenset({"cpu"}))
    assert all(torch.equal(a, b) for a, b in zip(expected, all_of_it(), strict=True))


def test_attention_refuses_what_it_does_not_have() -> None:
    qkv = torch.randn(4, 3, 1, 8)
    with pytest.raises(NotImplementedError, match="causal"):
        attention.flash_attn_varlen_qkvpacked_func(qkv, starts([4]), 4, causal=True)


def test_sampling_a_full_grid_equals_pytorchs_grid_sample() -> None:
    torch.manual_seed(6)
    size = 9
    coords = voxels(size, 2.0)
    feats = torch.randn(len(coords), 6)
    points = torch.rand(1, 500, 3) * (size - 1) + 0.5
    grid = torch.zeros(1, 6, size, size, size)
    _, x, y, z = coords.long().unbind(1)
    grid[0, :, z, y, x] = feats.t()
    where = (points / size * 2 - 1).view(1, 1, 1, -1, 3)
    expected = torch.nn.functional.grid_sample(grid, where, align_corners=False)[0, :, 0, 0].t()
    out = sampling.grid_sample_3d(feats, coords, (), points)
    assert (out[0] - expected).abs().max() < 5e-6


def test_sampling_drops_absent_corners_and_renormalises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CHUNK_POINTS", 2)
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.int32)
    feats = torch.tensor([[1.0], [3.0], [7.0]])
    points = torch.tensor(
        [[[0.75, 0.5, 0.5], [1.4, 0.1, 0.2], [40.0, 40.0, 40.0]], [[0.6, 0.4, 0.3]] * 3]
    )
    out = sampling.grid_sample_3d(feats, coords, (), points)
    assert out[:, :, 0].tolist() == [pytest.approx([1.5, 2.8, 0.0]), pytest.approx([7.0] * 3)]


def test_nearest_sampling_takes_the_voxel_around_the_point() -> None:
    coords = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
    points = torch.tensor([[[0.9, 0.1, 0.1], [1.1, 0.9, 0.9], [-0.1, 0.5, 0.5]]])
    out = sampling.grid_sample_3d(torch.tensor([[1.0], [3.0]]), coords, (), points, "nearest")
    assert out[0, :, 0].tolist() == [1.0, 3.0, 0.0]


AROUND = {
    0: ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0)),
    1: ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)),
    2: ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)),
}


def slow_faces(coords: Tensor, flags: Tensor, weights: Tensor) -> list[list[int]]:
    """The definition, one edge at a time."""
    row_of = {tuple(c): i for i, c in enumerate(coords.tolist())}
    faces = []
    for row, (x, y, z) in enumerate(coords.tolist()):
        for axis in range(3):
            quad = [row_of.get((x + i, y + j, z + k)) for i, j, k in AROUND[axis]]
            if not flags[row, axis] or None in quad:
                continue
            a, b, c, d = quad
            if weights[a] * weights[c] > weights[b] * weights[d]:
                faces += [[a, b, c], [a, c, d]]
            else:
                faces += [[a, b, d], [d, b, c]]
    return faces


@pytest.mark.parametrize("chunk", [2**22, 100])
def test_the_dual_grid_makes_the_faces_of_its_definition_in_order(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dualgrid, "CHUNK_EDGES", chunk)
    torch.manual_seed(7)
    coords = voxels(9, 0.6)[:, 1:]
    count = len(coords)
    flags, weights = torch.rand(count, 3) > 0.5, torch.rand(count, 1) + 0.1
    dual = torch.rand(count, 3)
    box = [[-0.5] * 3, [0.5] * 3]
    vertices, faces = dualgrid.flexible_dual_grid_to_mesh(
        coords, dual, flags, weights, aabb=box, grid_size=9
    )
    assert faces.tolist() == slow_faces(coords, flags, weights[:, 0])
    assert torch.allclose(vertices, (coords + dual) / 9 - 0.5, atol=1e-6)


def test_without_weights_a_quad_is_cut_where_it_is_flatter() -> None:
    coords = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0]], dtype=torch.int32)
    dual = torch.full((4, 3), 0.5)
    dual[2, 0] = 0.9  # one corner is lifted: it gets a triangle of its own
    flags = torch.zeros(4, 3, dtype=torch.bool)
    flags[0, 0] = True
    _, faces = dualgrid.flexible_dual_grid_to_mesh(
        coords, dual, flags, None, aabb=[[0.0] * 3, [1.0] * 3], voxel_size=0.5
    )
    assert faces.tolist() == [[0, 1, 3], [3, 1, 2]]


def test_a_grid_without_a_crossed_edge_has_no_faces() -> None:
    coords = voxels(4, 0.5)[:, 1:]
    flags = torch.zeros(len(coords), 3, dtype=torch.bool)
    _, faces = dualgrid.flexible_dual_grid_to_mesh(
        coords, torch.rand(len(coords), 3), flags, None, aabb=[[0.0] * 3, [1.0] * 3], grid_size=4
    )
    assert faces.shape == (0, 3)


def open_box() -> tuple[Tensor, Tensor]:
    """A cube without its top, and a lone triangle far away."""
    vertices = torch.tensor(
        [[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)]
        + [[5.0, 5.0, 5.0], [6.0, 5.0, 5.0], [5.0, 7.0, 5.0]]
    )
    quads = [(0, 2, 6, 4), (0, 4, 5, 1), (2, 3, 7, 6), (0, 1, 3, 2), (4, 6, 7, 5)]
    faces = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return vertices, torch.tensor([*faces, (8, 9, 10)], dtype=torch.int32)


def test_small_boundary_loops_are_closed_with_the_winding_of_their_faces() -> None:
    mesh = holes.CuMesh()
    mesh.init(*open_box())
    assert (mesh.num_boundaries, mesh.num_boundary_loops) == (7, 2)
    mesh.fill_holes(max_hole_perimeter=4.1)
    vertices, faces = mesh.read()
    assert vertices[-1].tolist() == [0.5, 0.5, 1.0]
    assert len(faces) == 11 + 4
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).tolist()
    assert len({tuple(e) for e in directed}) == len(directed)
    assert mesh.num_boundary_loops == 1


def test_a_long_loop_is_one_loop() -> None:
    count = 1001
    angle = torch.arange(count) / count * 6.2831853
    ring = torch.stack([angle.cos(), angle.sin(), torch.zeros(count)], dim=1)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    vertices = torch.cat([ring[order], torch.tensor([[0.0, 0.0, 1.0]])])
    place = torch.argsort(order)
    faces = torch.stack([place, place.roll(-1), torch.full((count,), count)], dim=1)
    mesh = holes.CuMesh()
    mesh.init(vertices, faces)
    assert mesh.num_boundary_loops == 1
    mesh.fill_holes(10.0)
    assert mesh.num_boundaries == 0


def test_simplify_reaches_its_target_and_remove_faces_drops_stray_vertices() -> None:
    angle = torch.linspace(0, 6.28, 60)
    grid = torch.cartesian_prod(angle.cos(), torch.linspace(0, 1, 60))
    vertices = torch.cat([grid, grid[:, :1] * grid[:, 1:]], dim=1)
    i = torch.cartesian_prod(torch.arange(59), torch.arange(59)) @ torch.tensor([60, 1])
    faces = torch.cat([torch.stack([i, i + 1, i + 60], 1), torch.stack([i + 1, i + 61, i + 60], 1)])
    mesh = holes.CuMesh()
    mesh.init(vertices, faces)
    mesh.simplify(500)
    assert 50 < mesh.num_faces <= 500
    mask = torch.ones(mesh.num_faces, dtype=torch.bool)
    mask[0] = False
    mesh.remove_faces(mask)
    assert (mesh.num_vertices, mesh.num_faces) == (3, 1)


RUN = [sys.executable, "-W", "error", "-c"]


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, trellis2_server.engines.portable; assert 'torch' not in sys.modules"
    subprocess.run([*RUN, code], check=True)


def test_stand_ins_are_found_by_import_and_by_find_spec() -> None:
    code = """
import importlib.util
from trellis2_server.engines import portable
found = {e.name: e.kind for e in portable.install("cpu")}
assert found == {n: "standin" for n in portable.EXTENSIONS}, found
assert portable.install("cpu") == portable.inspect("cpu")
import flash_attn, flex_gemm, cumesh
from flex_gemm.ops.spconv import sparse_submanifold_conv3d
from flex_gemm.ops.grid_sample import grid_sample_3d
from o_voxel.convert import flexible_dual_grid_to_mesh
assert importlib.util.find_spec("flash_attn") is flash_attn.__spec__
assert flex_gemm.ops.spconv.sparse_submanifold_conv3d is sparse_submanifold_conv3d
assert portable.is_standin("cumesh")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_broken_extension_is_named_with_its_cause(tmp_path: Path) -> None:
    broken = tmp_path / "flash_attn"
    broken.mkdir()
    (broken / "__init__.py").write_text("from flash_attn import _C\n")
    (tmp_path / "cumesh.py").write_text("CuMesh = 1\n")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines import portable
found = {{e.name: e for e in portable.install("cuda")}}
assert found["flash_attn"].kind == "broken" and "_C" in found["flash_attn"].why, found
assert found["cumesh"].kind == "real"
import flash_attn, cumesh
assert portable.is_standin("flash_attn") and cumesh.CuMesh == 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", portable.EXTENSIONS)
def test_each_stand_in_steps_aside_for_an_installed_package(tmp_path: Path, name: str) -> None:
    for path in portable._SURFACES[name]:
        folder = tmp_path.joinpath(*path.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("MARK = 'real'\n")
    last = list(portable._SURFACES[name])[-1]
    code = f"""
import importlib, sys; sys.path.insert(0, {str(tmp_path)!r})
from trellis2_server.engines import portable
found = {{e.name: e.kind for e in portable.install("cuda")}}
assert found.pop({name!r}) == "real"
assert set(found.values()) == {{"standin"}}, found
assert importlib.import_module({last!r}).MARK == "real"
assert not portable.is_standin({name!r})
"""
    subprocess.run([sys.executable, "-B", "-c", code], check=True)


def test_what_is_installed_stays_unless_it_cannot_run_on_the_device() -> None:
    assert {e.kind for e in portable.inspect("cpu", {"flash_attn": "xformers"})} == {
        "real",
        "standin",
    }
