from __future__ import annotations

import pytest

from trellis2_server.parameters import default_placement, read_delivery, read_options
from trellis2_server.purposes import PURPOSES, Purpose
from trellis2_server.request_fields import BY_NAME
from trellis2_server.settings import Settings


@pytest.mark.parametrize("purpose", PURPOSES.values(), ids=list(PURPOSES))
def test_the_fields_of_a_purpose_go_together(purpose: Purpose) -> None:
    fields = dict(purpose.fields)
    for name, value in fields.items():
        field = BY_NAME[name]
        assert field.group in {"export", "file", "delivery"}
        assert not field.choices or value in {*field.choices, "none" if field.is_nullable else None}
        assert not field.bounds or field.bounds[0] <= value <= field.bounds[1]
        assert field.applies(has_mesh=False, file_type=str(fields["type"]))
    delivery = read_delivery(fields)
    assert delivery.type == fields["type"]
    if "size_mm" in fields or "size_m" in fields:
        assert (delivery.placement or default_placement(delivery.type)).size
    read_options(fields, Settings())
