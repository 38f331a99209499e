"""What an agent reads of the tools: limits of their arguments, and what they may change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, get_args

import pytest

pytest.importorskip("mcp", reason="mcp is not installed: pip install 'mcp>=1.10,<2'")

from trellis2_server.client import UsageError
from trellis2_server.mcp.command import _access, _parser
from trellis2_server.mcp.tools import make_server
from trellis2_server.request_fields import Resolution, TextureSize

if TYPE_CHECKING:
    from mcp.server.fastmcp import FastMCP


def made(address: str | None) -> FastMCP[Any]:
    given = _parser().parse_args([])
    return make_server(address, None, _access(given), host=given.host, port=given.port)


@pytest.fixture(scope="module")
def tools() -> dict[str, Any]:
    server = made(None)
    return {tool.name: tool for tool in asyncio.run(server.list_tools())}


def test_each_tool_says_what_it_may_change(tools: dict[str, Any]) -> None:
    hints = {
        name: (tool.annotations.readOnlyHint, tool.annotations.destructiveHint,
               tool.annotations.openWorldHint)
        for name, tool in tools.items()
    }  # fmt: skip
    makes, reads, cancels = (False, False, True), (True, None, False), (False, True, False)
    assert hints == {
        "generate_model": makes, "generate_model_from_text": makes, "texture_mesh": makes,
        "export_model": makes, "follow_job": reads, "list_jobs": reads, "show_model": reads,
        "cancel_job": cancels,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "argument", "limits", "default"),
    [
        ("follow_job", "wait_seconds", (0, 3600), 300),
        ("generate_model", "wait_seconds", (0, 3600), 300),
        ("generate_model_from_text", "wait_seconds", (0, 3600), 300),
        ("texture_mesh", "wait_seconds", (0, 3600), 300),
        ("texture_mesh", "geo_rotation", (-360, 360), None),
        ("list_jobs", "limit", (1, 100), 20),
        ("show_model", "size", (32, 1024), 512),
        ("generate_model", "seed", (-1, 2**32 - 1), None),
        ("generate_model", "decimation_target", (1000, 16_777_216), None),
    ],
)
def test_a_number_has_its_limits(
    tools: dict[str, Any], tool: str, argument: str, limits: tuple[int, int], default: int | None
) -> None:
    schema = tools[tool].inputSchema["properties"][argument]
    number = next((each for each in schema.get("anyOf", ()) if "minimum" in each), schema)
    assert (number["minimum"], number["maximum"]) == limits
    assert schema["default"] == default


def test_a_size_is_over_0_and_a_text_has_the_limit_of_the_server(tools: dict[str, Any]) -> None:
    size = tools["export_model"].inputSchema["properties"]["size_mm"]["anyOf"][0]
    assert (size["exclusiveMinimum"], size["maximum"]) == (0, 100_000)
    prompt = tools["generate_model_from_text"].inputSchema["properties"]["prompt"]
    assert (prompt["minLength"], prompt["maxLength"]) == (1, 4000)


def test_only_what_a_tool_cannot_do_without_is_required(tools: dict[str, Any]) -> None:
    required = {name: tool.inputSchema.get("required", []) for name, tool in tools.items()}
    assert required == {
        "generate_model": ["image"], "generate_model_from_text": ["prompt"],
        "texture_mesh": ["mesh", "image"], "follow_job": ["job_id"], "list_jobs": [],
        "cancel_job": ["job_id"], "export_model": ["job_id"], "show_model": ["job_id"],
    }  # fmt: skip


def test_choices_are_those_of_the_server(tools: dict[str, Any]) -> None:
    for name, choices in (
        ("resolution", get_args(Resolution)),
        ("texture_size", get_args(TextureSize)),
    ):
        for tool in ("generate_model", "generate_model_from_text"):
            schema = tools[tool].inputSchema["properties"][name]
            assert schema["anyOf"][0]["enum"] == list(choices)
            assert schema["default"] is None


def test_a_wrong_address_is_refused_before_the_server_runs() -> None:
    with pytest.raises(UsageError):
        made("ftp://localhost")
