"""Signed links to a job's files and events, on a server with API keys."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.server import ON_RAY, Server, fields, serving, settings, until
from trellis2_server.api.api_keys import NO_OWNER
from trellis2_server.api.links import LinkSigner, make_signer, with_link_secret

if TYPE_CHECKING:
    from collections.abc import Generator

KEYS = ["the-first-key-of-two", "the-second-key-of-two"]
KEYED = {"X-API-Key": KEYS[0]}
UID = "12345678-1234-4234-8234-123456789abc"
OTHER_UID = "12345678-1234-4234-8234-123456789abd"
FILES = {"input.png", "shape.glb", "textured.glb", "thumbnail.png", "turntable.webp", "events"}


class Clock:
    """A clock that a test sets, Unix seconds."""

    def __init__(self) -> None:
        self.now = 1_000_030.0

    def __call__(self) -> float:
        return self.now


def query_of(link: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}


# ---- signatures ----------------------------------------------------------------------------------


def test_a_link_is_valid_for_its_lifetime_and_for_at_most_a_minute_more() -> None:
    clock = Clock()
    signer = LinkSigner(b"secret", 600, clock)
    query = query_of(signer.link(f"jobs/{UID}/shape.glb", UID, "owner"))
    expires = int(query["expires"])
    assert 600 <= expires - clock.now < 660
    clock.now = expires - 0.001
    assert signer.owner(f"/jobs/{UID}/shape.glb", query, ["owner"]) == "owner"
    clock.now = expires
    assert signer.owner(f"/jobs/{UID}/shape.glb", query, ["owner"]) is None


def test_links_of_one_minute_are_equal() -> None:
    clock = Clock()
    signer = LinkSigner(b"secret", 600, clock)
    first = signer.link("jobs/x", UID, "owner")
    clock.now += 10
    assert signer.link("jobs/x", UID, "owner") == first
    clock.now += 60
    assert signer.link("jobs/x", UID, "owner") != first


@pytest.mark.parametrize(
    ("path", "is_valid"),
    [
        (f"/jobs/{UID}/textured.glb", True),
        (f"/jobs/{UID}/textured.usdz", True),
        (f"/api/jobs/{UID}/input.png", True),
        (f"/events/{UID}", True),
        (f"/jobs/{UID}", False),
        ("/jobs", False),
        (f"/jobs/{OTHER_UID}/textured.glb", False),
        (f"/events/{OTHER_UID}", False),
        (f"/jobs/{UID}/a/b", False),
        (f"//jobs/{UID}/textured.glb", False),
        (f"/status/{UID}", False),
        (f"/v1/meshes/{UID}/content", False),
        (f"/jobs/{UID}/textured.glb\n", False),
    ],
)
def test_a_link_is_for_the_files_and_events_of_its_job(
    path: str,
    is_valid: bool,  # noqa: FBT001 - a parameter
) -> None:
    signer = LinkSigner(b"secret", 600)
    query = query_of(signer.link("jobs/x", UID, "owner"))
    assert signer.owner(path, query, ["other", "owner"]) == ("owner" if is_valid else None)


@hypothesis_settings(max_examples=100)
@given(
    name=st.sampled_from(["expires", "signature"]),
    value=st.text(max_size=60) | st.integers().map(str),
)
def test_a_changed_link_is_not_valid(name: str, value: str) -> None:
    signer = LinkSigner(b"secret", 600, Clock())
    query = query_of(signer.link("jobs/x", UID, "owner"))
    changed = {**query, name: value}
    expected = "owner" if changed == query else None
    assert signer.owner(f"/events/{UID}", changed, ["owner"]) == expected


def test_a_link_of_another_secret_or_another_owner_is_not_valid() -> None:
    query = query_of(LinkSigner(b"secret", 600).link("jobs/x", UID, "owner"))
    assert LinkSigner(b"another", 600).owner(f"/events/{UID}", query, ["owner"]) is None
    assert LinkSigner(b"secret", 600).owner(f"/events/{UID}", query, ["other"]) is None
    assert LinkSigner(b"secret", 600).owner(f"/events/{UID}", query, []) is None


def test_without_an_owner_a_path_is_left_as_it_is() -> None:
    assert LinkSigner(b"secret", 600).link("jobs/x?a=1", UID, NO_OWNER) == "jobs/x?a=1"


def test_a_link_keeps_the_query_of_its_path() -> None:
    link = LinkSigner(b"secret", 600).link("jobs/x?size=64", UID, "owner")
    assert query_of(link).keys() == {"size", "expires", "signature"}


def test_processes_of_one_configuration_make_the_same_links() -> None:
    shared = with_link_secret(settings())
    links = {make_signer(each).link("jobs/x", UID, "owner") for each in (shared, shared)}
    assert len(links) == 1
    assert with_link_secret(shared) is shared
    assert with_link_secret(settings()) != shared
    alone = {make_signer(settings()).link("jobs/x", UID, "owner") for _ in range(2)}
    assert len(alone) == 2


# ---- a server ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked() -> Generator[Server]:
    configured = settings(server={"api_keys": KEYS, "link_secret": "a secret of the operator"})
    with serving(GatedEngine(), configured) as server:
        until(lambda: server.client.get("/healthcheck").is_success, "loaded")
        yield server


@pytest.fixture(scope="module")
def job(locked: Server) -> dict[str, Any]:
    """A finished job of the first key."""
    reply = locked.client.post("/generate", json=fields(texture=True), headers=KEYED)
    uid = reply.headers["X-Job-Id"]

    def is_complete() -> bool:
        return details(locked, uid)["files"].keys() >= {"shape.glb", "textured.glb"}

    until(is_complete, "stored")
    return details(locked, uid)


def details(server: Server, uid: str) -> dict[str, Any]:
    return server.client.get(f"/jobs/{uid}", headers=KEYED).json()


def test_every_link_of_a_job_works_without_a_key(locked: Server, job: dict[str, Any]) -> None:
    assert job["links"].keys() == FILES
    for name, link in job["links"].items():
        path = f"/{link}"
        assert locked.client.get(path.partition("?")[0]).status_code == 401
        assert locked.client.head(path).status_code == 200
        if name != "turntable.webp":  # takes seconds to draw
            assert locked.client.get(path).status_code == 200, name
        assert query_of(link)["expires"] == str(job["links_expire_at"])


def test_a_link_serves_other_types_and_sizes_and_ranges(
    locked: Server, job: dict[str, Any]
) -> None:
    query = job["links"]["textured.glb"].partition("?")[2]
    assert locked.client.get(f"/jobs/{job['uid']}/textured.stl?{query}&size_mm=50").is_success
    assert locked.client.get(f"/jobs/{job['uid']}/thumbnail.png?size=32&{query}").is_success
    path = f"/{job['links']['textured.glb']}"
    part = locked.client.get(path, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, b"glTF")


def test_a_link_reads_nothing_else_and_changes_nothing(locked: Server, job: dict[str, Any]) -> None:
    query = job["links"]["events"].partition("?")[2]
    uid = job["uid"]
    for method, path in (
        ("GET", f"/jobs/{uid}"),
        ("GET", "/jobs"),
        ("GET", f"/status/{uid}"),
        ("GET", "/metrics"),
        ("GET", f"/jobs/{OTHER_UID}/shape.glb"),
        ("GET", f"/jobs/{job['image_hash']}/shape.glb"),
        ("DELETE", f"/jobs/{uid}"),
        ("POST", f"/jobs/{uid}/export"),
    ):
        reply = locked.client.request(method, f"{path}?{query}")
        assert reply.status_code == 401, path
    assert details(locked, uid)["status"] == "completed"


def test_events_and_lists_hand_out_no_links(locked: Server, job: dict[str, Any]) -> None:
    events = locked.client.get(f"/{job['links']['events']}").text
    assert "event: end" in events
    assert "signature" not in events
    assert "signature" not in locked.client.get("/jobs", headers=KEYED).text


def test_another_key_gets_no_link_to_the_job(locked: Server, job: dict[str, Any]) -> None:
    reply = locked.client.get(f"/jobs/{job['uid']}", headers={"X-API-Key": KEYS[1]})
    assert reply.status_code == 404


def test_a_wrong_signature_beside_a_key_does_not_matter(
    locked: Server, job: dict[str, Any]
) -> None:
    path = f"/jobs/{job['uid']}/shape.glb?expires=1&signature=x"
    assert locked.client.get(path).status_code == 401
    assert locked.client.get(path, headers=KEYED).status_code == 200


def test_the_url_of_an_openai_like_reply_is_a_link(locked: Server) -> None:
    body = {"model": "m", **fields(5)}
    reply = locked.client.post("/v1/3d/generations", json=body, headers=KEYED)
    model = httpx.get(reply.json()["data"][0]["url"], timeout=PATIENCE_S)
    assert model.content[:4] == b"glTF"


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
def test_links_are_not_logged(
    locked: Server, job: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    signature = query_of(job["links"]["shape.glb"])["signature"]
    caplog.set_level(logging.DEBUG)
    assert locked.client.get(f"/{job['links']['shape.glb']}").is_success
    assert not locked.client.get(f"/jobs/{UID}/x?expires=1&signature={signature}").is_success
    until(lambda: "Request" in caplog.messages, "logged")
    of_server = [record for record in caplog.records if not record.name.startswith("http")]
    assert of_server
    for record in of_server:
        assert signature not in f"{record.getMessage()} {record.__dict__}"


@pytest.mark.skipif(ON_RAY, reason="needs the single process")
def test_a_withdrawn_key_ends_its_links() -> None:
    with serving(GatedEngine(), settings(server={"api_keys": KEYS})) as server:
        until(lambda: server.client.get("/healthcheck").is_success, "loaded")
        reply = server.client.post("/generate", json=fields(1), headers=KEYED)
        link = details(server, reply.headers["X-Job-Id"])["links"]["shape.glb"]
        assert server.client.get(f"/{link}").is_success
        server.app.state.keys.replace(KEYS[1:])
        assert server.client.get(f"/{link}").status_code == 401


def test_without_keys_a_job_has_no_links() -> None:
    with serving(GatedEngine()) as server:
        server.wait_until_loaded()
        uid = server.generate().headers["X-Job-Id"]
        assert "links" not in server.client.get(f"/jobs/{uid}").json()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("link_secret", "x" * 15, "at least 16"),
        ("link_seconds", 59, "60"),
        ("link_seconds", 604_801, "604800"),
        ("protocols", [], "at least 1"),
        ("protocols", ["soap"], "native"),
    ],
)
def test_settings_out_of_bounds_are_refused(name: str, value: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        settings(server={name: value})
    for fine in (("link_secret", "x" * 16), ("link_seconds", 60), ("link_seconds", 604_800)):
        settings(server=dict([fine]))
