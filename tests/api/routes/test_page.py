from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import GatedEngine
from tests.support.server import Server, serving, settings
from trellis2_server.api.outbound_fields import MAX_TEXT_LENGTH
from trellis2_server.api.routes import page
from trellis2_server.parameters import EXPORT_FIELDS, read_options
from trellis2_server.request_fields import BY_NAME, FIELDS, STAGES
from trellis2_server.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "trellis2_server" / "page"
FILES = sorted(path.name for path in PAGE.iterdir() if path.name != "index.html")


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with serving(GatedEngine()) as running:
        yield running


def links(server: Server) -> list[str]:
    """Return the paths, relative to the root, that the page and its modules refer to."""
    markup = server.client.get("/").text
    found = re.findall(r'(?:href|src)="(page/[^"]+)"', markup)
    for name in FILES:
        found += [f"page/{each}" for each in re.findall(r'from "\./([^"]+)"', read(server, name))]
    return found


def read(server: Server, name: str) -> str:
    return server.client.get(f"/page/{name}").text


def test_the_page_and_all_files_that_it_refers_to_are_served(server: Server) -> None:
    found = links(server)
    assert {"page/main.js", "page/base.css", "page/icon.svg", "page/api.js"} <= set(found)
    for path in found:
        assert server.client.get(f"/{path}").status_code == 200, path
    assert {path.removeprefix("page/") for path in found} == set(FILES), "an unused file"


def test_the_files_have_the_right_media_type_on_every_system(server: Server) -> None:
    kinds = {name: server.client.get(f"/page/{name}").headers["content-type"] for name in FILES}
    assert kinds["main.js"] == "text/javascript; charset=utf-8"
    assert kinds["base.css"] == "text/css; charset=utf-8"
    assert kinds["icon.svg"] == "image/svg+xml"
    assert server.client.get("/").headers["content-type"] == "text/html; charset=utf-8"


def test_the_content_security_policy_forbids_inline_and_foreign_content(server: Server) -> None:
    for path in ("/", "/page/main.js"):
        headers = server.client.get(path).headers
        policy = dict(
            part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert "'unsafe-eval'" not in policy["script-src"]
        assert headers["x-content-type-options"] == "nosniff"
    markup = server.client.get("/").text
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", markup)


def test_no_file_refers_to_an_absolute_path(server: Server) -> None:
    """A proxy may serve the page under a prefix."""
    for text in (server.client.get("/").text, *(read(server, name) for name in FILES)):
        assert not re.search(r'(?:href|src|from|fetch\()\s*=?\s*["`]/', text)


def test_a_file_that_the_browser_has_is_not_sent_again(server: Server) -> None:
    first = server.client.get("/page/main.js")
    again = server.client.get("/page/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["nothing.js", "..%2Froutes.py", "%2e%2e%2froutes.py", "page"])
def test_no_other_file_is_served(server: Server, name: str) -> None:
    reply = server.client.get(f"/page/{name}")
    assert reply.status_code == 404
    assert "routes_page" not in reply.text


def test_the_page_needs_no_key_but_other_routes_do() -> None:
    with serving(GatedEngine(), settings(server={"api_keys": ["s3cret"]})) as server:
        server.wait_until_loaded()
        for path in ("/", "/page/main.js", "/page/options"):
            assert server.client.get(path).status_code == 200, path
        assert server.client.get("/worker_status").status_code == 401


@pytest.mark.parametrize("prefix", ["", "/models"])
def test_the_page_works_behind_a_proxy_that_may_or_may_not_strip_the_prefix(prefix: str) -> None:
    configured = settings(server={"root_path": "/models", "api_keys": ["s3cret"]})
    with serving(GatedEngine(), configured) as server:
        for path in ("/", "/page/main.js", "/page/options"):
            assert server.client.get(prefix + path).status_code == 200, path


# ---- the viewer ------------------------------------------------------------------------------


def viewer_or_skip() -> bytes:
    if not page.VIEWER.file.is_file():
        pytest.skip("model-viewer is not installed: run `npm install`")
    return page.VIEWER.file.read_bytes()


def test_the_declared_viewer_has_the_expected_version_and_hash() -> None:
    declared = json.loads((ROOT / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert declared["@google/model-viewer"] == page.VIEWER.version
    digest = hashlib.sha384(viewer_or_skip()).digest()
    assert "sha384-" + base64.b64encode(digest).decode() == page.VIEWER.integrity


def test_an_installed_viewer_is_served_and_the_policy_allows_no_cdn(server: Server) -> None:
    content = viewer_or_skip()
    markup = server.client.get("/")
    source = re.findall(r'name="viewer" content="([^"]+)"', markup.text)[0]
    reply = server.client.get(f"/{source}")
    assert reply.content == content
    assert reply.headers["content-type"].startswith("text/javascript")
    assert "immutable" in reply.headers["cache-control"]
    assert "http" not in markup.headers["content-security-policy"]


@pytest.mark.parametrize("content", [None, b"alert('another one')"])
def test_without_a_valid_file_the_viewer_is_loaded_from_a_cdn_with_its_hash(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    elsewhere = dataclasses.replace(page.VIEWER, folder=tmp_path)
    if content is not None:
        elsewhere.file.parent.mkdir(parents=True)
        elsewhere.file.write_bytes(content)
    monkeypatch.setattr(page, "VIEWER", elsewhere)
    reply = server.client.get("/")
    assert f'content="{page.VIEWER.cdn_url}"' in reply.text
    assert f'data-integrity="{page.VIEWER.integrity}"' in reply.text
    assert page.VIEWER.cdn_url in reply.headers["content-security-policy"]
    assert server.client.get(f"/page/{page.VIEWER.name}").status_code == 404


# ---- the options -----------------------------------------------------------------------------


def test_the_options_are_the_request_fields_with_the_servers_defaults() -> None:
    configured = settings(
        generation={"seed": 7, "tex_sampling_steps": 30},
        export={"glb_texture_size": 512},
        text_to_image={"url": "http://127.0.0.1:9/v1/images/generations"},
    )
    with serving(GatedEngine(), configured) as server:
        reply = server.client.get("/page/options").json()
    properties = reply["properties"]
    assert list(properties) == [field.name for field in FIELDS]
    assert properties["tex_sampling_steps"]["default"] == 30
    assert properties["texture_size"]["enum"] == [256, 512, 1024, 2048, 4096, 8192]
    defaults = {
        name: each["default"]
        for name, each in properties.items()
        if each.get("default") is not None
    }
    assert defaults["seed"] == 7
    assert "remove_background" not in defaults  # omitted, the picture decides
    assert read_options(defaults, configured) == read_options({}, configured)
    assert reply["max_body_bytes"] == configured.server.max_body_bytes
    assert reply["max_text_length"] == MAX_TEXT_LENGTH


def test_the_options_end_at_the_servers_maxima() -> None:
    capped = {
        "glb_texture_size": 512, "max_texture_size": 1024,
        "glb_decimation_target": 2000, "max_decimation_target": 9000,
    }  # fmt: skip
    with serving(GatedEngine(), settings(export=capped)) as server:
        reply = server.client.get("/page/options").json()
    assert reply["max_text_length"] is None  # no text-to-image server
    properties = reply["properties"]
    assert properties["texture_size"]["enum"] == [256, 512, 1024]
    assert properties["decimation_target"]["maximum"] == 9000


def test_sending_a_default_changes_nothing() -> None:
    with serving(GatedEngine()) as server:
        properties = server.client.get("/page/options").json()["properties"]
    for name, each in properties.items():
        if each.get("default") is None:
            continue
        assert read_options({name: each["default"]}, Settings()) == read_options({}, Settings())


def names_in(file: str, constant: str) -> list[str]:
    """Names of fields in an array or object of one of the page's modules."""
    text = (PAGE / file).read_text(encoding="utf-8")
    found = re.search(rf"const {constant} = (.*?)\n[\])}}]", text, re.DOTALL)
    assert found, constant
    pattern = r'^  (\w+): "' if constant == "LABELS" else r'(?<!stage: )"([a-z_]+)"'
    return re.findall(pattern, found[1], re.MULTILINE)


def test_the_page_names_only_declared_fields_and_has_a_label_for_each() -> None:
    labels, sampler = names_in("settings.js", "LABELS"), names_in("settings.js", "SAMPLER")
    form, export = names_in("settings.js", "GROUPS"), names_in("downloads.js", "EXPORT_FIELDS")
    assert len(form) == 13
    mesh = names_in("mesh.js", "FIELDS")
    assert mesh == ["up_axis", "uv"]
    assert sorted(labels) == sorted({*sampler, *form, *export, *mesh})
    assert {f"{stage}_{name}" for stage in STAGES for name in sampler} == {
        field.name for field in FIELDS if field.group == "sampler"
    }
    assert {*form, *export, *mesh} <= BY_NAME.keys()
    of_file = {field.name for field in FIELDS if field.group == "file"}
    assert set(export) <= {*EXPORT_FIELDS, "type", *of_file}
