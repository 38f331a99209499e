"""Configuration of the documentation site.

    pip install -r docs/requirements.txt
    sphinx-build -W -n -c docs . site

The source folder is the repository's root, not `docs`: every page stays where GitHub shows it,
and a relative link means the same file on GitHub and on the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT: Final = Path(__file__).resolve().parents[1]

#: The site's navigation: heading, then pages in order. Every page must be listed.
NAVIGATION: Final = {
    "Use": (
        "docs/api",
        "docs/clients",
        "docs/protocols",
        "docs/configuration",
        "docs/troubleshooting",
    ),
    "Operate": ("docs/operations", "docs/security", "docs/scale"),
    "Engines": ("docs/trellis2", "docs/preview", "docs/gpu", "docs/export"),
    "Develop": ("docs/architecture", "docs/extending", "CONTRIBUTING", "CHANGELOG"),
}

project = "trellis2-server"
version = release = re.findall(
    r'__version__ = "(.+)"', (ROOT / "trellis2_server/__init__.py").read_text(encoding="utf-8")
)[0]

extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md"]
# Folders that may be large are not searched for pages.
exclude_patterns = [".*", "node_modules", "out", "site", "tests", "trellis2_server"]

myst_heading_anchors = 4

html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False


def add_navigation(_: Sphinx, page: str, content: list[str]) -> None:
    """Append `NAVIGATION` to the first page; on GitHub it would be noise."""
    if page == root_doc:
        for heading, pages in NAVIGATION.items():
            content[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {heading}\n\n"
            content[0] += "\n".join(f"/{each}" for each in pages) + "\n```\n"


def add_index(app: Sphinx, error: Exception | None) -> None:
    """Make the site's address lead to its first page."""
    if error is None:
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks and a lexer; called by Sphinx."""
    from pygments.lexers.special import TextLexer

    app.add_lexer("caddy", TextLexer)  # Pygments has none; GitHub has
    app.connect("source-read", add_navigation)
    app.connect("build-finished", add_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
