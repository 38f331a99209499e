"""Files of npm packages that pages load: the installed copy, or that of a CDN.

A copy is used only if it has the expected hash. So does a browser with that of a CDN, whose address
names an exact version.

Does not know: what the files do.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NODE_MODULES: Final = Path(__file__).resolve().parents[2] / "node_modules"
_CDN: Final = "https://cdn.jsdelivr.net/npm"


@dataclass(frozen=True, slots=True)
class VendoredFile:
    """A file of an npm package.

    Attributes:
        package: name of the package, as in `package.json`.
        version: its exact version, as there.
        path: path of the file in the package.
        integrity: its subresource integrity, `sha384-…`.
        folder: where packages are installed.
    """

    package: str
    version: str
    path: str
    integrity: str
    folder: Path = _NODE_MODULES

    @property
    def file(self) -> Path:
        """Where the installed copy is."""
        return self.folder / self.package / self.path

    @property
    def cdn_url(self) -> str:
        """Address of the copy on the CDN."""
        return f"{_CDN}/{self.package}@{self.version}/{self.path}"

    @property
    def name(self) -> str:
        """File name that differs between versions, so that it can be cached for ever."""
        path = Path(self.path)
        return f"{path.name.partition('.')[0]}-{self.version}{path.suffix}"

    def is_installed(self) -> bool:
        """Return whether the copy is installed, with the expected hash."""
        return _has_integrity(self.file, self.integrity)


@functools.cache
def _has_integrity(file: Path, integrity: str) -> bool:
    """Return whether a file exists and has this subresource integrity, `sha384-…`."""
    try:
        digest = hashlib.sha384(file.read_bytes()).digest()
    except OSError:
        return False
    return "sha384-" + base64.b64encode(digest).decode() == integrity
