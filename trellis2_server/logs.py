"""Logging to standard error, one line per record, as text or JSON.

Text of clients cannot forge lines or fields, nor control a terminal: what is not printable is
escaped, and in text lines, values that could be read as more than one value are quoted.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from trellis2_server import request_ids

if TYPE_CHECKING:
    from trellis2_server.settings import ServerSettings

#: Attributes of every record; all others were passed as `extra`.
_STANDARD: Final = frozenset(
    set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
)
#: Begins the lines of a traceback, so that none looks like a record.
_INDENT: Final = "  "
#: What makes a value ambiguous in `key=value`, as in logfmt. Not printable characters do, too.
_AMBIGUOUS: Final = re.compile(r'[\s="\\]')
#: The same in a message, which may have single spaces between words.
_AMBIGUOUS_MESSAGE: Final = re.compile(r'[="\\]|^\s|\s$|[^\S ]|  ')


def _escape(text: str) -> str:
    """Replace characters that are not printable by JSON's escapes.

    Those are control characters, line separators, marks that change the direction of text,
    surrogates, unassigned characters, and spaces other than the usual one.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text).replace(
        "\x7f", "\\u007f"
    )


def _quote(text: str) -> str:
    """Return a JSON string of printable characters."""
    escaped = _escape(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{escaped}"'


def _value(value: object) -> str:
    text = str(value)
    is_plain = text and text.isprintable() and not _AMBIGUOUS.search(text)
    return text if is_plain else _quote(text)


def _message(text: str) -> str:
    is_plain = text and text.isprintable() and not _AMBIGUOUS_MESSAGE.search(text)
    return text if is_plain else _quote(text)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the server's code added; libraries add names that begin with `_`."""
    return {
        key: value
        for key, value in vars(record).items()
        if key not in _STANDARD and not key.startswith("_")
    }


def _add_request_id(record: logging.LogRecord) -> bool:
    request_id = request_ids.current.get()
    if request_id and not hasattr(record, "request_id"):
        record.request_id = request_id
    return True


class TextFormatter(logging.Formatter):
    """Text lines, as in `2026-01-31T12:00:00Z INFO module: Job completed seconds=1.2`.

    The fields are as in logfmt: a value that is empty or has white space, `=`, quotation marks,
    backslashes or characters that are not printable is a JSON string. So is such a message.
    The lines of a traceback follow, indented.
    """

    converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, and the indented lines of the traceback."""
        when = self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ")
        data = "".join(f" {key}={_value(value)}" for key, value in _extras(record).items())
        message = _message(record.getMessage())
        lines = [f"{when} {record.levelname} {_escape(record.name)}: {message}{data}"]
        if record.exc_info:
            lines += _indented(self.formatException(record.exc_info))
        if record.stack_info:
            lines += _indented(self.formatStack(record.stack_info))
        return "\n".join(lines)


def _indented(text: str) -> list[str]:
    return [_INDENT + _escape(line) for line in text.split("\n")]


class JsonFormatter(logging.Formatter):
    """One JSON object per line, in ASCII: time, level, logger, message and the extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON object."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str).replace("\x7f", "\\u007f")


def configure(settings: ServerSettings) -> None:
    """Log to standard error, with the configured level and format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for verbose in ("numba", "PIL", "pooch", "urllib3", "asyncio", "python_multipart", "multipart"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
