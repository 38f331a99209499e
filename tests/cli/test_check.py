"""What `--check` says of parts that take long to look at: stand-ins look at nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import settings
from trellis2_server import logs, pipeline
from trellis2_server.cli import check as module
from trellis2_server.decoders.confinement import PROPERTIES
from trellis2_server.engines import trellis2
from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.fetcher import ModelFetcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trellis2_server.settings import Settings


class Decoders:
    """Decoders that are confined in these ways."""

    def __init__(self, *held: str) -> None:
        self.held = held
        self.is_closed = False

    def confinement(self) -> Sequence[str]:
        return self.held

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("count", [0, 1, len(PROPERTIES) - 1, len(PROPERTIES)])
def test_what_confines_decoders_is_listed_and_what_does_not_too(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    held = tuple(PROPERTIES)[:count]
    decoders = Decoders(*held)
    monkeypatch.setattr(pipeline, "make_decoders", lambda _: decoders)
    said = module._decoders(settings())
    lacking = ", ".join(tuple(PROPERTIES)[count:])
    assert said == ", ".join(held) + (f"; not: {lacking}" if lacking else "")
    assert decoders.is_closed


@pytest.mark.parametrize(
    ("model", "problem", "end"),
    [
        ({"background": "grabcut"}, None, "grabcut"),
        ({}, None, "auto, model m, which is on this machine"),
        ({"background": "rembg"}, None, "rembg, model m, which is on this machine"),
        ({}, "missing", "file is missing; the server fetches it when it starts"),
        ({"background_prefetch": False}, "missing", "file is missing; the first photo fetches it"),
        ({"offline": True}, "damaged", "file is damaged; model.offline forbids fetching it"),
        ({}, EngineError("no rembg"), "auto, model m: no rembg"),
    ],
    ids=range(7),
)
def test_the_background_model_is_there_or_will_be_fetched(
    monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], problem: Any, end: str
) -> None:
    asked: list[str] = []

    def inspect(_: ModelFetcher, name: str) -> Any:
        asked.append(name)
        if isinstance(problem, Exception):
            raise problem
        return problem and SimpleNamespace(state=problem)

    monkeypatch.setattr(ModelFetcher, "inspect", inspect)
    configured = settings(model={"background": "auto", "background_model": "m", **model})
    assert module._background(configured.model).endswith(end)
    assert asked == ([] if end == "grabcut" else ["m"])


def checked(
    monkeypatch: pytest.MonkeyPatch, engine: str, levels: Sequence[str]
) -> tuple[int, list[Any]]:
    """The exit code where inspecting TRELLIS.2 finds this, and how it was inspected."""
    asked: list[Any] = []

    def inspect(model: Any, **named: Any) -> list[Any]:
        asked.append((model.engine, named))
        return [SimpleNamespace(level=level, what="packages", text="found") for level in levels]

    def choose(configured: Settings) -> tuple[Any, tuple[str, ...]]:
        return SimpleNamespace(name=configured.model.engine), ("look out",)

    monkeypatch.setattr(trellis2, "inspect_trellis2", inspect)
    monkeypatch.setattr(pipeline, "choose_engine", choose)
    monkeypatch.setattr(pipeline, "make_decoders", lambda _: Decoders())
    monkeypatch.setattr(logs, "configure", lambda _: None)
    configured = settings(model={"engine": engine, "background": "none", "offline": True})
    return module.check(configured, None), asked


@pytest.mark.parametrize(
    "case",
    [
        ("preview", (), 0, None),
        ("auto", ("error", "error"), 0, "will not start: 2 error(s) above"),
        ("trellis2", ("ok", "error"), 1, "will not start: 1 error(s) above"),
        ("trellis2", ("ok", "warning"), 0, "can be started"),
    ],
    ids=["preview", "auto", "cannot", "can"],
)
def test_the_exit_code_is_1_only_if_what_is_configured_cannot_start(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, case: tuple[str, tuple[str, ...], int, str | None]
) -> None:
    engine, levels, code, verdict = case
    found, asked = checked(monkeypatch, engine, levels)
    said = capsys.readouterr().out
    assert found == code
    assert "look out" in said
    if verdict is None:
        assert asked == []
        assert "TRELLIS.2 " not in said
    else:
        named = {"pipeline_type": settings().generation.pipeline_type, "exports": False,
                 "ask_network": False}  # fmt: skip
        assert asked == [(engine, named)]
        assert f"TRELLIS.2 {verdict}" in said
        assert said.count("packages     found") == len(levels)


def test_the_versions_of_packages_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    checked(monkeypatch, "preview", ())
    said = capsys.readouterr().out
    assert f"numpy            {module._version('numpy')}\n" in said
    assert module._version("no-such-package") == "not installed"
