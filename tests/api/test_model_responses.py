from __future__ import annotations

import asyncio

import pytest

from tests.support.managers import options
from trellis2_server.api.model_responses import MEDIA_TYPES, MODEL_HEADERS, convert, model_response
from trellis2_server.errors import ExportError
from trellis2_server.jobs.job import Job


def test_a_glb_is_not_converted() -> None:
    content = b"glTF"
    assert asyncio.run(convert(content, "glb")) is content


@pytest.mark.parametrize("file_type", [each for each in MEDIA_TYPES if each != "glb"])
def test_a_conversion_of_an_invalid_glb_is_an_export_error(file_type: str) -> None:
    with pytest.raises(ExportError):
        asyncio.run(convert(b"glTF", file_type))  # type: ignore[arg-type]


def test_the_headers_describe_the_job() -> None:
    job = Job("u-1", options(7), "gated", 0.0, image_hash="0" * 32, background="alpha")
    response = asyncio.run(model_response(job, b"glTF", "glb"))
    assert response.headers["content-type"] == "model/gltf-binary"
    values = [response.headers[name] for name in MODEL_HEADERS]
    assert values == ["0" * 32, "u-1", "7", "gated", "alpha"]
