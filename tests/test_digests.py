from __future__ import annotations

from trellis2_server.digests import md5


def test_a_digest_is_that_of_rfc_1321() -> None:
    assert md5(b"abc") == "900150983cd24fb0d6963f7d28e17f72"
