"""Signatures of webhooks, as Standard Webhooks defines them.

    signed = id "." timestamp "." body
    webhook-signature: "v1," base64(HMAC-SHA256(key, signed))

Libraries that verify them exist for many languages: https://www.standardwebhooks.com

Does not know: what is signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

#: Prefix of secrets that are base64.
PREFIX: Final = "whsec_"
#: Least size of a key, bytes.
MIN_KEY_BYTES: Final = 16


def signing_key(secret: str) -> bytes:
    """Return the key of a secret.

    Args:
        secret: base64 after `whsec_`; otherwise the key itself.

    Raises:
        ValueError: it is shorter than 16 bytes, or not base64.
    """
    try:
        is_base64 = secret.startswith(PREFIX)
        key = (
            base64.b64decode(secret[len(PREFIX) :], validate=True) if is_base64 else secret.encode()
        )
    except binascii.Error as error:
        raise ValueError(f"what follows {PREFIX} must be base64") from error
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"should have at least {MIN_KEY_BYTES} bytes")
    return key


def signature(key: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature`.

    Args:
        key: of `signing_key`.
        message_id: value of `webhook-id`.
        timestamp_s: value of `webhook-timestamp`, Unix seconds.
        body: the request's body.
    """
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
