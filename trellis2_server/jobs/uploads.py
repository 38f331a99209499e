"""`Uploads`: the image hash of each recent upload, so that its background is removed only once.

Does not know: jobs, HTTP, how a picture is cut out.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from trellis2_server.inputs.images import Cutout
    from trellis2_server.request_fields import RemoveBackground

#: Number of uploads whose image hash is remembered.
MAX_KNOWN_UPLOADS: Final = 4096


class Upload(NamedTuple):
    """Key of an uploaded picture. Its `repr` is part of keys that are stored.

    Attributes:
        owner: of the picture; other owners get no answers from it.
        digest: of the file, or of several, 32 hex digits; see `picture_set.digest_of`.
        remove_background: whether its background is removed.
    """

    owner: str
    digest: str
    remove_background: RemoveBackground


class Uploads:
    """The uploads that were cut out recently."""

    def __init__(self) -> None:
        self._hashes: OrderedDict[Upload, str] = OrderedDict()

    def remember(self, upload: Upload, cutout: Cutout) -> str:
        """Remember the upload's image hash; return it."""
        self._hashes[upload] = cutout.image_hash
        self._hashes.move_to_end(upload)
        while len(self._hashes) > MAX_KNOWN_UPLOADS:
            self._hashes.popitem(last=False)
        return cutout.image_hash

    def image_hash(self, upload: Upload) -> str | None:
        """Return the upload's image hash; None: it is not remembered."""
        return self._hashes.get(upload)
