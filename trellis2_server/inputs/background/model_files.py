"""The files of rembg's models: where they lie, and whether they are whole. Imports `rembg` late.

rembg says where a file is downloaded from, and its hash, only in a call of `pooch.retrieve`. That
call is made without effect here, in all versions of rembg. Later versions check no file that is
there already, and earlier ones check it only where they may write.

Does not know: how a file is downloaded, when a model is loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from trellis2_server.errors import EngineError, MissingPackageError
from trellis2_server.inputs.background.deferred_import import deferred_import

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

#: Environment variables that rembg reads: where the models lie, and whether they are checked.
MODEL_VARIABLES: Final = (
    "U2NET_HOME",
    "REMBG_HOME",
    "XDG_DATA_HOME",
    "HOME",
    "USERPROFILE",
    "MODEL_CHECKSUM_DISABLED",
)
_INSTALL: Final = 'pip install "rembg[cpu]"'
#: Only rembg's alpha matting needs it, which is not used here.
_MATTING: Final = "pymatting"
#: rembg converts a model with it where a file of another model exists; not while looking around.
_CONVERTER: Final = "onnx"
_CHUNK: Final = 2**20


@dataclass(frozen=True, slots=True)
class FileProblem:
    """Why a model cannot be loaded as it is.

    Attributes:
        file_name: name of the file, without its folder.
        state: whether it is missing or damaged.
        can_be_fetched: whether fetching it may help. A damaged file is not touched where checks
            are disabled: it may be the operator's own.
    """

    file_name: str
    state: Literal["missing", "damaged"]
    can_be_fetched: bool

    def to_json(self) -> dict[str, object]:
        """Return the problem as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> FileProblem:
        """Return the problem of `to_json`.

        Raises:
            ValueError: it is no such value.
        """
        match value:
            case {
                "file_name": str(name),
                "state": "missing" | "damaged" as state,
                "can_be_fetched": bool(can_be_fetched),
            }:
                return cls(name, state, can_be_fetched)
            case _:
                raise ValueError("no problem of a file")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that a model consists of.

    Attributes:
        path: where it lies or belongs.
        url: where it comes from; None: only rembg knows.
        known_hash: "algorithm:hex digits"; None: unknown, or not to be checked.
    """

    path: Path
    url: str | None
    known_hash: str | None

    def problem(self) -> FileProblem | None:
        """Return what is wrong with the file, as far as its hash shows it."""
        if self.known_hash is None:
            return None if self.path.is_file() else self._problem("missing")
        digest = self.digest()
        if digest == self.known_hash:
            return None
        return self._problem("missing" if digest is None else "damaged")

    def _problem(self, state: Literal["missing", "damaged"]) -> FileProblem:
        return FileProblem(self.path.name, state, can_be_fetched=True)

    def digest(self) -> str | None:
        """Return the hash of the file, in the form of `known_hash`; None: there is no file.

        Another server may move a damaged file away at any time.
        """
        digest = new_hash(self.known_hash)
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        return f"{digest.name}:{digest.hexdigest()}"


def new_hash(known_hash: str | None) -> Any:
    """Return a hash of the algorithm of a known one, SHA-256 without one."""
    algorithm = known_hash.partition(":")[0] if known_hash else "sha256"
    return hashlib.new(algorithm, usedforsecurity=False)


def model_folders() -> list[str]:
    """Return the folders where rembg's models may lie, and the targets of links in them.

    Does not import rembg. A folder need not exist.
    """
    given = os.environ.get
    data = given("XDG_DATA_HOME")
    folders = [
        Path(folder).expanduser()
        for folder in (
            given("U2NET_HOME") or Path(data or "~", ".u2net"),
            given("REMBG_HOME") or (Path(data, "rembg") if data else Path("~", ".rembg")),
        )
    ]
    paths = [file for folder in folders for file in folder.rglob("*")]
    targets = [path.resolve() for path in (*folders, *paths) if path.is_symlink()]
    return [str(path) for path in (*folders, *targets)]


def import_rembg() -> Any:
    """Import `rembg.sessions`.

    Raises:
        MissingPackageError: `rembg` or `onnxruntime` is not installed.
    """
    for package in ("rembg", "onnxruntime"):  # without onnxruntime, rembg prints and exits
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(f"{package} is not installed ({_INSTALL})")
    # Importing PyMatting compiles loops, once per installation, for most of a minute.
    with deferred_import(_MATTING):
        return importlib.import_module("rembg.sessions")


def find_kind(name: str) -> Any:
    """Return rembg's class of the model.

    Raises:
        MissingPackageError: `rembg` or `onnxruntime` is not installed.
        EngineError: rembg has no such model, or it runs on an external service.
    """
    kinds = import_rembg().sessions_class
    kind = next((kind for kind in kinds if kind.name() == name), None)
    if kind is None:
        raise EngineError(f"rembg has no background model {name!r}")
    if hasattr(kind, "is_local") and not kind.is_local():
        raise EngineError(f"the background model {name} would send the pictures to a service")
    return kind


def model_files(kind: Any) -> list[ModelFile]:
    """Return the files of a model, whether or not they exist.

    Not thread-safe: it replaces functions of other packages meanwhile.
    """
    calls: list[tuple[str, str | None, str, str]] = []

    def note(url: str, known_hash: str | None, fname: str, path: str, **_: object) -> str:
        calls.append((url, known_hash, fname, path))
        return str(Path(path, fname))

    # As if nothing were there. Newer versions of rembg do not say anything of a file otherwise.
    unseen = type("Unseen", (kind,), {"resolve_existing": classmethod(_find_nothing)})
    converter = sys.modules.get(_CONVERTER)
    sys.modules[_CONVERTER] = None  # pyright: ignore[reportArgumentType] - not importable
    try:
        with _replaced_retrieve(note), suppress(Exception):
            unseen.download_models()
    finally:
        del sys.modules[_CONVERTER]
        if converter is not None:
            sys.modules[_CONVERTER] = converter
    files = [
        ModelFile(_locate(kind, fname, Path(path, fname)), url, _normal_hash(known_hash))
        for url, known_hash, fname, path in calls
    ]
    if files:
        return files
    name = f"{kind.name()}.onnx"
    return [ModelFile(_locate(kind, name, Path(kind.u2net_home(), name)), None, None)]


def find_problem(files: list[ModelFile]) -> FileProblem | None:
    """Return the first problem of the files; None: all are there and, where known, whole."""
    return next((problem for file in files if (problem := file.problem())), None)


def unreadable(files: list[ModelFile]) -> FileProblem | None:
    """Return the problem of files that are there and cannot be loaded.

    None if all of them have their known hashes: then the files are not to blame.
    """
    unchecked = next((file for file in files if file.known_hash is None), None)
    if unchecked is None:
        return None
    may_replace = "MODEL_CHECKSUM_DISABLED" not in os.environ and unchecked.url is not None
    return FileProblem(unchecked.path.name, "damaged", can_be_fetched=may_replace)


@contextmanager
def existing_files_only() -> Generator[None]:
    """Let rembg take its files from where they lie, without a check or a download."""

    def find(url: str, known_hash: str | None, fname: str, path: str, **_: object) -> str:
        del url, known_hash
        return str(Path(path, fname))

    with _replaced_retrieve(find):
        yield


@contextmanager
def _replaced_retrieve(function: Callable[..., str]) -> Generator[None]:
    pooch: Any = importlib.import_module("pooch")
    retrieve = pooch.retrieve
    pooch.retrieve = function
    try:
        yield
    finally:
        pooch.retrieve = retrieve


def _find_nothing(*_: object, **__: object) -> None:
    """Replaces `resolve_existing`."""


def _locate(kind: Any, file_name: str, target: Path) -> Path:
    """Return where the file lies, otherwise where rembg would put it."""
    if hasattr(kind, "resolve_existing"):  # newer versions of rembg have a folder per model
        return Path(kind.resolve_existing(file_name) or target)
    return target


def _normal_hash(known_hash: str | None) -> str | None:
    """Return the hash with its algorithm, in lower case; None: of an unknown algorithm."""
    if known_hash is None:
        return None
    algorithm, _, digits = known_hash.rpartition(":")
    algorithm = algorithm or "sha256"
    return f"{algorithm}:{digits}".lower() if algorithm in hashlib.algorithms_available else None
