from __future__ import annotations

from tests.support.managers import options
from trellis2_server.api.model_responses import MODEL_HEADERS, model_response
from trellis2_server.jobs.job import Job
from trellis2_server.storage.content import BytesContent


def test_the_headers_describe_the_job() -> None:
    job = Job("u-1", options(7), "gated", 0.0, image_hash="0" * 32, background="alpha")
    response = model_response(job, BytesContent(b"glTF"), "glb")
    assert response.headers["content-type"] == "model/gltf-binary"
    assert response.headers["content-length"] == "4"
    values = [response.headers[name] for name in MODEL_HEADERS]
    assert values == ["0" * 32, "u-1", "7", "gated", "alpha"]
