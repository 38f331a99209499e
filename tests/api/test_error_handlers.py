from __future__ import annotations

import copy
import inspect

import pytest

from trellis2_server import errors
from trellis2_server.api.error_handlers import HTTP_ERRORS
from trellis2_server.errors import ServerError

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
        "JobNotFoundError": (404, 1),
        "UnauthorizedError": (401, 4),
        "JobCancelledError": (409, 5),
        "TextureTimeoutError": (408, 2),
        "EngineError": (500, 1),
        "EngineBrokenError": (500, 1),
        "StepTimeoutError": (500, 1),
        "OutOfMemoryError": (507, 7),
        "ExportError": (500, 1),
        "MissingPackageError": (500, 1),
        "StoreError": (500, 1),
        "UnavailableError": (503, 3),
        "LoadingError": (503, 3),
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
