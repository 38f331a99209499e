"""A checkpoint's files: where they are, whether they are whole, and how they get here.

`pipeline.json` names the models; each is a `.json` beside a `.safetensors`, in the same
folder or, where the name begins with another repository's, in that one. The image encoder is
a third repository. TRELLIS.2's own loader takes what it finds: a tensor that is missing
stays random, a file that is missing becomes a question to the Hub. So all is looked at
before anything is loaded: the header of a safetensors file names its tensors and their place
in it, which is enough to know a file that was cut short.

What this module does not know: PyTorch, the models' classes.
"""

from __future__ import annotations

import errno
import http
import importlib
import inspect
import json
import logging
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from trellis2_server.settings import ModelSettings

    Report = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)

PIPELINE_FILE: Final = "pipeline.json"
#: Names the one model more that a given mesh needs.
TEXTURING_FILE: Final = "texturing_pipeline.json"
MESH_ENCODER: Final = "shape_slat_encoder"
#: What a pipeline needs besides its models.
_SECTIONS: Final = (
    "sparse_structure_sampler",
    "shape_slat_sampler",
    "tex_slat_sampler",
    "shape_slat_normalization",
    "tex_slat_normalization",
    "image_cond_model",
)
ENCODER_WEIGHTS: Final = "model.safetensors"
_ENCODER_FILES: Final = ("config.json", ENCODER_WEIGHTS)
#: No header of a checkpoint is nearly as large; a file that says so is none.
_MAX_HEADER_BYTES: Final = 100_000_000
_MIB: Final = 2**20
_SAID_EVERY_BYTES: Final = 16 * _MIB
#: Left free on the disk after a download.
_SPARE_BYTES: Final = 512 * _MIB


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model on the disk.

    Attributes:
        name: in `pipeline.json`.
        config: `.json` with the class' name and arguments.
        weights: `.safetensors`.
    """

    name: str
    config: Path
    weights: Path

    def read_config(self) -> tuple[str, dict[str, Any]]:
        """The class' name and its constructor's arguments.

        Raises:
            EngineError: the file is not such a thing.
        """
        content = _read_json(self.config)
        name, args = content.get("name"), content.get("args")
        if not isinstance(name, str) or not isinstance(args, dict):
            raise EngineError(f"the checkpoint's {self.config.name} names no class and arguments")
        return name, args


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files are all there.

    Attributes:
        args: of `pipeline.json`.
        models: in the order of `pipeline.json`.
        encoder: folder of the image encoder.
        mesh_encoder: what given meshes are encoded with; None: the checkpoint has none.
    """

    args: Mapping[str, Any]
    models: tuple[ModelFiles, ...]
    encoder: str
    mesh_encoder: ModelFiles | None = None


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on the Hugging Face Hub.

    Attributes:
        repository: "owner/name".
        path: in it.
        revision: branch, tag or commit; None: the default branch.
    """

    repository: str
    path: str
    revision: str | None


def find(settings: ModelSettings, wanted: Sequence[str], report: Report) -> Checkpoint:
    """The checkpoint, downloaded if it must and may be.

    The image encoder comes first: it is the gated one, and nobody wants to hear that after
    16 GB.

    Args:
        settings: `model_path`, `revision`, `offline`, `image_encoder`.
        wanted: the models that are used; others in `pipeline.json` are left alone.
        report: stage "download", in MiB.

    Raises:
        EngineError: a file is missing, cannot be had, or does not fit on the disk.
    """
    args = read_pipeline(settings)
    if settings.background == "upstream":
        check_remover(settings, args)
    missing = [name for name in wanted if name not in args["models"]]
    if missing:
        logger.warning("Checkpoint without some models", extra={"missing": missing})
    names = [name for name in wanted if name in args["models"]]
    if not names:
        raise EngineError("the checkpoint's pipeline.json names none of TRELLIS.2's models")
    found = fetch(_wanted_files(settings, args, names), offline=settings.offline, report=report)

    def files_of(name: str) -> ModelFiles:
        return ModelFiles(name, found[f"{name}.json"], found[f"{name}.safetensors"])

    return Checkpoint(
        args=args,
        models=tuple(files_of(name) for name in names),
        encoder=str(found[f"encoder/{_ENCODER_FILES[0]}"].parent),
        mesh_encoder=files_of(MESH_ENCODER) if f"{MESH_ENCODER}.json" in found else None,
    )


def _mesh_encoder(settings: ModelSettings, args: Mapping[str, Any]) -> str | None:
    """Where in the checkpoint the encoder of given meshes is, if it has one."""
    if MESH_ENCODER in args["models"]:
        return args["models"][MESH_ENCODER]
    try:
        place = _place(settings, TEXTURING_FILE)
        path = fetch({TEXTURING_FILE: place}, offline=settings.offline)[TEXTURING_FILE]
    except EngineError as error:
        logger.info("Given meshes cannot be textured: %s", error)
        return None
    section = _read_json(path).get("args")
    models: object = section.get("models") if isinstance(section, dict) else None
    return models.get(MESH_ENCODER) if isinstance(models, dict) else None


def absent(settings: ModelSettings, wanted: Sequence[str]) -> dict[str, HubFile]:
    """What `find` would download; asks nobody.

    Raises:
        EngineError: `pipeline.json` is not on this machine either, or is none.
    """
    args = read_pipeline(settings)
    names = [name for name in wanted if name in args["models"]]
    places = _wanted_files(settings, args, names)
    remote = {key: file for key, file in places.items() if isinstance(file, HubFile)}
    have = _cached(importlib.import_module("huggingface_hub"), remote) if remote else {}
    return {key: file for key, file in remote.items() if key not in have}


def _wanted_files(
    settings: ModelSettings, args: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Path | HubFile]:
    encoder = encoder_name(settings, args)
    local = _local_encoder(settings, encoder)
    files: dict[str, Path | HubFile] = {
        f"encoder/{file}": local / file if local else HubFile(encoder, file, None)
        for file in _ENCODER_FILES
    }
    stems = {name: args["models"][name] for name in names}
    mesh_encoder = _mesh_encoder(settings, args)
    if mesh_encoder is not None:
        stems[MESH_ENCODER] = mesh_encoder
    for name, stem in stems.items():
        for suffix in (".json", ".safetensors"):
            files[name + suffix] = _place(settings, stem + suffix)
    return files


def read_pipeline(settings: ModelSettings) -> dict[str, Any]:
    """`args` of `pipeline.json`, with all the sections that are needed.

    Raises:
        EngineError: the file cannot be had, or lacks one.
    """
    place = _place(settings, PIPELINE_FILE)
    path = fetch({PIPELINE_FILE: place}, offline=settings.offline)[PIPELINE_FILE]
    args = _read_json(path).get("args")
    if not isinstance(args, dict) or not isinstance(args.get("models"), dict):
        raise EngineError("the checkpoint's pipeline.json has no models: is it TRELLIS.2's?")
    for section in _SECTIONS:
        if not isinstance(args.get(section), dict):
            raise EngineError(f"the checkpoint's pipeline.json lacks {section}")
    return args


def encoder_name(settings: ModelSettings, args: Mapping[str, Any]) -> str:
    """Folder or repository of the image encoder."""
    if settings.image_encoder:
        return settings.image_encoder
    section = args["image_cond_model"]
    name = section.get("args", {}).get("model_name")
    if section.get("name") != "DinoV3FeatureExtractor" or not isinstance(name, str):
        raise EngineError(
            "the checkpoint's pipeline.json asks for the image encoder "
            f"{section.get('name')!r}; this server knows DinoV3FeatureExtractor"
        )
    return name


def remover(args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class and arguments of TRELLIS.2's background remover.

    Raises:
        EngineError: the checkpoint has none.
    """
    section: object = args.get("rembg_model")
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise EngineError("model.background: the checkpoint's pipeline.json has no rembg_model")
    return section["name"], dict(section.get("args", {}))


def check_remover(settings: ModelSettings, args: Mapping[str, Any]) -> None:
    """Whether the remover's files are here or may be had, before anything large is downloaded.

    Raises:
        EngineError: they may not, and what to do about it.
    """
    name = str(remover(args)[1].get("model_name", ""))
    if Path(name).expanduser().is_dir() or _cached(
        importlib.import_module("huggingface_hub"), {"": HubFile(name, "config.json", None)}
    ):
        return
    if settings.offline or os.environ.get("HF_HUB_OFFLINE") == "1":
        raise EngineError(
            f"model.background: {name} is not on this machine, and model.offline forbids to "
            "download it"
        )
    check_access(name)


def read_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor → shape, of a safetensors file that is as long as its header says.

    Format: https://huggingface.co/docs/safetensors, "Format".

    Raises:
        EngineError: the file is missing, damaged or cut short.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            # A length that cannot be one is read as none, which is no JSON either.
            text = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
        header: dict[str, Any] = json.loads(text)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        shapes = {key: tuple(entry["shape"]) for key, entry in header.items()}
    except OSError as error:
        raise EngineError(
            f"the checkpoint's {path.name} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(f"the checkpoint's {path.name} is no safetensors file") from error
    if size != 8 + length + end:
        raise EngineError(
            f"the checkpoint's {path.name} is cut short: {size} bytes of {8 + length + end}; "
            "delete it and download it again"
        )
    return shapes


def compare(
    name: str,
    have: Mapping[str, tuple[int, ...]],
    parameters: Mapping[str, tuple[int, ...]],
) -> None:
    """Check that every parameter of a model is in its file, with the same shape.

    Raises:
        EngineError: says which are not.
    """
    missing = sorted(parameters.keys() - have.keys())
    other = sorted(k for k in parameters.keys() & have.keys() if have[k] != parameters[k])
    for what, keys in (("lacks", missing), ("has another shape of", other)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise EngineError(
                f"the checkpoint's {name} {what} {keys[0]}{more}: it belongs to another "
                "version of TRELLIS.2, or was cut down"
            )


def fetch(
    files: Mapping[str, Path | HubFile], *, offline: bool, report: Report | None = None
) -> dict[str, Path]:
    """Each file on this machine's disk.

    Args:
        files: by any key; a path stays what it is.
        offline: whether what is not in the Hub's cache is an error.
        report: stage "download", in MiB.

    Raises:
        EngineError: a file is missing or cannot be had; all of them do not fit on the disk.
    """
    found = {key: file for key, file in files.items() if isinstance(file, Path)}
    for path in found.values():
        if not path.is_file():
            raise EngineError(
                f"the checkpoint lacks {path.name}: download it again, or let "
                "model.model_path name a whole one"
            )
    remote = {key: file for key, file in files.items() if isinstance(file, HubFile)}
    if not remote:
        return found
    hub: Any = importlib.import_module("huggingface_hub")
    found |= _cached(hub, remote)
    absent = {key: file for key, file in remote.items() if key not in found}
    if absent and (offline or os.environ.get("HF_HUB_OFFLINE") == "1"):
        file = next(iter(absent.values()))
        raise EngineError(
            f"{file.path} of {file.repository} is not on this machine, and model.offline forbids "
            "to download it"
        )
    return found | _downloaded(hub, absent, report)


def _cached(hub: Any, files: Mapping[str, HubFile]) -> dict[str, Path]:
    """Those of the files that the Hub's cache has."""
    places = {
        key: hub.try_to_load_from_cache(file.repository, file.path, revision=file.revision)
        for key, file in files.items()
    }
    return {key: Path(place) for key, place in places.items() if isinstance(place, str)}


def _downloaded(hub: Any, files: Mapping[str, HubFile], report: Report | None) -> dict[str, Path]:
    if not files:
        return {}
    bytes_of = sizes(files)
    _check_disk(sum(bytes_of.values()))
    total = math.ceil(sum(bytes_of.values()) / _MIB)
    progress = _Bytes(report, total)
    found: dict[str, Path] = {}
    done = 0
    for key, file in files.items():
        progress.set(done)
        found[key] = Path(_download(hub, file, progress))
        done += bytes_of[key]
    progress.set(total * _MIB)
    return found


class _Bytes:
    """Reports a download in MiB, and remembers what the report raised."""

    def __init__(self, report: Report | None, total: int) -> None:
        self._report, self._total = report, total
        self._done = 0
        self._said = 0
        self.raised: BaseException | None = None

    def set(self, done: int) -> None:
        """So many bytes are here; said in any case."""
        self._done = self._said = done
        if self._report:
            self._report("download", min(done // _MIB, self._total), self._total)

    def add(self, more: int) -> None:
        """More bytes of the file that is on its way; said now and then."""
        self._done += more
        if self._done - self._said >= _SAID_EVERY_BYTES:
            try:
                self.set(self._done)
            except BaseException as error:
                self.raised = error
                raise

    def bar(self) -> Any:
        """A class for the Hub's client, which shows a bar of it to nobody."""
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


def sizes(files: Mapping[str, HubFile]) -> dict[str, int]:
    """Bytes of each file; asks the Hub once for each repository.

    Raises:
        EngineError: the Hub cannot be reached, or does not have them.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    found = dict.fromkeys(files, 0)
    groups: dict[tuple[str, str | None], dict[str, str]] = {}
    for key, file in files.items():
        groups.setdefault((file.repository, file.revision), {})[file.path] = key
    for (repository, revision), keys in groups.items():
        with _hub_errors(hub, repository):
            for info in hub.HfApi().get_paths_info(repository, list(keys), revision=revision):
                found[keys[info.path]] = info.size
    return found


def check_access(repository: str) -> None:
    """Ask the Hub whether this machine may download from a repository.

    Raises:
        EngineError: it may not, and what to do about it.
    """
    hub: Any = importlib.import_module("huggingface_hub")
    with _hub_errors(hub, repository):
        hub.HfApi().auth_check(repository)


def cache_folder() -> Path:
    """Where the Hub's files go, or the nearest folder above that exists."""
    hub: Any = importlib.import_module("huggingface_hub")
    folder = Path(hub.constants.HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    return folder


def _place(settings: ModelSettings, path: str) -> Path | HubFile:
    """Where `path` of the checkpoint is."""
    folder = Path(settings.model_path).expanduser()
    if folder.is_dir():
        local = folder / path
        owner, _, rest = path.partition("/")
        name, _, rest = rest.partition("/")
        if local.exists() or not rest:
            return local
        # A model of another repository: "owner/name/path".
        return local if (folder / owner).is_dir() else HubFile(f"{owner}/{name}", rest, None)
    repository = settings.model_path
    parts = path.split("/")
    if path != PIPELINE_FILE and len(parts) > 3 and "/".join(parts[:2]) != repository:  # noqa: PLR2004 - owner/name/folder/file
        return HubFile("/".join(parts[:2]), "/".join(parts[2:]), None)
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise EngineError(f"model.model_path: no folder {repository!r} is there")
    return HubFile(repository, path, settings.revision)


def _local_encoder(settings: ModelSettings, name: str) -> Path | None:
    for folder in (Path(name).expanduser(), Path(settings.model_path).expanduser() / name):
        if (folder / "config.json").is_file():
            return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise EngineError("the image encoder's folder is not there; model.image_encoder names it")
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(
            f"the checkpoint's {path.name} cannot be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise EngineError(f"the checkpoint's {path.name} is no JSON") from error
    if not isinstance(content, dict):
        raise EngineError(f"the checkpoint's {path.name} is no JSON object")
    return content


def _check_disk(needed: int) -> None:
    free = shutil.disk_usage(cache_folder()).free
    if free < needed + _SPARE_BYTES:
        raise EngineError(
            f"the download takes {needed / 2**30:.1f} GiB, and the disk of the Hugging Face cache "
            f"has {free / 2**30:.1f} GiB left; HF_HOME puts the cache elsewhere"
        )


def _download(hub: Any, file: HubFile, progress: _Bytes) -> str:
    more: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hub.hf_hub_download).parameters:  # not in older ones
        more["tqdm_class"] = progress.bar()
    with _hub_errors(hub, file.repository, progress):
        return hub.hf_hub_download(file.repository, file.path, revision=file.revision, **more)


class _hub_errors:  # noqa: N801 - reads as the function it stands for
    """Says what keeps a repository's files from being had."""

    def __init__(self, hub: Any, repository: str, progress: _Bytes | None = None) -> None:
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
        errors, name = self._errors, self._repository
        if isinstance(error, errors.GatedRepoError):
            message = (
                f"{name} is gated: accept its terms at https://huggingface.co/{name} and set "
                "HF_TOKEN; or set model.image_encoder to an ungated copy if it is the encoder, "
                "model.background to rembg if it is the background remover"
            )
        elif isinstance(error, errors.RevisionNotFoundError):
            message = f"{name} has no such revision (model.revision)"
        elif isinstance(error, errors.EntryNotFoundError) and not isinstance(
            error, errors.LocalEntryNotFoundError
        ):
            message = f"{name} lacks a file that its pipeline.json names"
        elif isinstance(error, errors.RepositoryNotFoundError):
            message = (
                f"the Hugging Face Hub has no {name}, or a token is needed to see it (HF_TOKEN)"
            )
        else:
            message = f"{name} could not be downloaded: {_cause(error)}"
        raise EngineError(message) from error


def _cause(error: Exception) -> str:
    """What is behind an error of the Hub's client, of the network or of the disk."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == http.HTTPStatus.UNAUTHORIZED:
        return (
            "the Hub does not know this machine's token (HF_TOKEN, or that of hf auth login): it "
            "is wrong, or has expired"
        )
    if status == http.HTTPStatus.FORBIDDEN:
        return (
            "this machine's token may not read it; give the token access to gated repositories "
            "at https://huggingface.co/settings/tokens"
        )
    if status is not None:
        return f"the Hub answered {status}; try again later"
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EACCES, errno.EROFS}:
        return f"{error.strerror} (the cache is in {cache_folder()}; HF_HOME puts it elsewhere)"
    return (
        f"{type(error).__name__}; is the Hub reachable from here? model.model_path may name a "
        "folder that has the files"
    )
