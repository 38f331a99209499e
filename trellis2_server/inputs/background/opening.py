"""Open a background model: load it, or fetch its files first where they are missing or damaged.

Does not know: where models are loaded, how files are fetched, who waits.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, TypeVar

from trellis2_server.errors import EngineError
from trellis2_server.inputs.background.model_files import FileProblem

if TYPE_CHECKING:
    from collections.abc import Callable

    from trellis2_server.inputs.background.fetcher import ModelFetcher

logger = logging.getLogger(__name__)

_Session = TypeVar("_Session")


class Fetch(Protocol):
    """Fetches the files of a model; see `fetch.ModelFetcher.fetch`."""

    def __call__(self, name: str, *, reload: bool) -> None:
        """Return when all files are there."""
        ...


def open_model(
    name: str, load: Callable[[str], _Session | FileProblem], fetch: Fetch, *, offline: bool
) -> _Session:
    """Load a model, and fetch its files once if they are missing or damaged.

    Args:
        name: the model's name.
        load: returns what it loaded, or why the files cannot be used.
        fetch: fetches the files.
        offline: whether a file that would have to be fetched is an error.

    Raises:
        MissingPackageError: a package is not installed.
        EngineError: the model cannot be loaded or fetched; the message names a damaged file.
    """
    loaded = load(name)
    if not isinstance(loaded, FileProblem):
        return loaded
    if offline or not loaded.can_be_fetched:
        raise problem_error(name, loaded, offline=offline)
    if loaded.state == "damaged":
        logger.warning(
            "Damaged background model is fetched again",
            extra={"model": name, "file": loaded.file_name},
        )
    # A damaged file whose hash is known is found again by its hash.
    fetch(name, reload=loaded.state == "damaged")
    loaded = load(name)
    if isinstance(loaded, FileProblem):
        raise problem_error(name, loaded, offline=False)
    return loaded


def fetch_ahead(name: str, fetcher: ModelFetcher, *, offline: bool) -> None:
    """Have the files of a model fetched that are missing or damaged, without loading it.

    A file whose hash is not known is not looked at: whether it is whole shows when it is loaded.

    Args:
        name: the model's name.
        fetcher: fetches the files, or looks at them.
        offline: whether a file that would have to be fetched is an error.

    Raises:
        MissingPackageError: a package is not installed.
        EngineError: a file cannot be fetched; the message names a damaged one.
    """
    if not offline:
        fetcher.fetch(name)
        return
    problem = fetcher.inspect(name)
    if problem is not None:
        error = problem_error(name, problem, offline=True)
        fetcher.note_failure(name, str(error))
        raise error


def problem_error(name: str, problem: FileProblem, *, offline: bool) -> EngineError:
    """Return the error for files that stay as they are."""
    if problem.state == "missing":
        where = "this machine, which is offline" if offline else "this machine"
        return EngineError(f"the background model {name} is not on {where}")
    if not problem.can_be_fetched:
        reason = "; it is not fetched again because MODEL_CHECKSUM_DISABLED is set"
    elif offline:
        reason = ", and this machine is offline"
    else:
        reason = " again after it was fetched"
    return EngineError(
        f"the file {problem.file_name} of the background model {name} is damaged{reason}"
    )
