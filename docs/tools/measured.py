"""All tables of measured figures, made from the files in `docs/measured`.

A figure in such a table cannot differ from what was measured: `tables.py` writes the tables, and a
test fails if a document has others. Each table names its files.

Does not know: Markdown files, how anything is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from docs.tools import (
    measured_cuts,
    measured_export,
    measured_gpu,
    measured_maps,
    measured_preview,
    measured_scale,
    measured_server,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TABLES: Final[dict[str, Callable[[], str]]] = {
    **measured_gpu.TABLES,
    **measured_export.TABLES,
    **measured_maps.TABLES,
    **measured_preview.TABLES,
    **measured_server.TABLES,
    **measured_scale.TABLES,
    **measured_cuts.TABLES,
}
