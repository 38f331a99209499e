"""The MD5 of files, by which equal files are recognized.

Does not know: what is in a file.
"""

from __future__ import annotations

import hashlib


def md5(data: bytes) -> str:
    """Return the MD5 of the data, 32 hex digits."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
