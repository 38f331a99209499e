"""`--prefetch` without a download: its lines and exit codes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.server import settings
from trellis2_server.cli import prefetch as module
from trellis2_server.errors import EngineError


def state(done: int, total: int | None, name: str = "m.onnx", kind: str = "fetching") -> Any:
    return SimpleNamespace(state=kind, file_name=name, done_bytes=done, total_bytes=total)


def lines(capsys: pytest.CaptureFixture[str], *states: Any) -> list[str]:
    shown = module._Lines()
    for each in states:
        shown.show(each)
    return capsys.readouterr().out.splitlines()


def test_each_tenth_of_a_file_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    total = 10_000_000
    steps = [state(done, total) for done in range(0, total + 1, total // 100)]
    found = lines(capsys, *steps, state(0, total, kind="checking"))
    assert found[:2] == ["m.onnx  0.0 of 10.0 MB", "m.onnx  1.0 of 10.0 MB"]
    assert len(found) == 11
    assert (
        len(lines(capsys, state(0, total), state(0, total, "other"), state(1, total, "other"))) == 2
    )


def test_each_16_mib_is_a_line_where_the_size_is_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = 16 * 2**20
    found = lines(capsys, *(state(done, None) for done in (0, 1, size - 1, size, 2 * size - 1)))
    assert found == ["m.onnx  0.0 MB", "m.onnx  16.8 MB"]


@pytest.mark.parametrize(
    "case",
    [
        ({}, None, 0, "the background model m is on this machine"),
        ({}, EngineError("no space"), 1, "error: no space"),
        ({"background": "none"}, None, 0, "which needs no model of rembg"),
        ({"background": "none", "background_prefetch": True}, None, 0, "m is on this machine"),
    ],
    ids=range(4),
)
def test_the_exit_code_says_whether_the_model_is_there(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: tuple[dict[str, Any], EngineError | None, int, str],
) -> None:
    model, error, code, says = case
    asked: list[Any] = []

    def fetch(name: str, fetcher: object, *, offline: bool) -> None:
        del fetcher
        asked.append((name, offline))
        if error is not None:
            raise error

    monkeypatch.setattr(module, "fetch_ahead", fetch)
    given = {"background": "auto", "background_model": "m", "offline": True, **model}
    if "background_prefetch" not in given:
        given["background_prefetch"] = None
    assert module.prefetch(settings(model=given).model) == code
    output = capsys.readouterr()
    assert says in (output.err if code else output.out)
    assert asked == ([] if "needs no model" in says else [("m", True)])
