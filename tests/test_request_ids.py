from __future__ import annotations

import re

import pytest

from trellis2_server import request_ids


@pytest.mark.parametrize("sent", ["mine-1.a_B", "x" * 64])
def test_a_safe_id_of_a_client_is_used(sent: str) -> None:
    assert request_ids.choose(sent) == sent


@pytest.mark.parametrize("sent", [None, "", "a b", "é", "x" * 65, "a\tb", '"', "a;b", "${jndi}"])
def test_an_id_that_is_unsafe_to_log_is_replaced(sent: str | None) -> None:
    assert re.fullmatch("[0-9a-f]{32}", request_ids.choose(sent))
