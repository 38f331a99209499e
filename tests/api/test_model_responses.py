from __future__ import annotations

import json

from tests.support.managers import options
from trellis2_server.api.model_responses import MODEL_HEADERS, model_response
from trellis2_server.jobs.job import Job
from trellis2_server.storage.content import BytesContent


def test_the_headers_describe_the_job() -> None:
    job = Job("u-1", options(7), "gated", 0.0, image_hash="0" * 32, background="alpha")
    response = model_response(job, BytesContent(b"glTF"), "glb")
    assert response.headers["content-type"] == "model/gltf-binary"
    assert response.headers["content-length"] == "4"
    *names, warnings = MODEL_HEADERS
    assert [response.headers[name] for name in names] == ["0" * 32, "u-1", "7", "gated", "alpha"]
    assert warnings not in response.headers


def test_warnings_are_a_json_array_of_ascii_characters_in_a_header() -> None:
    warnings = ('a picture\r\nof a caf\u00e9, "open"', "less was made")
    job = Job("u-1", options(7), "gated", 0.0, warnings=warnings)
    response = model_response(job, BytesContent(b"glTF"), "glb")
    assert response.headers["x-warnings"].isascii()
    assert json.loads(response.headers["x-warnings"]) == list(warnings)
    # A further export has those of its own file.
    response = model_response(job, BytesContent(b"glTF"), "glb", export_warnings=["too thin"])
    assert json.loads(response.headers["x-warnings"]) == ["too thin"]
    assert "u-1-export.glb" in response.headers["content-disposition"]
    response = model_response(job, BytesContent(b"glTF"), "glb", export_warnings=())
    assert "x-warnings" not in response.headers
