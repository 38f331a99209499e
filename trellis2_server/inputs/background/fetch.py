"""Program that fetches the files of a background model; `fetcher` runs it.

    python -m trellis2_server.inputs.background.fetch NAME [--reload | --inspect]

It fetches the files that are missing or damaged; with `--reload`, also those that no hash can
check. With `--inspect` it only says what is wrong.

It may use the network and write files, unlike the processes that see what clients send. It
writes lines of JSON to standard output: `{"file", "done", "total"}` while it downloads, bytes, and
the answer as the last one. It ends when its standard input is closed, which happens at any end of
its parent.

Several processes may fetch one file: each writes a file of its own, and renames it when it is
whole. A damaged file is not deleted but renamed, to `NAME.onnx.damaged`: it may be the operator's.

Does not know: how a model is loaded, who waits for it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

from trellis2_server.errors import EngineError, ServerError
from trellis2_server.inputs.background.model_files import (
    FileProblem,
    ModelFile,
    find_kind,
    find_problem,
    model_files,
    new_hash,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    #: Called with what is downloaded of a file, and its size, bytes; None: unknown.
    Note = Callable[[ModelFile, int, int | None], None]

#: Time to wait for the next bytes of a download, seconds.
_SILENCE_S: Final = 30.0
#: Age at which an unfinished download is nobody's any more, seconds.
_LEFTOVER_S: Final = 7200.0
#: Bytes at a time: on a slow line, progress shows every few seconds.
_CHUNK: Final = 2**16
#: How urgent the process is: the server compiles and loads meanwhile.
_NICENESS: Final = 10
#: Why a download failed, by the classes of `requests`, of which a later one may be a base class of
#: an earlier one.
_REASONS: Final = {
    "ChunkedEncodingError": "cut short",
    "ContentDecodingError": "cut short",
    "Timeout": f"no bytes for {_SILENCE_S:g} s",
    "ProxyError": "the proxy cannot be used",
    "SSLError": "no trusted certificate",
    "ConnectionError": "no connection, or it was lost",
}


def _note_nothing(file: ModelFile, done: int, total: int | None) -> None:
    """Do nothing: the progress of a download that nobody sees."""
    del file, done, total


def download(file: ModelFile, name: str, note: Note = _note_nothing) -> None:
    """Download a file, check it, and put it in its place.

    Args:
        file: with a URL.
        name: of the model, for messages.
        note: told how far it is.

    Raises:
        EngineError: the download failed, or is another file than rembg expects.
    """
    folder = file.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        descriptor, part = tempfile.mkstemp(".part", f".{file.path.name}.", folder)
        _unfinished.add(Path(part))
        with os.fdopen(descriptor, "wb") as output:
            digest = _copy(file, output, note)
        if file.known_hash not in {None, digest}:
            raise EngineError(
                f"the download of the background model {name} is not the file that rembg expects"
            )
        _move(Path(part), file, digest)
    except OSError as error:  # also those of requests
        raise EngineError(
            f"the background model {name} could not be downloaded ({_reason(error)})"
        ) from error
    finally:
        _remove_unfinished()


#: Files that are not whole yet.
_unfinished: set[Path] = set()


def _copy(file: ModelFile, output: IO[bytes], note: Note) -> str:
    requests: Any = importlib.import_module("requests")  # rembg's downloader needs it
    digest = new_hash(file.known_hash)
    headers = {"Accept-Encoding": "identity"}  # its length is then that of the file
    done = 0
    with requests.get(
        cast("str", file.url), headers=headers, stream=True, timeout=_SILENCE_S
    ) as reply:
        reply.raise_for_status()
        length = reply.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        note(file, 0, total)
        for chunk in reply.iter_content(_CHUNK):
            output.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            note(file, done, total)
    if total is not None and done < total:  # earlier versions of urllib3 do not check it
        raise requests.exceptions.ChunkedEncodingError
    output.flush()
    os.fsync(output.fileno())
    return f"{digest.name}:{digest.hexdigest()}"


def _reason(error: OSError) -> str:
    """Return in a few words why a download failed."""
    reply = getattr(error, "response", None)
    if reply is not None:
        return f"status {reply.status_code}"
    if error.strerror:
        return error.strerror
    names = [kind.__name__ for kind in type(error).__mro__]
    return next((text for name, text in _REASONS.items() if name in names), names[0])


def _move(part: Path, file: ModelFile, digest: str) -> None:
    """Put a download into its place, unless another server has just done so."""
    existing = file.digest()
    if existing == digest:
        return
    if existing is not None:
        with suppress(OSError):
            _set_aside(file, digest)
    part.chmod(0o644)  # temporary files are their owner's alone; the folder may be shared
    part.replace(file.path)


def _set_aside(file: ModelFile, digest: str) -> None:
    """Rename a damaged file to `NAME.onnx.damaged`.

    Under a name of its own first, where it is looked at again: another server may have put a whole
    file into the place, which must not replace what that server has set aside.
    """
    name = file.path.name
    held = file.path.with_name(f"{name}.{uuid.uuid4().hex}.damaged")
    file.path.replace(held)
    is_whole = replace(file, path=held).digest() == digest
    held.replace(file.path if is_whole else file.path.with_name(f"{name}.damaged"))


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes left that were killed."""
    for part in folder.glob(".*.onnx.*.part"):
        with suppress(OSError):
            if part.stat().st_mtime < time.time() - _LEFTOVER_S:
                part.unlink()


def _remove_unfinished() -> None:
    for part in list(_unfinished):
        part.unlink(missing_ok=True)
        _unfinished.discard(part)


def _fetch(name: str, note: Note, *, reload: bool) -> None:
    kind = find_kind(name)
    files = model_files(kind)
    for file in files:
        # Looked at again: another server may have fetched it meanwhile.
        if file.problem() is None and not (reload and file.known_hash is None):
            continue
        if file.url is not None:
            download(file, name, note)
        else:
            try:
                kind.download_models()
            except Exception as error:
                raise EngineError(
                    f"the background model {name} could not be fetched ({type(error).__name__})"
                ) from error


def _inspect(name: str) -> FileProblem | None:
    return find_problem(model_files(find_kind(name)))


def _end_with_parent() -> None:
    """End this process when its standard input is closed."""
    while os.read(0, 1):  # a buffered stream would be locked at the interpreter's end
        pass
    _remove_unfinished()
    os._exit(1)


def _progress_lines(output: IO[str]) -> Note:
    """Return a function that writes the progress of downloads."""

    def note(file: ModelFile, done: int, total: int | None) -> None:
        line = {"file": file.path.name, "done": done, "total": total}
        print(json.dumps(line), file=output, flush=True)

    return note


def _main(arguments: Sequence[str]) -> int:
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    # What libraries print must not get into the answer.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if hasattr(os, "nice"):  # Windows has none; there it competes with the server's start
        os.nice(_NICENESS)
    name, *flags = arguments
    result: dict[str, object] = {}
    try:
        if "--inspect" in flags:
            problem = _inspect(name)
            result["problem"] = problem and problem.to_json()
        else:
            _fetch(name, _progress_lines(answer), reload="--reload" in flags)
    except ServerError as error:
        result = {"error": str(error), "kind": type(error).__name__}
    with answer:
        json.dump(result, answer)
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
