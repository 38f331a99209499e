"""`JobFiles`: the files of a `DiskStore`, with their SHA-256.

Does not know: records, the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from trellis2_server.errors import StoreError
from trellis2_server.storage.content import OpenFile
from trellis2_server.storage.file_system import FileSystem, error_reason, make_private_folder
from trellis2_server.storage.store import FILE_NAME, UID, Artifact

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from trellis2_server.storage.content import FileIdentity

logger = logging.getLogger(__name__)


class JobFiles:
    """Files in a folder, by job and name.

    Args:
        folder: made by `prepare`.
        file_system: calls on the files.
    """

    def __init__(self, folder: Path, file_system: FileSystem) -> None:
        self._folder = folder
        self._broken_folder = folder.with_name(f"{folder.name}.broken")
        self._file_system = file_system
        self._has_unsynced_names = False
        #: The SHA-256 of each file, by uid and name.
        self._files: dict[str, dict[str, tuple[Artifact, bytes]]] = {}
        self._verified: dict[Artifact, FileIdentity] = {}
        self._open_files: WeakValueDictionary[Artifact, OpenFile] = WeakValueDictionary()

    # ---- which files there are -------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be made.
        """
        make_private_folder(self._folder)

    def load(self, files: Mapping[Artifact, bytes]) -> None:
        """Take over the files with these SHA-256 that exist and have the right size."""
        self._files = {}
        for artifact, digest in files.items():
            if self._has_size(artifact):
                self._files.setdefault(artifact.uid, {})[artifact.name] = artifact, digest

    def of(self, uid: str) -> dict[Artifact, bytes]:
        """Return the files of a job, with their SHA-256."""
        return dict(self._files.get(uid, {}).values())

    def _has_size(self, artifact: Artifact) -> bool:
        try:
            return self._file_system.size(self._path(artifact)) == artifact.size
        except OSError as error:  # it may be readable later
            reason = error_reason(error)
            logger.warning("%s: %s", artifact.name, reason, extra={"uid": artifact.uid})
            return True

    def _path(self, artifact: Artifact) -> Path:
        """Return the path of a file; made only of names that the server itself chose."""
        if not (UID.fullmatch(artifact.uid) and FILE_NAME.fullmatch(artifact.name)):
            raise ValueError(f"not a file of a job: {artifact}")
        return self._folder / f"{artifact.uid}-{artifact.name}"

    # ---- files that are not known ----------------------------------------------------

    def sweep(self, *, set_aside: bool) -> None:
        """Remove all other files or, if they may be of interest, set them aside.

        Files that cannot be removed now are removed the next time.
        """
        listed = {
            self._path(artifact).name
            for files in self._files.values()
            for artifact, _ in files.values()
        }
        try:
            entries = self._file_system.entries(self._folder)
            unlisted = [path for path in entries if path.name not in listed and _is_own(path)]
            if set_aside and unlisted:
                self.remove_broken()
                make_private_folder(self._broken_folder)
        except OSError as error:
            logger.warning("Files that no record lists stay: %s", error_reason(error))
            return
        for path in unlisted:
            try:
                self._remove_unlisted(path, set_aside=set_aside)
            except OSError as error:  # noqa: PERF203 - each file counts for itself
                logger.warning("%s stays: %s", path.name, error_reason(error))

    def _remove_unlisted(self, path: Path, *, set_aside: bool) -> None:
        if set_aside and not path.name.endswith("~"):
            self._file_system.replace(path, self._broken_folder / path.name)
        elif _is_folder(path):
            self._file_system.remove_folder(path)
        else:
            self._file_system.remove(path)

    def remove_broken(self) -> None:
        """Remove what was set aside."""
        shutil.rmtree(self._broken_folder, ignore_errors=True)

    # ---- one file --------------------------------------------------------------------

    def write(self, artifact: Artifact, content: bytes) -> None:
        """Write a file.

        Raises:
            StoreError: the file could not be written; what is left of it is never served.
        """
        path = self._path(artifact)
        draft = path.with_name(f"{path.name}~")
        try:
            for taken in (draft, path):
                if _is_folder(taken):
                    self._file_system.remove_folder(taken)
            self._file_system.write(draft, content)
            self._has_unsynced_names = True
            self._file_system.replace(draft, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file_system.remove(draft)
            raise StoreError(f"a result could not be written: {error_reason(error)}") from error
        digest = hashlib.sha256(content).digest()
        self._files.setdefault(artifact.uid, {})[artifact.name] = artifact, digest

    def open_file(self, artifact: Artifact) -> OpenFile:
        """Open a file that is exactly as it was written; the same one while it is open.

        Thread-safe, except that one thread at a time may open the same file.

        Raises:
            StoreError: the file is missing, damaged, or cannot be read.
        """
        known, digest = self._files.get(artifact.uid, {}).get(artifact.name, (None, b""))
        if known != artifact:
            raise StoreError(f"{artifact.name} is no longer stored", is_lost=True)
        try:
            file = OpenFile(self._file_system.open(self._path(artifact)), artifact.name)
        except OSError as error:
            raise StoreError(
                f"{artifact.name} cannot be read: {error_reason(error)}",
                is_lost=isinstance(
                    error, FileNotFoundError | NotADirectoryError | IsADirectoryError
                ),
            ) from error
        shared = self._open_files.get(artifact)
        if shared is not None and shared.identity == file.identity:
            return shared
        if self._verified.get(artifact) != file.identity:
            if file.size != artifact.size or file.sha256() != digest:
                raise StoreError(f"{artifact.name} was damaged on the disk", is_lost=True)
            self._verified[artifact] = file.identity
        self._open_files[artifact] = file
        return file

    def remove(self, artifact: Artifact) -> None:
        """Remove a file; if that is not possible, it is not served all the same."""
        files = self._files.get(artifact.uid, {})
        files.pop(artifact.name, None)
        if not files:
            self._files.pop(artifact.uid, None)
        self._verified.pop(artifact, None)
        with contextlib.suppress(OSError):
            self._file_system.remove(self._path(artifact))

    def remove_of(self, uids: Iterable[str]) -> None:
        """Remove all files of jobs."""
        for uid in uids:
            for artifact in self.of(uid):
                self.remove(artifact)

    def sync(self) -> None:
        """Have the files that were written so far survive a power failure.

        Raises:
            StoreError: that is not certain.
        """
        if self._has_unsynced_names:
            try:
                self._file_system.sync_folder(self._folder)
            except OSError as error:
                raise StoreError(f"a result could not be written: {error_reason(error)}") from error
            self._has_unsynced_names = False


def _is_own(path: Path) -> bool:
    """Whether this server may remove a path: not other folders, such as lost+found."""
    return not _is_folder(path) or UID.match(path.name) is not None


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
