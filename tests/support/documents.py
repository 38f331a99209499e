"""The project's Markdown pages, their marked examples, links and anchors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
_FENCE: Final = re.compile(r"^(```+|~~~+).*?^\1\s*$", re.MULTILINE | re.DOTALL)
_CODE: Final = re.compile(r"(`+).+?\1")
_LINK: Final = re.compile(r"\]\(<?([^)\s>]+)")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def block(name: str) -> str:
    """Return the code block after `<!-- name -->`, which one page has once."""
    pattern = re.compile(rf"^<!-- {name} -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = [match[1] for page in PAGES for match in pattern.finditer(read(page))]
    assert len(found) == 1, name
    return found[0]


def section(name: str) -> str:
    """Return the text between `<!-- name -->` and `<!-- /name -->`, which one page has once."""
    pattern = re.compile(rf"^<!-- {name} -->\n(.*?)\n<!-- /{name} -->$", re.MULTILINE | re.DOTALL)
    found = [match[1] for page in PAGES for match in pattern.finditer(read(page))]
    assert len(found) == 1, name
    return found[0]


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", read(page))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures."""
    return _LINK.findall(_CODE.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    return set(_anchors(prose(page)))


def _anchors(text: str) -> Iterator[str]:
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        yield f"{slug}-{count}" if count else slug
