from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.documents import PAGES, ROOT, anchors, links, prose, read

if TYPE_CHECKING:
    from pathlib import Path

#: A file or folder in backticks: `jobs/scheduler.py`, `deploy/`.
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|json|yaml|txt|service)))`")
#: Named in the pages; the server or a user makes them.
MADE_ELSEWHERE = {
    ".venv/bin/", "api_server.py", "app.py", "blender_addon.py", "files/", "pipeline.json",
    "texturing_pipeline.json",
}  # fmt: skip


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_relative_link_leads_to_a_file_and_an_anchor(page: Path) -> None:
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in {"http", "https"}, link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.is_file(), link
        assert target.is_relative_to(ROOT), link
        if parts.fragment:
            assert parts.fragment in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return
    for name in set(PATH.findall(prose(page))) - MADE_ELSEWHERE:
        places = (ROOT, ROOT / "trellis2_server", page.parent)
        assert any((place / name).exists() for place in places), name


def test_the_readme_is_short() -> None:
    assert read(ROOT / "README.md").count("\n") <= 200


def configuration() -> Any:
    """Return docs/conf.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_conf", ROOT / "docs" / "conf.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_sites_navigation() -> None:
    conf = configuration()
    listed = [page for pages in conf.NAVIGATION.values() for page in pages]
    pages = [page.relative_to(ROOT).with_suffix("").as_posix() for page in PAGES]
    assert sorted([conf.root_doc, *listed]) == sorted(pages)


def test_the_first_page_leads_to_every_page() -> None:
    linked = {link.partition("#")[0] for link in links(ROOT / "README.md")}
    assert {page.relative_to(ROOT).as_posix() for page in PAGES[1:]} <= linked
