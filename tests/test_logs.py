from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.server import settings
from trellis2_server import logs


@pytest.fixture(autouse=True)
def untouched_logging() -> Any:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def log(kind: str) -> None:
    logs.configure(settings(server={"log_format": kind}).server)
    logger = logging.getLogger("trellis2_server.x")
    logger.debug("Not shown")
    logger.info("Job accepted", extra={"uid": "u\nforged", "seconds": 1.5})
    try:
        int("why")
    except ValueError:
        logger.exception("Step failed")


def test_a_text_record_is_one_line_with_its_extra_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log("text")
    output = lines(capsys)
    assert output[0].endswith(r'INFO trellis2_server.x: Job accepted uid="u\nforged" seconds=1.5')
    assert output[1].endswith("ERROR trellis2_server.x: Step failed")
    assert output[-1].startswith("  ValueError: invalid literal")
    assert all(line.startswith("  ") for line in output[2:])


def test_a_json_record_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    log("json")
    accepted, failed = (json.loads(line) for line in lines(capsys))
    assert accepted["message"] == "Job accepted"
    assert (accepted["level"], accepted["uid"], accepted["seconds"]) == ("info", "u\nforged", 1.5)
    assert accepted["time"].endswith("Z")
    assert "ValueError: invalid literal" in failed["exception"]


@pytest.mark.parametrize("formatter", [logs.TextFormatter(), logs.JsonFormatter()])
def test_what_libraries_add_to_each_record_is_not_written(formatter: logging.Formatter) -> None:
    added = record("Job accepted", {"_ray_timestamp_ns": "17", "uid": "0a"})
    line = formatter.format(added)
    assert "ray" not in line
    assert "0a" in line


# ---- text of clients -----------------------------------------------------------------------------

#: Characters that a terminal or a reader of lines may take for something else.
CONTROLS = (
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff",
    "\ud800",
    "\udfff",
)
TEXT = st.text(max_size=20) | st.lists(
    st.sampled_from([*CONTROLS, " ", "  ", "=", '"', "\\", "\\n", "a", " b=", "é", "😀", ": "])
).map("".join)
FIELDS = st.dictionaries(st.sampled_from(["path", "client", "uid", "of"]), TEXT, max_size=4)


def record(message: str, fields: dict[str, str]) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": "trellis2_server.x",
            "levelname": "INFO",
            "msg": "%s",
            "args": (message,),
            **fields,
        }
    )


def parse(line: str) -> tuple[str, dict[str, str]]:
    """Parse a text line as a reader of logfmt does."""
    begin = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO trellis2_server\.x: ", line)
    assert begin
    message, rest = take(line[begin.end() :], r".*?(?=$| \w+=)")
    fields: dict[str, str] = {}
    while rest:
        name = re.match(r" (\w+)=", rest)
        assert name, rest
        fields[name[1]], rest = take(rest[name.end() :], r"[^ ]+")
    return message, fields


def take(text: str, unquoted: str) -> tuple[str, str]:
    if text.startswith('"'):
        value, end = json.JSONDecoder().raw_decode(text)
        return value, text[end:]
    found = re.match(unquoted, text)
    assert found
    return found[0], text[found.end() :]


def joined(text: str) -> bytes:
    """Return text in which two halves of a character are equal to the character, as in JSON."""
    return text.encode("utf-16-le", "surrogatepass")


@given(TEXT, FIELDS)
def test_a_text_line_has_the_fields_that_were_logged_and_no_others(
    message: str, fields: dict[str, str]
) -> None:
    line = logs.TextFormatter().format(record(message, fields))
    assert line.isprintable()
    parsed_message, parsed = parse(line)
    assert joined(parsed_message) == joined(message)
    assert parsed.keys() == fields.keys()
    for name, value in fields.items():
        assert joined(parsed[name]) == joined(value)


@given(TEXT, FIELDS)
def test_a_json_line_is_printable_ascii_with_the_same_fields(
    message: str, fields: dict[str, str]
) -> None:
    line = logs.JsonFormatter().format(record(message, fields))
    assert line.isprintable()
    assert line.isascii()
    parsed = json.loads(line)
    for name, value in {"message": message, **fields}.items():
        assert joined(parsed[name]) == joined(value)


@given(TEXT)
def test_a_traceback_forges_no_record(text: str) -> None:
    failed = record("Step failed", {})
    failed.exc_info = (ValueError, ValueError(text), None)
    first, *lines = logs.TextFormatter().format(failed).split("\n")
    assert parse(first) == ("Step failed", {})
    assert all(line.startswith("  ") and line.isprintable() for line in lines)


@pytest.mark.parametrize("value", [7, 1.5, "a.b-c", "/jobs/0a", "127.0.0.1", "é", True, None])
def test_plain_values_are_not_quoted(value: object) -> None:
    line = logs.TextFormatter().format(
        logging.makeLogRecord({"name": "x", "msg": "A message", "value": value})
    )
    assert line.endswith(f": A message value={value}")
