from __future__ import annotations

import copy
import inspect
import json

import pytest
from fastapi import FastAPI, HTTPException
from starlette.requests import ClientDisconnect

from tests.support.app_client import AppClient
from trellis2_server import errors
from trellis2_server.api.error_handlers import (
    HTTP_ERRORS,
    add_error_handlers,
    error_response,
    openai_error,
    text_response,
)
from trellis2_server.errors import (
    InputError,
    QueueFullError,
    ServerError,
    UnauthorizedError,
    UnavailableError,
)

TREE = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, ServerError)
]


def status_of(error: type[ServerError]) -> tuple[int, int]:
    return next(HTTP_ERRORS[cls] for cls in error.__mro__ if cls in HTTP_ERRORS)


def test_every_error_has_a_status_and_every_status_has_an_error() -> None:
    assert {status_of(error) for error in TREE} == set(HTTP_ERRORS.values())
    assert set(HTTP_ERRORS) <= set(TREE)


def test_the_table_matches_the_http_contract() -> None:
    assert {error.__name__: status_of(error) for error in TREE} == {
        "ServerError": (500, 1),
        "ConfigError": (500, 1),
        "InputError": (400, 1),
        "TooLargeError": (413, 6),
        "ContentCodingError": (415, 1),
        "JobNotFoundError": (404, 1),
        "UnauthorizedError": (401, 4),
        "JobNotReadyError": (409, 2),
        "JobCancelledError": (409, 5),
        "TextureTimeoutError": (408, 2),
        "EngineError": (500, 1),
        "EngineBrokenError": (500, 1),
        "StepTimeoutError": (500, 1),
        "OutOfMemoryError": (507, 7),
        "ExportError": (500, 1),
        "MissingPackageError": (500, 1),
        "StoreError": (500, 1),
        "OutboundError": (502, 1),
        "OutboundTimeoutError": (504, 2),
        "UnavailableError": (503, 3),
        "LoadingError": (503, 3),
        "NoSpaceError": (507, 3),
        "QueueFullError": (503, 3),
        "TooManyRequestsError": (429, 3),
        "UnhealthyError": (503, 3),
        "ShuttingDownError": (503, 3),
    }


def test_the_drawing_shows_the_whole_tree() -> None:
    drawn = [line.split("──")[-1].split() for line in (errors.__doc__ or "").splitlines()]
    names = {words[0] for words in drawn if words and words[0].endswith("Error")}
    assert names == {error.__name__ for error in TREE}


@pytest.mark.parametrize("error", TREE)
def test_a_copied_error_has_the_same_message_and_no_traceback(error: type[ServerError]) -> None:
    try:
        raise error("why")
    except ServerError as raised:
        copied = copy.copy(raised)
    assert (str(copied), type(copied), copied.__traceback__) == ("why", error, None)
    assert vars(copied) == vars(error("why"))


@pytest.mark.parametrize("error", TREE)
def test_every_error_is_answered_with_its_text_and_what_a_client_may_do(
    error: type[ServerError],
) -> None:
    response = error_response(error("why"))
    status, code = status_of(error)
    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {"text": "why", "error_code": code}
    retry_after = error("why").retry_after_s if issubclass(error, UnavailableError) else None
    expected = None if retry_after is None else str(retry_after)
    assert response.headers.get("retry-after") == expected
    is_key = issubclass(error, UnauthorizedError)
    assert response.headers.get("www-authenticate") == ("Bearer" if is_key else None)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, "invalid_request_error", None),
        (418, "invalid_request_error", None),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (502, "server_error", "bad_gateway"),
        (504, "server_error", "gateway_timeout"),
        (507, "server_error", None),
    ],
)
def test_openais_form_has_a_type_and_a_code(status: int, kind: str, code: str | None) -> None:
    error = openai_error("text: why", status)["error"]
    assert (error["type"], error["code"]) == (kind, code)
    assert error["param"] == ("text" if status < 500 else None)


def test_a_text_has_the_code_of_invalid_input_unless_another_is_given() -> None:
    response = text_response("why", 414, headers={"X-Y": "z"})
    assert json.loads(bytes(response.body)) == {"text": "why", "error_code": 1}
    assert (response.status_code, response.headers["x-y"]) == (414, "z")
    assert json.loads(bytes(text_response("why", 503, 3).body))["error_code"] == 3


def application() -> AppClient:
    app = FastAPI()
    add_error_handlers(app)

    @app.get("/both")
    def read(limit: int = 1, offset: int = 0) -> int:
        return limit + offset

    @app.post("/both")
    def write() -> None:
        raise QueueFullError("full", retry_after_s=9)

    @app.get("/raises/{kind}")
    def fail(kind: str) -> None:
        raise {
            "input": InputError("no"),
            "teapot": HTTPException(418, "short", {"X-Y": "z"}),
            "gone": ClientDisconnect(),
        }[kind]

    return AppClient(app)


def test_every_failure_of_an_application_has_the_same_body() -> None:
    client = application()
    for path, status, text, code in (
        ("/raises/input", 400, "no", 1), ("/raises/teapot", 418, "short", 1),
        ("/raises/gone", 400, "the client closed the connection", 1),
        ("/nowhere", 404, "Not Found", 1),
    ):  # fmt: skip
        reply = client.get(path)
        assert reply.status_code == status
        assert reply.json() == {"text": text, "error_code": code}
    assert client.get("/raises/teapot").headers["x-y"] == "z"
    full = client.post("/both")
    assert (full.status_code, full.headers["retry-after"]) == (503, "9")
    invalid = client.get("/both?offset=y&limit=x")  # the first parameter is named
    assert invalid.status_code == 400
    assert invalid.json()["text"].startswith("limit: ")


def test_a_method_that_a_path_does_not_have_is_told_those_that_it_has() -> None:
    client = application()
    refused = client.put("/both")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, OPTIONS, POST")
    assert refused.json()["error_code"] == 1
    asked = client.options("/both")
    assert (asked.status_code, asked.headers["allow"], asked.content) == (
        204, "GET, OPTIONS, POST", b"",
    )  # fmt: skip
    assert client.delete("/raises/input").headers["allow"] == "GET, OPTIONS"
    assert client.options("/nowhere").status_code == 404
