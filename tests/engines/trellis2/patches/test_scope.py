from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.trellis2_engine import CancelledError
from trellis2_server.engines.trellis2 import patches
from trellis2_server.engines.trellis2.patches import scope as scope_module
from trellis2_server.engines.trellis2.patches.scope import (
    Condition,
    SamplingScope,
    active,
    sampling,
)


def test_a_patch_is_active_only_in_its_block_and_by_its_name() -> None:
    assert active("a") is None
    with sampling({"a"}) as scope:
        assert active("a") is scope
        assert active("b") is None
        with sampling({"b"}):
            assert active("a") is None
        assert active("a") is scope
    assert active("a") is None


def test_other_threads_are_not_affected() -> None:
    seen: list[object] = []
    with sampling({"a"}):
        thread = threading.Thread(target=lambda: seen.append(active("a")))
        thread.start()
        thread.join()
    assert seen == [None]


def test_a_value_is_made_once_in_a_block() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    for expected in (1, 2):
        with sampling({"a"}) as scope:
            assert scope.keep("x", make) == scope.keep("x", make) == expected


@pytest.mark.parametrize("error", [CancelledError, MemoryError])
def test_nothing_is_kept_after_an_error(error: type[BaseException]) -> None:
    features: Any = object()
    condition = Condition(features)
    opened: list[SamplingScope] = []

    def fail() -> None:
        with sampling({"a"}) as scope:
            opened.append(scope)
            scope.conditions.append(condition)
            condition.kept["block"] = (features,)
            scope.keep("x", lambda: features)
            raise error

    with pytest.raises(error):
        fail()
    (scope,) = opened
    assert active("a") is None
    assert not condition.kept
    assert scope.condition(features) is None
    assert scope.keep("x", lambda: None) is None


def test_code_that_is_compiled_does_not_keep_the_scope_of_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch: Any = pytest.importorskip("torch", reason="needs torch")
    monkeypatch.setattr(scope_module, "_COMPILER", scope_module._Compiler())
    scope_module.use_compiler(torch.compiler.is_compiling)

    def keep(values: Any) -> Any:
        scope = active("a")
        return values * 2 if scope is None else scope.keep("x", lambda: values * 3)

    compiled = torch.compile(keep, backend="eager", fullgraph=True)
    for value in (1.0, 5.0):
        with sampling({"a"}):
            assert compiled(torch.tensor(value)) == 2 * value
            assert keep(torch.tensor(value)) == 3 * value
    torch.compiler.reset()


def test_without_names_nothing_changes() -> None:
    features = {"cond": object()}
    with patches.sampling((), None, features) as shared:
        assert shared is features
        assert active("modulation") is None
