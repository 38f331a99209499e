"""How patches are applied, to a package that stands for TRELLIS.2."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.trellis2_engine import HOME, STANDIN, settings
from trellis2_server.engines.trellis2 import patches
from trellis2_server.engines.trellis2.patches.patch import Patch, replace
from trellis2_server.engines.trellis2.patches.scope import active
from trellis2_server.engines.trellis2.patches.sources import digest
from trellis2_server.engines.trellis2.upstream import import_upstream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def double(value: int) -> int:
    return 2 * value


class Counter:
    """Has the kinds of functions that are replaced."""

    def count(self, value: int) -> int:
        return value + 1

    @staticmethod
    def start() -> int:
        return 10


def times_three(original: Any) -> Callable[[int], int]:
    def triple(value: int) -> int:
        return 3 * value if active("three") else original(value)

    return triple


def minus_one(original: Any) -> Callable[..., int]:
    def less(*args: Any) -> int:
        return original(*args) - 1

    return less


FUNCTION = "trellis2.fake:double"
METHOD = "trellis2.fake:Counter.count"
STATIC = "trellis2.fake:Counter.start"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, packages: None) -> Any:
    """A module of the package, and another that imported its function."""
    del packages
    module: Any = ModuleType("trellis2.fake")
    module.double, module.Counter = double, Counter
    other: Any = ModuleType("trellis2.fake_user")
    other.twice = double
    monkeypatch.setitem(sys.modules, "trellis2.fake", module)
    monkeypatch.setitem(sys.modules, "trellis2.fake_user", other)
    return module


@pytest.fixture
def installer(fake: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`install` with patches of the module, of which one is not exact."""
    del fake
    known = {FUNCTION: digest(double), METHOD: digest(Counter.count)}
    monkeypatch.setattr(
        patches,
        "PATCHES",
        (
            Patch("three", True, {FUNCTION: known[FUNCTION]}, {FUNCTION: times_three}),  # noqa: FBT003
            Patch("less", False, {METHOD: known[METHOD]}, {METHOD: minus_one}),  # noqa: FBT003
        ),
    )
    monkeypatch.setattr(patches, "_installed", {})
    monkeypatch.setattr(patches, "_logged", set())
    yield
    patches.remove()


@pytest.mark.usefixtures("installer")
def test_the_setting_chooses_the_patches(fake: Any) -> None:
    assert patches.install(choice=False) == ()
    assert fake.double is double
    assert patches.install(choice="exact") == ("three",)
    assert fake.double is not double
    assert Counter().count(1) == 2
    assert patches.install(choice=True) == ("three", "less")
    assert Counter().count(1) == 1


@pytest.mark.usefixtures("installer")
def test_every_name_of_a_function_is_replaced_and_restored(fake: Any) -> None:
    user = sys.modules["trellis2.fake_user"]
    patches.install(choice=True)
    assert user.twice is fake.double is not double
    assert user.twice.__name__ == "double"
    patches.remove()
    assert user.twice is fake.double is double
    assert Counter().count(1) == 2


@pytest.mark.usefixtures("installer")
def test_a_second_call_changes_nothing(fake: Any) -> None:
    assert patches.install(choice=True) == patches.install(choice=True)
    assert Counter().count(1) == 1  # not 0
    first = fake.double
    patches.install(choice="exact")
    assert fake.double is first
    patches.remove()
    patches.remove()
    assert fake.double is double


@pytest.mark.usefixtures("installer")
def test_a_changed_function_is_left_alone_and_the_log_says_so_once(
    fake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def changed(value: int) -> int:
        return value + value

    fake.double = changed
    with caplog.at_level(logging.WARNING):
        assert patches.install(choice=True) == ("less",)
        assert patches.install(choice=True) == ("less",)
    assert fake.double is changed
    (record,) = caplog.records
    said: Any = record
    assert said.patch == "three"
    assert said.function == FUNCTION
    assert digest(changed) in said.why
    assert digest(double) in said.why


@pytest.mark.usefixtures("installer")
def test_a_patch_is_left_alone_if_a_function_that_it_relies_on_is_missing(
    fake: Any, caplog: pytest.LogCaptureFixture
) -> None:
    del fake.Counter
    with caplog.at_level(logging.WARNING):
        assert patches.install(choice=True) == ("three",)
    assert caplog.records[-1].__dict__["why"] == f"{METHOD} does not exist"


def test_a_static_method_stays_one(fake: Any) -> None:
    del fake
    before = vars(Counter)["start"]
    done = replace(STATIC, minus_one)
    assert Counter.start() == Counter().start() == 9
    done.undo()
    assert vars(Counter)["start"] is before


@pytest.mark.skipif(HOME != STANDIN, reason="needs the stand-in for TRELLIS.2")
def test_the_stand_in_for_trellis2_is_not_patched_and_the_log_says_why(
    torch: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    del torch
    monkeypatch.setattr(patches, "_logged", set())
    with caplog.at_level(logging.WARNING):
        upstream = import_upstream(settings("unused", patches=True))
    assert upstream.patches == ()
    skipped = {record.__dict__.get("patch") for record in caplog.records}
    assert skipped >= {patch.name for patch in patches.PATCHES}


def test_without_patches_no_function_is_looked_at(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del torch

    def fail(*_: object) -> Any:
        raise AssertionError

    monkeypatch.setattr(patches.patch, "find", fail)
    assert import_upstream(settings("unused", patches=False)).patches == ()
