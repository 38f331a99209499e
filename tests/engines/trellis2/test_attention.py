from __future__ import annotations

import importlib
import importlib.machinery
import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import needs_checkout
from trellis2_server.engines.trellis2 import attention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trellis2_server.engines.portable.attention_kernels import Setting
    from trellis2_server.engines.trellis2 import Trellis2Engine

NAMES = ("flash_attn_varlen_func", "flash_attn_varlen_kvpacked_func")


class Package:
    """TRELLIS.2's modules and flash_attn, as far as attention is concerned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dense: str, sparse: str) -> None:
        def add(name: str, **attributes: Any) -> Any:
            module: Any = ModuleType(name)
            module.__dict__.update(attributes)
            module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
            module.__path__ = []
            monkeypatch.setitem(sys.modules, name, module)
            return module

        def scaled_dot_product_attention() -> None: ...

        self.own = scaled_dot_product_attention
        for name in ("trellis2", "trellis2.modules", "trellis2.modules.attention"):
            add(name)
        own = {self.own.__name__: self.own}
        add("trellis2.modules.attention.config", BACKEND=dense)
        add("trellis2.modules.attention.full_attn", **own)
        self.caller = add("trellis2.modules.attention.modules", **own)
        add("trellis2.modules.sparse.config", ATTN=sparse)
        self.flash_attn = add("flash_attn", **{name: object() for name in NAMES})
        self.originals = [getattr(self.flash_attn, name) for name in NAMES]

    def dense(self) -> Any:
        return self.caller.scaled_dot_product_attention

    def sparse(self) -> list[Any]:
        return [getattr(self.flash_attn, name) for name in NAMES]


@pytest.fixture(autouse=True)
def restored(torch: Any) -> Iterator[None]:
    """Leave the kernels as they were."""
    kernels: Any = importlib.import_module("trellis2_server.engines.portable.attention_kernels")
    selector, is_enabled = kernels.selector, torch.backends.cuda.cudnn_sdp_enabled()
    yield
    kernels.selector = selector
    kernels.enable(cudnn=is_enabled)


@pytest.fixture
def ours() -> Any:
    return importlib.import_module("trellis2_server.engines.portable.attention")


def test_dense_attention_is_replaced_where_it_is_pytorchs(
    monkeypatch: pytest.MonkeyPatch, ours: Any
) -> None:
    package = Package(monkeypatch, dense="sdpa", sparse="flash_attn")
    for _ in range(2):
        attention.install("auto")
        assert package.dense() is ours.dense_attention


def test_an_installed_flash_attn_is_kept_unless_a_kernel_is_named(
    monkeypatch: pytest.MonkeyPatch, ours: Any, caplog: pytest.LogCaptureFixture
) -> None:
    package = Package(monkeypatch, dense="flash_attn", sparse="flash_attn")
    attention.install("auto")
    assert package.dense() is package.own
    assert package.sparse() == package.originals
    for _ in range(2):
        attention.install("cudnn")
        assert package.dense() is ours.dense_attention
        assert package.sparse() == [getattr(ours, name) for name in NAMES]
    attention.install("auto")
    assert package.dense() is package.own
    assert package.sparse() == package.originals
    assert not caplog.records


@pytest.mark.parametrize("backend", ["xformers", "flash_attn_3"])
def test_another_backend_is_left_alone_with_a_warning(
    backend: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    package = Package(monkeypatch, dense=backend, sparse=backend)
    settings: list[tuple[Setting, int]] = [("auto", 0), ("flash", 2)]
    for setting, warnings in settings:
        caplog.clear()
        attention.install(setting)
        assert package.dense() is package.own
        assert package.sparse() == package.originals
        assert [r.levelno for r in caplog.records] == [logging.WARNING] * warnings


def test_a_changed_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package(monkeypatch, dense="sdpa", sparse="flash_attn")
    package.caller.scaled_dot_product_attention = changed = object()
    attention.install("auto")
    assert package.dense() is changed


@needs_checkout
def test_the_dense_attention_of_the_checkout_keeps_its_bits(
    loaded: Trellis2Engine, torch: Any, ours: Any
) -> None:
    del loaded  # imported with `auto`, without flash_attn
    own, caller = (
        importlib.import_module(f"trellis2.modules.attention.{m}") for m in ("full_attn", "modules")
    )
    assert caller.scaled_dot_product_attention is ours.dense_attention
    torch.manual_seed(3)
    for dtype in (torch.float32, torch.bfloat16):
        qkv = torch.randn(2, 50, 3, 4, 16, dtype=dtype)
        kv = torch.randn(2, 70, 2, 4, 16, dtype=dtype)
        q = qkv[:, :, 0]
        for given in ([qkv], [q, kv], [q, *kv.unbind(2)]):
            expected = own.scaled_dot_product_attention(*given)
            assert torch.equal(caller.scaled_dot_product_attention(*given), expected)


@needs_checkout
def test_the_models_of_the_checkout_call_the_replaced_function(
    loaded: Trellis2Engine, torch: Any, ours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del loaded
    caller = importlib.import_module("trellis2.modules.attention.modules")
    lengths: list[tuple[int, int]] = []

    def noted(q: Any, k: Any, v: Any, scale: float | None = None) -> Any:
        lengths.append((q.shape[1], k.shape[1]))
        return attend(q, k, v, scale)

    attend = ours.attend
    monkeypatch.setattr(ours, "attend", noted)
    layer = caller.MultiHeadAttention(32, 2, qk_rms_norm=True)
    cross = caller.MultiHeadAttention(32, 2, ctx_channels=8, type="cross")
    with torch.inference_mode():
        cross(layer(torch.randn(1, 20, 32)), torch.randn(1, 7, 8))
    assert lengths == [(20, 20), (20, 7)]
