"""Logging to standard error, one line per record, as text or JSON."""

from __future__ import annotations

import json
import logging
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
#: Control characters and Unicode line separators, with their escape sequences.
_ESCAPED: Final = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _add_request_id(record: logging.LogRecord) -> bool:
    request_id = request_ids.current.get()
    if request_id and not hasattr(record, "request_id"):
        record.request_id = request_id
    return True


class TextFormatter(logging.Formatter):
    """Text lines, as in `2026-01-31T12:00:00Z INFO module: Job completed seconds=1.2`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the formatted message, followed by the record's extra fields."""
        data = "".join(f" {key}={value}" for key, value in _extras(record).items())
        # Text from clients must not forge log lines or send terminal escape codes.
        return (super().formatMessage(record) + data).translate(_ESCAPED)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message and the record's extra fields."""

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
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(settings: ServerSettings) -> None:
    """Log to standard error, with the configured level and format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_add_request_id)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    for verbose in ("numba", "PIL", "pooch", "urllib3", "asyncio", "python_multipart", "multipart"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
