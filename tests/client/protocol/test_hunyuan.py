"""A Hunyuan3D server instead of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.hunyuan import HunyuanServer
from tests.support.operations import Performed, json_reply, perform
from tests.support.server import picture
from trellis2_server.client import JobFailedError, JobLostError, Progress, ProtocolError
from trellis2_server.client.protocol import hunyuan
from trellis2_server.client.protocol.actions import Call
from trellis2_server.client.protocol.retry import Backoff
from trellis2_server.client.records import JobState

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_a_hunyuan3d_server_is_polled(ask: Ask) -> None:
    with HunyuanServer() as server:
        found: list[Progress] = []
        result = ask(server, "generate", picture(), on_progress=found.append)
        assert result.textured == result.model == b"glTF model"
        assert result.shape is None
        assert {"shape", "texture"} <= {each.text for each in found}
        server.failure = "out of memory"
        with pytest.raises(JobFailedError, match="out of memory"):
            ask(server, "generate", picture())
        assert ask(server, "wait_until_ready").status == "unknown"


# ---- by hand ---------------------------------------------------------------------------------


def polling(*texts: str) -> Performed:
    replies = [json_reply(200, text) for text in texts]
    return perform(hunyuan.poll("uid-1", Backoff(0)), *replies)


def test_a_job_is_polled_until_it_ends() -> None:
    done = polling(
        '{"status": "processing"}', '{"status": "texturing"}',
        '{"status": "completed", "model_base64": "Z2xURg=="}',
    )  # fmt: skip
    assert done.result == (JobState("uid-1", "completed"), b"glTF")
    assert done.asked == [Call("GET", "status/uid-1")] * 3
    assert done.pauses == [hunyuan.POLL_S] * 2
    assert done.updates == [
        JobState("uid-1", "shape_processing"),
        JobState("uid-1", "texture_processing", shape_ready=True),
        JobState("uid-1", "completed"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"status": "error", "message": "no room", "error": "e"}', "no room"),
        ('{"status": "error", "error": "no GPU"}', "no GPU"),
        ('{"status": "error"}', "the job failed"),
    ],
)
def test_a_failed_job_says_why(text: str, message: str) -> None:
    assert polling(text).result == (JobState("uid-1", "error", error=message), b"")


@pytest.mark.parametrize("model", ["", ', "model_base64": ""', ', "model_base64": "?"',
                                   ', "model_base64": 7'])  # fmt: skip
def test_a_completed_job_without_a_model_is_no_reply(model: str) -> None:
    error = polling(f'{{"status": "completed"{model}}}').error
    assert isinstance(error, ProtocolError)
    assert (str(error), error.status) == ("the reply contains no model", 200)


def test_a_job_that_the_server_does_not_have_is_lost() -> None:
    lost = perform(hunyuan.poll("uid-1", Backoff(0)), json_reply(404)).error
    assert isinstance(lost, JobLostError)
    assert lost.uid == "uid-1"
