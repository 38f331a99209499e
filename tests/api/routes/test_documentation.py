"""The API's reference page: where it loads code from, and which methods each path has."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import ROOT, chromium
from tests.support.engines import PATIENCE_S, GatedEngine
from tests.support.hostile import error_text
from tests.support.server import ON_RAY, Server, serving, settings
from trellis2_server.api.app import HUNYUAN_PREFIX
from trellis2_server.api.error_handlers import METHODS
from trellis2_server.api.model_responses import MEDIA_TYPES
from trellis2_server.api.routes import documentation, page, routers_of
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from trellis2_server.api.vendored_files import VendoredFile

FILES = (documentation.SCRIPT, documentation.STYLE)

in_this_process = pytest.mark.skipif(ON_RAY, reason="needs the single process")


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with serving(GatedEngine()) as running:
        running.wait_until_loaded()
        yield running


# ---- the page ------------------------------------------------------------------------------------


def policy(server: Server) -> dict[str, str]:
    value = server.client.get("/docs").headers["content-security-policy"]
    return dict(each.strip().split(" ", 1) for each in value.split(";"))


def installed_or_skip(file: VendoredFile) -> bytes:
    if not file.file.is_file():
        pytest.skip("swagger-ui-dist is not installed: run `npm install`")
    return file.file.read_bytes()


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SCRIPT", "STYLE"):
        file = getattr(documentation, name)
        elsewhere = dataclasses.replace(file, folder=tmp_path)
        monkeypatch.setattr(documentation, name, elsewhere)


@in_this_process
@pytest.mark.usefixtures("nothing_installed")
def test_without_installed_files_they_are_loaded_from_a_cdn_by_version_and_hash(
    server: Server,
) -> None:
    markup = server.client.get("/docs").text
    sources = re.findall(r'(?:src|href)="(https:[^"]+)" integrity="(sha384-[^"]+)"', markup)
    assert dict(sources) == {each.cdn_url: each.integrity for each in FILES}
    assert markup.count('crossorigin="anonymous"') == 2
    assert all("@5.35.0/" in url for url, _ in sources)
    for file, directive in zip(FILES, ("script-src", "style-src"), strict=True):
        assert policy(server)[directive].split()[0] == file.cdn_url


def test_the_expected_files_are_those_of_the_declared_version() -> None:
    declared = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for file in FILES:
        assert declared[file.package] == file.version
        digest = hashlib.sha384(installed_or_skip(file)).digest()
        assert "sha384-" + base64.b64encode(digest).decode() == file.integrity


def test_installed_files_are_served_and_the_policy_allows_no_cdn(server: Server) -> None:
    content = {file: installed_or_skip(file) for file in FILES}
    reply = server.client.get("/docs")
    assert "https:" not in reply.headers["content-security-policy"] + reply.text
    for file in FILES:
        assert f'"page/{file.name}" integrity="{file.integrity}"' in reply.text
        served = server.client.get(f"/page/{file.name}")
        assert served.content == content[file]
        assert "immutable" in served.headers["cache-control"]


@in_this_process
def test_a_file_with_another_hash_is_not_served(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(documentation.SCRIPT, folder=tmp_path)
    wrong.file.parent.mkdir(parents=True)
    wrong.file.write_text("alert(1)")
    monkeypatch.setattr(documentation, "_MEDIA_TYPES", {wrong: "text/javascript"})
    error_text(server.client.get(f"/page/{wrong.name}"), 404)


def test_the_policy_allows_nothing_else(server: Server) -> None:
    directives = policy(server)
    assert directives["default-src"] == directives["base-uri"] == "'none'"
    assert directives["form-action"] == directives["frame-ancestors"] == "'none'"
    assert "unsafe" not in directives["script-src"]
    assert directives["connect-src"] == "'self'"
    markup = server.client.get("/docs").text
    [inline] = re.findall(r"<script>(.*?)</script>", markup)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in directives["script-src"]
    for path in ("/redoc", "/docs/oauth2-redirect"):
        error_text(server.client.get(path), 404)


@pytest.mark.costly
@pytest.mark.parametrize("prefix", ["", "/3d"])
def test_a_browser_shows_the_reference_under_the_policy(prefix: str) -> None:
    for file in FILES:
        installed_or_skip(file)
    with serving(GatedEngine(), settings(server={"root_path": prefix})) as server:
        server.wait_until_loaded()
        with chromium() as browser:
            tab = browser.new_page()
            tab.set_default_timeout(4 * PATIENCE_S * 1000)
            errors: list[str] = []
            tab.on("console", lambda message: errors.append(message.text))
            tab.on("pageerror", lambda error: errors.append(str(error)))
            tab.goto(f"{server.url}{prefix}/docs")
            operation = tab.locator(".opblock", has_text="/worker_status").first
            operation.locator("button.opblock-summary-control").click()
            operation.get_by_role("button", name="Try it out").click()
            operation.get_by_role("button", name="Execute").click()
            operation.locator(".live-responses-table", has_text="queue_length").wait_for()
            assert not errors


# ---- methods -------------------------------------------------------------------------------------


def paths() -> list[str]:
    """Return every path of the API and of the pages, with names that exist nowhere."""
    routers = routers_of(Settings().server.protocols)
    own = [route for router in routers for route in router.routes]
    pages = [*documentation.router.routes, *page.router.routes]
    found = {getattr(route, "path", "") for route in (*own, *pages)}
    found |= {HUNYUAN_PREFIX + getattr(route, "path", "") for route in own} | {"/openapi.json"}
    return sorted(re.sub(r"\{\w+\}", "0" * 32, path) for path in found)


def test_every_path_names_exactly_the_methods_that_it_has(server: Server) -> None:
    assert len(paths()) > 30
    for path in paths():
        options = server.client.options(path)
        assert (options.status_code, options.content) == (204, b"")
        named = options.headers["allow"].split(", ")
        assert named == sorted(named)
        accepted = {"OPTIONS"}
        for method in METHODS:
            reply = server.client.request(method, path)
            if reply.status_code == 405:
                assert reply.headers["allow"] == options.headers["allow"]
            else:
                accepted.add(method)
        assert set(named) == accepted, path


def test_every_documented_status_exists_and_files_have_the_types_that_they_are_sent_with(
    server: Server,
) -> None:
    documented = server.client.get("/openapi.json").json()["paths"]
    for path, operations in documented.items():
        for method, operation in operations.items():
            ranges = {"4XX", "5XX"}
            for status in operation["responses"].keys() - ranges:
                assert HTTPStatus(int(status)).phrase, (path, method)
    file = documented["/jobs/{name}/{file_name}"]["get"]["responses"]["200"]
    assert set(file["content"]) == {"image/png", *MEDIA_TYPES.values()}


def test_a_path_that_does_not_exist_has_no_methods(server: Server) -> None:
    error_text(server.client.options("/nothing"), 404)


def test_pages_of_other_origins_may_use_every_method_of_the_api(server: Server) -> None:
    preflight = server.client.options(
        "/jobs/0/shape.glb",
        headers={"Origin": "https://a.example", "Access-Control-Request-Method": "HEAD"},
    )
    assert preflight.is_success
    named = set(preflight.headers["access-control-allow-methods"].split(", "))
    methods = {"OPTIONS"}
    for path in paths():
        methods |= set(server.client.options(path).headers["allow"].split(", "))
    assert named | {"OPTIONS"} == methods
