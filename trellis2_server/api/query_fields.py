"""Fields in the query of a request, beside those of its body.

Does not know: HTTP, what is in a body besides fields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trellis2_server.errors import InputError
from trellis2_server.parameters import read_fields

if TYPE_CHECKING:
    from collections.abc import Mapping


_NAMES_OF_JOBS: Final = ("image_hash", "uid")


def add_query(body: Mapping[str, object], query: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of a body with those of the query; null in a body counts as absent.

    Raises:
        InputError: both have a field, in whatever spelling, with different values; or one of its
            values makes no sense.
    """
    if not query:
        return dict(body)
    in_body, in_query = read_fields(body), read_fields(query)
    for name, value in in_query.items():
        if name in in_body and in_body[name] != value:
            raise InputError(f"{name}: the query says {value}, the body {in_body[name]}")
    for name in _NAMES_OF_JOBS:
        given = [str(raw[name]).strip().lower() for raw in (query, body) if raw.get(name)]
        if len(set(given)) > 1:
            raise InputError(f"{name}: the query says something else than the body")
    # Null is a value, too, where the query has none: a random seed.
    own = {name: value for name, value in body.items() if value is not None or name not in query}
    return {**query, **own}
