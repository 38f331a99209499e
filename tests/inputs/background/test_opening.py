from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.model_files import FileProblem
from trellis2_server.inputs.background.opening import open_model

if TYPE_CHECKING:
    from collections.abc import Callable

MISSING = FileProblem("a.onnx", "missing", can_be_fetched=True)
DAMAGED = FileProblem("a.onnx", "damaged", can_be_fetched=True)
UNCHECKED = FileProblem("a.onnx", "damaged", can_be_fetched=False)


def opened(*loaded: str | FileProblem, offline: bool = False) -> tuple[str, list[object]]:
    """Open a model that loads with these results, one after the other; return it, and the calls."""
    calls: list[object] = []
    results = iter(loaded)

    def load(name: str) -> str | FileProblem:
        calls.append(name)
        return next(results)

    def fetch(name: str, *, reload: bool) -> None:
        calls.append((name, reload))

    return open_model("model", load, fetch, offline=offline), calls


@pytest.mark.parametrize("offline", [True, False])
def test_a_model_that_loads_is_not_fetched(*, offline: bool) -> None:
    assert opened("session", offline=offline) == ("session", ["model"])


@pytest.mark.parametrize(("problem", "reload"), [(MISSING, False), (DAMAGED, True)])
def test_missing_and_damaged_files_are_fetched_once(problem: FileProblem, *, reload: bool) -> None:
    expected = "session", ["model", ("model", reload), "model"]
    assert opened(problem, "session") == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: opened(MISSING, offline=True), "is not on this machine, which is offline$"),
        (lambda: opened(DAMAGED, offline=True), "is damaged, and this machine is offline$"),
        (lambda: opened(UNCHECKED), "not fetched again because MODEL_CHECKSUM_DISABLED is set$"),
        (lambda: opened(MISSING, MISSING), "model is not on this machine$"),
        (lambda: opened(DAMAGED, DAMAGED), "a.onnx .* is damaged again after it was fetched$"),
    ],
)
def test_what_stays_wrong_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        call()


def test_a_damaged_file_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    opened(MISSING, "session")
    assert not caplog.records
    opened(DAMAGED, "session")
    (record,) = caplog.records
    assert (record.__dict__["model"], record.__dict__["file"]) == ("model", "a.onnx")
