"""Limits that the documentation names are those that hold."""

from __future__ import annotations

import pytest

from tests.support.documents import ROOT, read
from trellis2_server.outbound import pictures, sender, webhooks
from trellis2_server.outbound.text_to_image import (
    MAX_PICTURE_BYTES,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    ImageService,
)
from trellis2_server.settings import TextToImageSettings

MB = 2**20


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("api.md", f"as large as a body, and has {pictures.FETCH_TIMEOUT_S:g} s."),
        ("operations.md", f"{pictures.FETCH_TIMEOUT_S:g} s, three redirects; "),
        ("operations.md", f"{pictures.MAX_FETCHES} at a time | 400; others wait"),
        ("api.md", f"does not reply 2xx within {webhooks.ATTEMPT_TIMEOUT_S:g} s."),
        ("api.md", f"A {webhooks.GONE}, or the end of the job's"),
        ("api.md", f"the last {MAX_REMEMBERED} pictures, {MAX_REMEMBERED_BYTES / MB:g} MB;"),
        ("operations.md", f"a picture of a text | {MAX_PICTURE_BYTES / MB:g} MB;"),
        ("security.md", f"the first {sender._MAX_ADDRESSES} of them are tried, "),
        ("security.md", f"{sender._CONNECT_S:g} s each"),
    ],
)
def test_a_limit_is_as_the_documentation_says(page: str, sentence: str) -> None:
    assert sentence in " ".join(read(ROOT / "docs" / page).split())


def test_a_service_is_by_default_as_the_settings_are() -> None:
    service, settings = ImageService("http://a.example/"), TextToImageSettings()
    assert service.sends_seed is settings.send_seed is False
    assert service.timeout_s == settings.timeout_seconds
    assert service.max_requests == settings.max_requests
