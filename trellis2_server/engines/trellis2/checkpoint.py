"""A checkpoint's files: where they are, and whether all of them exist.

`pipeline.json` names the models. Each model is a `.json` and a `.safetensors` file in the same
folder or repository, or in another repository that its name begins with. The image encoder is
a third repository. TRELLIS.2's own loader hides a missing file and asks the Hub for it; here
all files are found, or downloaded, before anything is loaded.

Does not know: PyTorch, the models' classes, the contents of the weights.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trellis2_server.engines.trellis2 import hub
from trellis2_server.engines.trellis2.hub import HubFile
from trellis2_server.engines.trellis2.pipeline_types import MESH_ENCODER
from trellis2_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trellis2_server.reports import Report
    from trellis2_server.settings import ModelSettings

logger = logging.getLogger(__name__)

PIPELINE_FILE: Final = "pipeline.json"
#: Names the encoder of uploaded meshes, which `pipeline.json` may leave out.
TEXTURING_FILE: Final = "texturing_pipeline.json"
ENCODER_WEIGHTS: Final = "model.safetensors"
_ENCODER_FILES: Final = ("config.json", ENCODER_WEIGHTS)
#: Sections of `pipeline.json` that a pipeline needs besides its models.
_SECTIONS: Final = (
    "sparse_structure_sampler",
    "shape_slat_sampler",
    "tex_slat_sampler",
    "shape_slat_normalization",
    "tex_slat_normalization",
    "image_cond_model",
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Files of one model.

    Attributes:
        name: name of the model in `pipeline.json`.
        config: `.json` file with the class's name and arguments.
        weights: `.safetensors` file.
    """

    name: str
    config: Path
    weights: Path

    def read_config(self) -> tuple[str, dict[str, Any]]:
        """Read the class's name and its constructor's arguments.

        Raises:
            EngineError: the file cannot be read or has neither.
        """
        content = _read_json(self.config)
        name, args = content.get("name"), content.get("args")
        if not isinstance(name, str) or not isinstance(args, dict):
            raise EngineError(f"the checkpoint's {self.config.name} has no class and arguments")
        return name, args


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose files all exist.

    Attributes:
        args: `args` of `pipeline.json`.
        models: in the order of `pipeline.json`.
        encoder: folder of the image encoder.
        mesh_encoder: encoder of uploaded meshes; None if the checkpoint has none.
    """

    args: Mapping[str, Any]
    models: tuple[ModelFiles, ...]
    encoder: str
    mesh_encoder: ModelFiles | None = None


def find(settings: ModelSettings, wanted: Sequence[str], report: Report) -> Checkpoint:
    """Find the checkpoint's files; download missing files if that is allowed.

    The image encoder is downloaded first: it is gated, so that a missing permission is
    reported before the download of 16 GB.

    Args:
        settings: `model_path`, `revision`, `offline`, `image_encoder`.
        wanted: names of the models; others in `pipeline.json` are ignored.
        report: stage "download", in MiB.

    Raises:
        EngineError: a file is missing, cannot be downloaded, or does not fit on the disk.
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
    locations = _locations(settings, args, names)
    found = _fetch(locations, offline=settings.offline, report=report)

    def files_of(name: str) -> ModelFiles:
        return ModelFiles(name, found[f"{name}.json"], found[f"{name}.safetensors"])

    return Checkpoint(
        args=args,
        models=tuple(files_of(name) for name in names),
        encoder=str(found[f"encoder/{_ENCODER_FILES[0]}"].parent),
        mesh_encoder=files_of(MESH_ENCODER) if f"{MESH_ENCODER}.json" in found else None,
    )


def absent(settings: ModelSettings, wanted: Sequence[str]) -> dict[str, HubFile]:
    """Return the files that `find` would download; use no network.

    Raises:
        EngineError: `pipeline.json` is not on this machine, or is not usable.
    """
    args = read_pipeline(settings)
    names = [name for name in wanted if name in args["models"]]
    locations = _locations(settings, args, names)
    remote = {key: file for key, file in locations.items() if isinstance(file, HubFile)}
    cached = hub.cached(remote)
    return {key: file for key, file in remote.items() if key not in cached}


def read_pipeline(settings: ModelSettings) -> dict[str, Any]:
    """Read `args` of `pipeline.json` and check that it has all sections.

    Raises:
        EngineError: the file cannot be read or downloaded, or lacks a section.
    """
    location = _location(settings, PIPELINE_FILE)
    path = _fetch({PIPELINE_FILE: location}, offline=settings.offline)[PIPELINE_FILE]
    args = _read_json(path).get("args")
    if not isinstance(args, dict) or not isinstance(args.get("models"), dict):
        raise EngineError("the checkpoint's pipeline.json has no models: is it TRELLIS.2's?")
    for section in _SECTIONS:
        if not isinstance(args.get(section), dict):
            raise EngineError(f"the checkpoint's pipeline.json lacks {section}")
    return args


def encoder_name(settings: ModelSettings, args: Mapping[str, Any]) -> str:
    """Return the folder or repository of the image encoder.

    Raises:
        EngineError: the checkpoint uses another kind of encoder.
    """
    if settings.image_encoder:
        return settings.image_encoder
    section = args["image_cond_model"]
    name = section.get("args", {}).get("model_name")
    if section.get("name") != "DinoV3FeatureExtractor" or not isinstance(name, str):
        raise EngineError(
            "the checkpoint's pipeline.json asks for the image encoder "
            f"{section.get('name')!r}; this server supports DinoV3FeatureExtractor"
        )
    return name


def remover(args: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the class and arguments of TRELLIS.2's background remover.

    Raises:
        EngineError: the checkpoint has none.
    """
    section: object = args.get("rembg_model")
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise EngineError("model.background: the checkpoint's pipeline.json has no rembg_model")
    return section["name"], dict(section.get("args", {}))


def check_remover(settings: ModelSettings, args: Mapping[str, Any]) -> None:
    """Check that the remover's files exist or can be downloaded.

    Raises:
        EngineError: they cannot; says what to do.
    """
    name = str(remover(args)[1].get("model_name", ""))
    if Path(name).expanduser().is_dir() or hub.cached({"": HubFile(name, "config.json", None)}):
        return
    if hub.is_offline(offline=settings.offline):
        raise EngineError(
            f"model.background: {name} is not on this machine, and model.offline forbids "
            "downloading it"
        )
    hub.check_access(name)


def _locations(
    settings: ModelSettings, args: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Path | HubFile]:
    """Where each file of the image encoder and of the models is, the encoder first."""
    encoder = encoder_name(settings, args)
    local = _local_encoder(settings, encoder)
    files: dict[str, Path | HubFile] = {
        f"encoder/{file}": (
            local / file if local else hub.locate(encoder, file, offline=settings.offline)
        )
        for file in _ENCODER_FILES
    }
    stems = {name: args["models"][name] for name in names}
    mesh_encoder = _mesh_encoder(settings, args)
    if mesh_encoder is not None:
        stems[MESH_ENCODER] = mesh_encoder
    for name, stem in stems.items():
        for suffix in (".json", ".safetensors"):
            files[name + suffix] = _location(settings, stem + suffix)
    return files


def _mesh_encoder(settings: ModelSettings, args: Mapping[str, Any]) -> str | None:
    """Path, without suffix, of the encoder of uploaded meshes; None if there is none."""
    if MESH_ENCODER in args["models"]:
        return args["models"][MESH_ENCODER]
    try:
        location = _location(settings, TEXTURING_FILE)
        path = _fetch({TEXTURING_FILE: location}, offline=settings.offline)[TEXTURING_FILE]
    except EngineError as error:
        logger.info("Uploaded meshes cannot be textured: %s", error)
        return None
    section = _read_json(path).get("args")
    models: object = section.get("models") if isinstance(section, dict) else None
    return models.get(MESH_ENCODER) if isinstance(models, dict) else None


def _fetch(
    files: Mapping[str, Path | HubFile], *, offline: bool, report: Report | None = None
) -> dict[str, Path]:
    """Path of each file on this machine's disk; files of the Hub are downloaded."""
    found = {key: file for key, file in files.items() if isinstance(file, Path)}
    for path in found.values():
        if not path.is_file():
            raise EngineError(
                f"the checkpoint lacks {path.name}: download it again, or set model.model_path "
                "to a complete one"
            )
    remote = {key: file for key, file in files.items() if isinstance(file, HubFile)}
    return found | hub.fetch(remote, offline=offline, report=report)


def _location(settings: ModelSettings, path: str) -> Path | HubFile:
    """Where a file is that `pipeline.json` names, or `pipeline.json` itself."""
    folder = Path(settings.model_path).expanduser()
    if folder.is_dir():
        local = folder / path
        owner, _, rest = path.partition("/")
        name, _, rest = rest.partition("/")
        if local.exists() or not rest:
            return local
        # A model of another repository: "owner/name/path".
        if (folder / owner).is_dir():
            return local
        return hub.locate(f"{owner}/{name}", rest, offline=settings.offline)
    repository = settings.model_path
    parts = path.split("/")
    if path != PIPELINE_FILE and len(parts) > 3 and "/".join(parts[:2]) != repository:  # noqa: PLR2004 - owner/name/folder/file
        other, rest = "/".join(parts[:2]), "/".join(parts[2:])
        return hub.locate(other, rest, offline=settings.offline)
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise EngineError(f"model.model_path: there is no folder {repository!r}")
    return hub.locate(repository, path, settings.revision, offline=settings.offline)


def _local_encoder(settings: ModelSettings, name: str) -> Path | None:
    for folder in (Path(name).expanduser(), Path(settings.model_path).expanduser() / name):
        if (folder / "config.json").is_file():
            return folder
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise EngineError(
            "the image encoder's folder does not exist; set model.image_encoder to a folder or "
            "repository"
        )
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EngineError(
            f"the checkpoint's {path.name} cannot be read: {error.strerror}"
        ) from error
    except ValueError as error:
        raise EngineError(f"the checkpoint's {path.name} is not JSON") from error
    if not isinstance(content, dict):
        raise EngineError(f"the checkpoint's {path.name} is not a JSON object")
    return content
