from __future__ import annotations

import json
import logging
from typing import Any

import pytest

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
    assert output[0].endswith("INFO trellis2_server.x: Job accepted uid=u\\nforged seconds=1.5")
    assert output[1].endswith("ERROR trellis2_server.x: Step failed")
    assert output[-1].startswith("ValueError: invalid literal")


def test_a_json_record_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    log("json")
    accepted, failed = (json.loads(line) for line in lines(capsys))
    assert accepted["message"] == "Job accepted"
    assert (accepted["level"], accepted["uid"], accepted["seconds"]) == ("info", "u\nforged", 1.5)
    assert accepted["time"].endswith("Z")
    assert "ValueError: invalid literal" in failed["exception"]
