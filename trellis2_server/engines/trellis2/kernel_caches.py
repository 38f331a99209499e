"""Where tuned and compiled kernels are kept between starts.

FlexGEMM times several configurations of a kernel for each new size, and stores the fastest in a
file (`FLEX_GEMM_AUTOTUNE_CACHE_PATH`) that it reads when it is imported; it has none for many
GPUs. Triton stores compiled kernels in a folder (`TRITON_CACHE_DIR`). Both default to the home
folder, which a service's user often does not have.

Does not know: what is tuned, when.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping

logger = logging.getLogger(__name__)

FLEX_GEMM_VARIABLE: Final = "FLEX_GEMM_AUTOTUNE_CACHE_PATH"
TRITON_VARIABLE: Final = "TRITON_CACHE_DIR"
_TRITON_HOME: Final = "TRITON_HOME"
_NAME: Final = "trellis2-server"
_FILE: Final = "autotune_cache.json"
#: Where FlexGEMM's installation puts the configurations that come with it.
_SHIPPED: Final = Path(".flex_gemm") / _FILE
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def keep(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables of FlexGEMM and Triton that the user has not set.

    To be called before FlexGEMM is imported. A variable that is set stays; its folder is made.
    """
    chosen = environ.get(FLEX_GEMM_VARIABLE)
    if chosen:
        _check_chosen(Path(chosen))
    else:
        file = _folder(environ, "flex_gemm") / _FILE
        _fill(file, environ)
        environ[FLEX_GEMM_VARIABLE] = str(file)
    if not environ.get(TRITON_VARIABLE) and not _is_writable(_triton_home(environ)):
        environ[TRITON_VARIABLE] = str(_folder(environ, "triton"))


def cache_folders(environ: MutableMapping[str, str], platform: str = sys.platform) -> list[Path]:
    """Return this user's cache folders by the rules of the platform, the first to try first."""
    folders: list[Path] = []
    xdg = environ.get("XDG_CACHE_HOME", "")
    if Path(xdg).is_absolute():  # others are to be ignored (XDG Base Directory Specification)
        folders.append(Path(xdg))
    home = _home(environ)
    if platform == "win32":
        local = environ.get("LOCALAPPDATA")
        folders += [Path(local)] if local else []
        folders += [home / "AppData" / "Local"] if home else []
    elif home is not None:
        folders.append(home / "Library" / "Caches" if platform == "darwin" else home / ".cache")
    return folders


def _folder(environ: MutableMapping[str, str], name: str) -> Path:
    """Make and return a folder of this user alone; a temporary one where none can be kept."""
    for parent in cache_folders(environ):
        folder = parent / _NAME / name
        with contextlib.suppress(OSError):
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if all(_is_private(each) for each in (folder.parent, folder)):
                return folder
    folder = Path(tempfile.mkdtemp(prefix=f"{_NAME}-{name}-"))
    logger.warning(
        "Tuned kernels are lost at the next start: no cache folder of this user's is writable; "
        "set XDG_CACHE_HOME"
    )
    return folder


def _is_private(folder: Path) -> bool:
    """Whether this user owns a folder, can write to it, and nobody else can.

    The folder has code that this process runs.
    """
    if not os.access(folder, os.W_OK):
        return False
    if not hasattr(os, "getuid"):
        return True
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & _WRITABLE_BY_OTHERS


def _fill(file: Path, environ: MutableMapping[str, str]) -> None:
    """Begin with the configurations that came with FlexGEMM; remove a file that is not JSON.

    With a file that it cannot read FlexGEMM cannot be imported.
    """
    if file.exists() and not _is_json(file):
        logger.warning("The file of tuned kernels was not readable and is removed")
        file.unlink()
    home = _home(environ)
    if home is not None and not file.exists():
        shipped = home / _SHIPPED
        with contextlib.suppress(OSError):
            if _is_json(shipped):
                shutil.copyfile(shipped, file)


def _check_chosen(file: Path) -> None:
    """Make the folder of the user's file; warn if FlexGEMM will not be able to write it."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # FlexGEMM writes a file beside it, and renames that.
    if not (file.parent.is_dir() and os.access(file.parent, os.W_OK)):
        # FlexGEMM saves within the first call of each size, and its error would fail the job.
        logger.warning(
            "%s is not writable: set FLEX_GEMM_AUTOSAVE_AUTOTUNE_CACHE=0 to use it as it is",
            FLEX_GEMM_VARIABLE,
        )


def _is_json(file: Path) -> bool:
    try:
        return isinstance(json.loads(file.read_text("utf-8")), dict)
    except (OSError, ValueError):
        return False


def _triton_home(environ: MutableMapping[str, str]) -> Path | None:
    chosen = environ.get(_TRITON_HOME)
    home = Path(chosen) if chosen else _home(environ)
    return None if home is None else home / ".triton" / "cache"


def _is_writable(folder: Path | None) -> bool:
    """Whether a folder can be written to, or made."""
    if folder is None:
        return False
    first = next((each for each in _with_parents(folder) if each.exists()), None)
    return first is not None and os.access(first, os.W_OK | os.X_OK)


def _with_parents(folder: Path) -> Iterator[Path]:
    yield folder
    yield from folder.parents


def _home(environ: MutableMapping[str, str]) -> Path | None:
    home = environ.get("HOME") or environ.get("USERPROFILE")
    if home:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:  # no entry in the user database
        return None
