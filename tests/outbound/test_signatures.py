"""Signatures of webhooks."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

from tests.support.documents import block
from tests.support.listener import SECRET
from trellis2_server.outbound.signatures import signature, signing_key


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks."""
    key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_function_of_the_documentation_accepts_genuine_messages_only() -> None:
    names: dict[str, Any] = {}
    exec(block("verify-webhook"), names)  # noqa: S102 - our own page
    now = int(time.time())

    def is_accepted(body: bytes = b"{}", at: int = now, secret: str = SECRET) -> bool:
        headers = {
            "webhook-id": "1",
            "webhook-timestamp": str(at),
            "webhook-signature": signature(signing_key(SECRET), "1", at, b"{}"),
        }
        return names["is_genuine"](headers, body, secret)

    assert is_accepted()
    assert not is_accepted(body=b"{ }")
    assert not is_accepted(at=now - 301)
    assert not is_accepted(secret="whsec_" + base64.b64encode(bytes(16)).decode())


def test_a_secret_has_sixteen_bytes_and_not_less() -> None:
    assert signing_key("x" * 16) == b"x" * 16
    assert len(signing_key("whsec_" + base64.b64encode(bytes(16)).decode())) == 16
    short = "whsec_" + base64.b64encode(bytes(15)).decode()
    for secret in ("x" * 15, short):
        with pytest.raises(ValueError, match="should have at least 16 bytes"):
            signing_key(secret)
    with pytest.raises(ValueError, match="must be base64"):
        signing_key("whsec_no base64 at all")
