"""Files on the Hugging Face Hub: cached, downloaded, and what prevents a download.

The repositories of the default checkpoint are pinned to commits: the content of a branch may
change at any time, and weights are run by this process.

Does not know: checkpoints, which files are needed.
"""

from __future__ import annotations

import errno
import http
import importlib
import inspect
import logging
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trellis2_server.reports import Report

logger = logging.getLogger(__name__)

_MIB: Final = 2**20
#: A download is reported each time this much has arrived.
_REPORT_EVERY_BYTES: Final = 16 * _MIB
#: Remains free on the disk after a download.
_SPARE_BYTES: Final = 512 * _MIB
_NO_SPACE_OR_ACCESS: Final = frozenset({errno.ENOSPC, errno.EACCES, errno.EROFS})


#: Commit of each repository that the default checkpoint consists of.
PINNED_COMMITS: Final[Mapping[str, str]] = {
    "microsoft/TRELLIS.2-4B": "af44b45f2e35a493886929c6d786e563ec68364d",
    "microsoft/TRELLIS-image-large": "25e0d31ffbebe4b5a97464dd851910efc3002d96",
    "facebook/dinov3-vitl16-pretrain-lvd1689m": "ea8dc2863c51be0a264bab82070e3e8836b02d51",
}


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the Hugging Face Hub.

    Attributes:
        repository: "owner/name".
        path: path in the repository.
        revision: branch, tag or commit; None for the default branch.
    """

    repository: str
    path: str
    revision: str | None


def locate(repository: str, path: str, revision: str | None = None, *, offline: bool) -> HubFile:
    """Return a file of a repository; without a revision, at the pinned commit if there is one.

    Offline, a copy of the default branch serves where the cache has none of that commit.

    Args:
        repository: "owner/name".
        path: path in the repository.
        revision: branch, tag or commit.
        offline: the setting.
    """
    file = HubFile(repository, path, revision or PINNED_COMMITS.get(repository))
    newest = HubFile(repository, path, revision)
    if file == newest or not is_offline(offline=offline):
        return file
    found = cached({"pinned": file, "newest": newest})
    if "pinned" in found or "newest" not in found:
        return file
    logger.warning("Not at the pinned commit: %s of %s", path, repository)
    return newest


def fetch(
    files: Mapping[str, HubFile], *, offline: bool, report: Report | None = None
) -> dict[str, Path]:
    """Return the path of each file in the Hub's cache; download missing files.

    Args:
        files: by any key.
        offline: whether a file that is not in the cache is an error.
        report: stage "download", in MiB.

    Raises:
        EngineError: a file cannot be downloaded, or the disk is too small for all of them.
    """
    found = cached(files)
    absent = {key: file for key, file in files.items() if key not in found}
    if absent and is_offline(offline=offline):
        file = next(iter(absent.values()))
        raise EngineError(
            f"{file.path} of {file.repository} is not on this machine, and model.offline forbids "
            "downloading it"
        )
    return found | _download_all(absent, report)


def is_offline(*, offline: bool) -> bool:
    """Whether the setting or the Hub's own variable forbids downloads."""
    return offline or os.environ.get("HF_HUB_OFFLINE") == "1"


def cached(files: Mapping[str, HubFile]) -> dict[str, Path]:
    """Return the path of each file that is in the Hub's cache; use no network."""
    if not files:
        return {}
    hub = _client()
    paths = {
        key: hub.try_to_load_from_cache(file.repository, file.path, revision=file.revision)
        for key, file in files.items()
    }
    return {key: Path(path) for key, path in paths.items() if isinstance(path, str)}


def sizes(files: Mapping[str, HubFile]) -> dict[str, int]:
    """Return the size of each file, bytes; one request to the Hub per repository.

    Raises:
        EngineError: the Hub cannot be reached, or does not have the files.
    """
    hub = _client()
    found = dict.fromkeys(files, 0)
    groups: dict[tuple[str, str | None], dict[str, str]] = {}
    for key, file in files.items():
        groups.setdefault((file.repository, file.revision), {})[file.path] = key
    for (repository, revision), keys in groups.items():
        with _TranslatedErrors(hub, repository):
            for info in hub.HfApi().get_paths_info(repository, list(keys), revision=revision):
                found[keys[info.path]] = info.size
    return found


def check_access(repository: str) -> None:
    """Ask the Hub whether this machine may download from a repository.

    Raises:
        EngineError: it may not; says what to do.
    """
    hub = _client()
    with _TranslatedErrors(hub, repository):
        hub.HfApi().auth_check(repository)


def cache_folder() -> Path:
    """Return the folder of the Hub's cache, or its nearest parent that exists."""
    folder = Path(_client().constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    return folder


class DownloadProgress:
    """Reports a download in MiB.

    Args:
        report: stage "download"; None reports nothing.
        total: size of all files, MiB.

    Attributes:
        raised: exception that the report raised; None otherwise.
    """

    def __init__(self, report: Report | None, total: int) -> None:
        self._report, self._total = report, total
        self._done = 0
        self._reported = 0
        self.raised: BaseException | None = None

    def set(self, done: int) -> None:
        """Report that `done` bytes have arrived."""
        self._done = self._reported = done
        if self._report:
            self._report("download", min(done // _MIB, self._total), self._total)

    def add(self, more: int) -> None:
        """Count `more` bytes; report at intervals."""
        self._done += more
        if self._done - self._reported >= _REPORT_EVERY_BYTES:
            try:
                self.set(self._done)
            except BaseException as error:
                self.raised = error
                raise

    def bar_class(self) -> Any:
        """Return a class of progress bar for the Hub's client: it counts and shows nothing."""
        tqdm: Any = importlib.import_module("tqdm").tqdm
        add = self.add

        class Bar(tqdm):
            """Counts."""

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> None:
                add(int(n or 0))

        return Bar


def _client() -> Any:
    return importlib.import_module("huggingface_hub")


def _download_all(files: Mapping[str, HubFile], report: Report | None) -> dict[str, Path]:
    if not files:
        return {}
    bytes_of = sizes(files)
    _check_disk(sum(bytes_of.values()))
    total = math.ceil(sum(bytes_of.values()) / _MIB)
    progress = DownloadProgress(report, total)
    found: dict[str, Path] = {}
    done = 0
    for key, file in files.items():
        progress.set(done)
        found[key] = Path(_download(file, progress))
        done += bytes_of[key]
    progress.set(total * _MIB)
    return found


def _download(file: HubFile, progress: DownloadProgress) -> str:
    hub = _client()
    more: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters:  # not in old versions
        more["tqdm_class"] = progress.bar_class()
    with _TranslatedErrors(hub, file.repository, progress):
        return hub.hf_hub_download(file.repository, file.path, revision=file.revision, **more)


def _check_disk(needed: int) -> None:
    free = shutil.disk_usage(cache_folder()).free
    if free < needed + _SPARE_BYTES:
        raise EngineError(
            f"the download takes {needed / 2**30:.1f} GiB, and the disk of the Hugging Face cache "
            f"has {free / 2**30:.1f} GiB left; set HF_HOME to move the cache"
        )


class _TranslatedErrors:
    """Context that translates errors of the Hub's client; errors of the report pass."""

    def __init__(self, hub: Any, repository: str, progress: DownloadProgress | None = None) -> None:
        self._errors = hub.errors
        self._repository = repository
        self._progress = progress

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if not isinstance(error, Exception):
            return
        if self._progress is not None and error is self._progress.raised:
            return
        raise EngineError(self._message(error)) from error

    def _message(self, error: Exception) -> str:
        errors, name = self._errors, self._repository
        if isinstance(error, errors.GatedRepoError):
            return (
                f"{name} is gated: accept its terms at https://huggingface.co/{name} and set "
                "HF_TOKEN; or set model.image_encoder to an ungated copy if it is the encoder, "
                "model.background to rembg if it is the background remover"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return f"{name} has no such revision (model.revision)"
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(
            error, errors.LocalEntryNotFoundError
        ):
            return f"{name} lacks a file that its pipeline.json names"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"the Hugging Face Hub has no {name}, or a token is needed to see it (HF_TOKEN)"
        return f"{name} could not be downloaded: {_cause(error)}"


def _cause(error: Exception) -> str:
    """Cause of an error of the Hub's client, of the network or of the disk; what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == http.HTTPStatus.UNAUTHORIZED:
        return (
            "the Hub does not accept this machine's token (HF_TOKEN, or that of hf auth login): "
            "it is wrong or has expired"
        )
    if status == http.HTTPStatus.FORBIDDEN:
        return (
            "this machine's token may not read it; give the token access to gated repositories "
            "at https://huggingface.co/settings/tokens"
        )
    if status is not None:
        return f"the Hub answered {status}; try again later"
    if isinstance(error, OSError) and error.errno in _NO_SPACE_OR_ACCESS:
        return f"{error.strerror} (the cache is in {cache_folder()}; set HF_HOME to move it)"
    return (
        f"{type(error).__name__}; is the Hub reachable from here? model.model_path and "
        "model.image_encoder may name folders that have the files"
    )
