"""Requests to every route that its schema allows, and that it forbids (schemathesis)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi import checks

from tests.support.engines import GatedEngine
from tests.support.server import Server, encoded, picture, serving
from tests.support.server import settings as configured
from trellis2_server.api.app import create_app
from trellis2_server.inputs.images import Cutter
from trellis2_server.settings import Protocol

if TYPE_CHECKING:
    from collections.abc import Generator

schemathesis.openapi.media_type("image/png", st.binary(max_size=200) | st.just(picture()))
schemathesis.openapi.media_type("image/jpeg", st.binary(max_size=200))
schemathesis.openapi.media_type("image/webp", st.just(picture(file_format="WEBP")))

PROTOCOLS = {"protocols": list(get_args(Protocol))}
SCHEMA = schemathesis.openapi.from_dict(
    create_app(configured(server=PROTOCOLS), GatedEngine(), Cutter()).openapi()
)
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
POSTS = [label for label in OPERATIONS if label.startswith("POST ")]
BODIES = [label for label in POSTS if OPERATIONS[label].body]
#: What other protocols' routes call, too.
THOROUGH = {"POST /generate", "POST /generate_texture", "POST /send", "POST /jobs/{name}/export"}
POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CONFORMANCE = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]


@pytest.fixture(scope="module")
def target() -> Generator[Server]:
    limits = {"texture_timeout_seconds": 5, "max_queue_length": 3, "job_max_age_seconds": 1}
    small = {"glb_texture_size": 256, "glb_decimation_target": 2000}
    with serving(
        GatedEngine(), configured(server=PROTOCOLS, worker=limits, export=small)
    ) as server:
        server.wait_until_loaded()
        yield server


@pytest.mark.costly
@pytest.mark.parametrize(
    ("label", "mode"),
    [(label, POSITIVE) for label in OPERATIONS] + [(label, NEGATIVE) for label in BODIES],
)
def test_no_request_breaks_the_server_and_responses_match_the_documentation(
    target: Server, label: str, mode: schemathesis.GenerationMode
) -> None:
    examples = 120 if label in THOROUGH else 20

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode), with_picture=st.booleans())
    def request(case: Any, with_picture: bool) -> None:  # noqa: FBT001 - drawn
        if with_picture and isinstance(case.body, dict):
            # Random text is not a picture; with one, the request gets further.
            case.body["image"] = encoded(picture())
            case.body |= {"texture_size": 256, "decimation_target": 1000}
            case.body.pop("webhook", None)  # a 400: this server sends none
        reply = case.call(base_url=target.url, timeout=30)
        assert reply.status_code < 500 or reply.status_code == 503, reply.text
        assert reply.status_code != 422
        assert b"Traceback" not in reply.content
        case.validate_response(reply, checks=CONFORMANCE)

    request()


def test_the_server_works_afterwards(target: Server) -> None:
    assert target.client.get("/healthcheck").json()["status"] == "ok"
    assert target.generate().is_success
