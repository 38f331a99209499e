"""Waiting until a server is ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.engines import GatedEngine
from tests.support.operations import Performed, json_reply, perform
from tests.support.server import serving, until
from trellis2_server.client import BusyError, Health, Progress, UnreachableError
from trellis2_server.client.protocol import health, retry
from trellis2_server.client.protocol.actions import Call
from trellis2_server.client.protocol.replies import SHUTTING_DOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_a_loading_server_is_awaited(ask: Ask) -> None:
    engine = GatedEngine("load")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").status_code == 503, "listening")
        with pytest.raises(BusyError, match="still loading"):
            ask(server, "wait_until_ready", 0)
        found: list[Progress] = []

        def record(progress: Progress) -> None:
            found.append(progress)
            engine.open_all()

        assert ask(server, "wait_until_ready", on_progress=record).status == "ok"
        assert "loading" in found[0].text


def test_a_server_that_failed_to_load_is_not_awaited(ask: Ask) -> None:
    engine = GatedEngine()
    engine.failures["load"] = RuntimeError("broken")
    with serving(engine) as server:
        until(lambda: server.client.get("/healthcheck").json()["status"] == "error", "failed")
        message = server.client.get("/healthcheck").json()["error"]
        with pytest.raises(BusyError) as caught:
            ask(server, "wait_until_ready")
        assert str(caught.value) == message


# ---- by hand ---------------------------------------------------------------------------------

OK = json_reply(200, '{"status": "ok"}')
LOADING = json_reply(503, '{"status": "loading", "stage": "weights"}')
CLOSING = json_reply(503, f'{{"status": "error", "error": "{SHUTTING_DOWN}"}}')


def waiting(*answers: object, limit_s: float = 1e9) -> Performed:
    return perform(health.wait_until_ready(limit_s), *answers)


def test_each_state_on_the_way_is_reported() -> None:
    done = waiting(LOADING, CLOSING, UnreachableError("gone"), OK)
    assert done.result == Health("ok")
    assert done.asked == [Call("GET", "healthcheck")] * 4
    assert done.pauses[:2] == [health.LOADING_POLL_S] * 2
    assert len(done.pauses) == 3
    states = [each.status for each in done.updates if isinstance(each, Health)]
    assert states == ["loading", "error", "ok"]


def test_a_server_without_a_health_check_is_ready() -> None:
    assert waiting(json_reply(404)).result == Health("unknown")


def test_a_server_that_was_away_for_a_moment_may_be_away_again() -> None:
    """Each time it is there again, the delays begin anew."""
    away = UnreachableError("gone")
    done = waiting(*[away, away, away, LOADING] * 3, OK)
    firsts = [done.pauses[at] for at in (0, 4, 8)]
    assert max(firsts) <= 1.25 * min(health.LOADING_POLL_S, retry.FIRST_DELAY_S)


def test_a_server_with_an_error_is_not_awaited_whatever_the_limit() -> None:
    error = waiting(json_reply(503, '{"status": "error", "error": "no GPU"}')).error
    assert isinstance(error, BusyError)
    assert (str(error), error.status) == ("no GPU", 503)
    nameless = waiting(json_reply(503, '{"status": "error"}')).error
    assert str(nameless) == "the server reports an error"


def test_no_time_is_left_for_another_look_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "LOADING_POLL_S", 1.0)
    now = iter([100.0, 104.0, 104.001])
    monkeypatch.setattr(health, "time", SimpleNamespace(monotonic=lambda: next(now)))
    done = waiting(LOADING, LOADING, limit_s=5.0)
    assert done.pauses == [1.0]
    assert isinstance(done.error, BusyError)
    assert (str(done.error), done.error.status) == ("the server is still loading its model", 503)
    now = iter([0.0, 9.0])
    assert str(waiting(CLOSING, limit_s=5.0).error) == SHUTTING_DOWN
