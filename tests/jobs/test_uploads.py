from __future__ import annotations

import numpy as np
import pytest

from trellis2_server.inputs.images import Cutout
from trellis2_server.jobs import uploads
from trellis2_server.jobs.uploads import Upload, Uploads


def upload(number: int) -> Upload:
    return Upload("owner", f"{number:032x}", remove_background=True)


@pytest.fixture
def cutout() -> Cutout:
    return Cutout(np.zeros((16, 16, 4), np.uint8), "none")


def test_the_latest_uploads_are_remembered_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch, cutout: Cutout
) -> None:
    monkeypatch.setattr(uploads, "MAX_KNOWN_UPLOADS", 3)
    known = Uploads()
    for number in range(3):
        assert known.remember(upload(number), cutout) == cutout.image_hash
    assert [known.image_hash(upload(number)) for number in range(3)] == [cutout.image_hash] * 3
    known.remember(upload(0), cutout)  # the latest one now
    known.remember(upload(3), cutout)
    remembered = [number for number in range(4) if known.image_hash(upload(number))]
    assert remembered == [0, 2, 3]
    assert len(known._hashes) == 3


def test_the_limit_is_a_few_thousand() -> None:
    assert 1000 <= uploads.MAX_KNOWN_UPLOADS <= 10_000


@pytest.mark.parametrize(
    "other",
    [
        Upload("another", f"{0:032x}", remove_background=True),
        Upload("owner", f"{0:032x}", remove_background=False),
    ],
)
def test_another_owner_or_request_gets_no_answer(other: Upload, cutout: Cutout) -> None:
    known = Uploads()
    known.remember(upload(0), cutout)
    assert known.image_hash(other) is None
