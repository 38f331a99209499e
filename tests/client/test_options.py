"""The table of options, against the server's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from trellis2_server.client import Options
from trellis2_server.client.options import OPTIONS
from trellis2_server.client.options import FileType as ClientFileType
from trellis2_server.parameters import FIELDS, FileType

if TYPE_CHECKING:
    from collections.abc import Callable

    Ask = Callable[..., Any]


def test_the_table_of_options_is_what_the_server_reads() -> None:
    fields = {field.name: field.schema for field in FIELDS}
    for apart in ("texture", "type", "no_rembg"):
        del fields[apart]
    assert {option.name for option in OPTIONS} == set(fields)
    assert get_args(ClientFileType) == get_args(FileType)
    for option in OPTIONS:
        schema = fields[option.name]
        if option.choices:
            enum: Any = schema["enum"]
            assert list(option.choices) == [each or "none" for each in enum], option.name
        elif option.bounds:
            assert option.bounds == (schema["minimum"], schema["maximum"]), option.name
        else:
            assert "minimum" not in schema, option.name
        kind: Any = {"interval": "array"}.get(option.kind, option.kind)
        assert kind in schema["type"], option.name  # type: ignore[operator]


def test_the_names_of_the_options_are_typed() -> None:
    assert set(get_type_hints(Options)) == {option.name for option in OPTIONS}
