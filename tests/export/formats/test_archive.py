from __future__ import annotations

import io
import zipfile

from trellis2_server.export.formats.archive import ArchiveEntry, write_zip


def test_entries_are_in_order_and_without_the_present_date() -> None:
    content = write_zip(
        [
            ArchiveEntry("b", iter([b"one", b"two"]), zipfile.ZIP_DEFLATED),
            ArchiveEntry("a", [b"three"], zipfile.ZIP_STORED),
        ]
    )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["b", "a"]
        assert archive.read("b") == b"onetwo"
        assert archive.getinfo("a").compress_type == zipfile.ZIP_STORED
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
