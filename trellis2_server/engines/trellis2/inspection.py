"""Checks of the installation, device and checkpoint for TRELLIS.2, without loading it.

Nothing is downloaded. The network is used only if the caller allows it.

Does not know: how findings are shown.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from trellis2_server.engines import portable
from trellis2_server.engines.trellis2 import backends, environment, hub, loading, upstream_glb
from trellis2_server.engines.trellis2 import checkpoint as checkpoints
from trellis2_server.engines.trellis2.device_memory import DeviceMemory
from trellis2_server.engines.trellis2.pipeline_types import MODEL_NAMES, PIPELINE_TYPES
from trellis2_server.engines.trellis2.safetensors_header import read_header
from trellis2_server.engines.trellis2.upstream import import_remover, import_upstream
from trellis2_server.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trellis2_server.settings import ModelSettings

#: First version with DINOv3.
_MIN_TRANSFORMERS: Final = (4, 56)
#: GPU memory that TRELLIS.2's authors require with all models on the GPU, GiB.
_REQUIRED_VRAM_GIB: Final = 24
#: Approximate size of the weights, GiB.
_WEIGHTS_GIB: Final = 16
_GIB: Final = 2**30
#: Repositories that TRELLIS.2's own checkpoint names; both are gated.
_ENCODER: Final = "facebook/dinov3-vitl16-pretrain-lvd1689m"
_REMOVER: Final = "briaai/RMBG-2.0"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Attributes:
        what: "packages", "trellis2", "device", "extensions", "export", "checkpoint", "encoder",
            "background", "disk".
        level: `error`: TRELLIS.2 will not start; `warning`: it will be slower or lack a
            feature.
        text: one sentence; says what to do if something has to be done.
    """

    what: str
    level: Literal["ok", "warning", "error"]
    text: str


def inspect_trellis2(
    settings: ModelSettings,
    *,
    pipeline_type: str = "1024_cascade",
    exports: bool = False,
    ask_network: bool = False,
) -> list[Finding]:
    """Check everything that can be checked without loading TRELLIS.2.

    Args:
        settings: of the server.
        pipeline_type: default of requests, for the memory.
        exports: whether TRELLIS.2's own exporter writes the GLBs.
        ask_network: whether to ask the Hugging Face Hub for sizes and access.
    """
    findings = [*_packages(), *_checkout(settings)]
    has_torch = importlib.util.find_spec("torch") is not None
    if has_torch:
        findings += [*_device(settings, pipeline_type), *_extensions(settings)]
        if exports:
            findings.append(_exporter(settings, findings))
    has_packages = not any(
        finding.level == "error" for finding in findings if finding.what in {"packages", "trellis2"}
    )
    if importlib.util.find_spec("huggingface_hub") is not None:
        findings += _checkpoint(settings, has_packages=has_packages, ask_network=ask_network)
    return findings


def has_kernels(major: int, minor: int, architectures: list[str]) -> bool:
    """Whether a build of PyTorch has kernels for a GPU's compute capability.

    Compiled code (sm_) runs on later minor versions, PTX (compute_) on all later versions.

    Args:
        major: of the compute capability.
        minor: of the compute capability.
        architectures: of the build, for example "sm_90", "compute_90".
    """
    for architecture in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", architecture)
        if found is None:
            continue
        version = int(found[2]), int(found[3])
        if found[1] == "compute" and version <= (major, minor):
            return True
        if found[1] == "sm" and version[0] == major and version[1] <= minor:
            return True
    return False


def _packages() -> Iterator[Finding]:
    versions = [f"Python {platform.python_version()}"]
    for package, install in environment.PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            yield Finding("packages", "error", f"{package} is not installed: {install}")
            continue
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = "of unknown version"
        versions.append(f"{package} {version}")
        numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
        if package == "transformers" and numbers and numbers < _MIN_TRANSFORMERS:
            yield Finding("packages", "error", f"transformers {version} is too old: {install}")
    yield Finding("packages", "ok", ", ".join(versions))


def _checkout(settings: ModelSettings) -> Iterator[Finding]:
    try:
        home = environment.find_home(settings)
    except MissingPackageError as error:
        yield Finding("trellis2", "error", str(error))
        return
    spec = None if home else importlib.util.find_spec("trellis2")
    if home:
        yield Finding("trellis2", "ok", f"in {home}")
    elif spec and spec.origin:
        yield Finding("trellis2", "ok", f"in {Path(spec.origin).parent.parent}")
    else:
        yield Finding("trellis2", "error", environment.missing_package(settings) or "not found")


def _device(settings: ModelSettings, pipeline_type: str) -> Iterator[Finding]:
    torch: Any = importlib.import_module("torch")
    versions = {"CUDA": torch.version.cuda, "ROCm": getattr(torch.version, "hip", None)}
    built = next((f"for {name} {v}" for name, v in versions.items() if v), "without CUDA and ROCm")
    missing = environment.missing_device(settings.device)
    if missing:
        yield Finding("device", "error", f"{missing} (PyTorch is built {built})")
        return
    if settings.device == "cpu":
        yield Finding(
            "device", "warning", "cpu: more than an hour per model with TRELLIS.2's own weights"
        )
        return
    if settings.device.partition(":")[0] != "cuda":
        yield Finding("device", "warning", f"{settings.device}: TRELLIS.2 was never tested on it")
        return
    properties = torch.cuda.get_device_properties(settings.device)
    gib = properties.total_memory / _GIB
    yield Finding("device", "ok", f"{properties.name}, {gib:.0f} GiB, PyTorch {built}")
    kernel = f"sm_{properties.major}{properties.minor}"
    architectures = torch.cuda.get_arch_list()
    if torch.version.cuda and not has_kernels(properties.major, properties.minor, architectures):
        yield Finding(
            "device",
            "error",
            f"this build of PyTorch has no kernels for the GPU's {kernel}, only for "
            f"{' '.join(architectures)}: install a newer PyTorch",
        )
    yield from _memory(settings, gib, pipeline_type)


def _memory(settings: ModelSettings, gib: float, pipeline_type: str) -> Iterator[Finding]:
    # A 24 GB card has a little less than 24 GiB.
    if gib >= _REQUIRED_VRAM_GIB - 1:
        return
    # Null decides by the device's memory.
    advice = "set model.low_vram to null, and " if settings.low_vram is False else ""
    lower = PIPELINE_TYPES[pipeline_type].lower
    less = (
        f"set generation.pipeline_type to {lower}" if lower else "expect jobs to run out of memory"
    )
    yield Finding(
        "device",
        "warning",
        f"TRELLIS.2's authors require {_REQUIRED_VRAM_GIB} GB of GPU memory: {advice}{less}",
    )


def _extensions(settings: ModelSettings) -> Iterator[Finding]:
    with contextlib.ExitStack() as current:
        if environment.missing_device(settings.device) is None:
            torch: Any = importlib.import_module("torch")
            current.enter_context(DeviceMemory(torch, settings.device).as_current_device())
        found = portable.inspect(settings.device, backends.replaced_extensions())
        problems = backends.problems(settings.device)
    for problem in problems:
        yield Finding("extensions", "error", problem)
    for extension in found:
        if extension.kind == "real":
            yield Finding("extensions", "ok", f"{extension.name}: {extension.why or 'installed'}")
        else:
            yield Finding(
                "extensions",
                "warning",
                f"{extension.name}: replaced by a slower stand-in ({extension.why})",
            )


def _exporter(settings: ModelSettings, findings: list[Finding]) -> Finding:
    missing = upstream_glb.missing_part()
    if settings.device.partition(":")[0] != "cuda":
        missing = f"it runs on CUDA only, and model.device is {settings.device}"
    elif missing is None and any(f.what == "device" and f.level == "error" for f in findings):
        missing = "the device is not usable"
    if missing:
        return Finding("export", "error", f"export.backend upstream: {missing}")
    return Finding("export", "ok", "TRELLIS.2's own to_glb (nvdiffrast: not for commercial use)")


def _remover(settings: ModelSettings, args: Mapping[str, Any], *, ask_network: bool) -> Finding:
    try:
        import_remover(checkpoints.remover(args)[0])
        name = str(checkpoints.remover(args)[1].get("model_name"))
        if ask_network or settings.offline:
            checkpoints.check_remover(settings, args)
            return Finding("background", "ok", f"{name}, which runs code from its repository")
    except EngineError as error:
        return Finding("background", "error", str(error))
    return Finding("background", "warning", f"not checked: whether {name} can be downloaded")


def _checkpoint(
    settings: ModelSettings, *, has_packages: bool, ask_network: bool
) -> Iterator[Finding]:
    local = settings.model_copy(update={"offline": True})
    try:
        args = checkpoints.read_pipeline(local)
        name = checkpoints.encoder_name(local, args)
        absent = checkpoints.absent(local, MODEL_NAMES)
        if settings.background == "upstream" and has_packages:
            yield _remover(settings, args, ask_network=ask_network)
    except EngineError as error:
        if Path(settings.model_path).expanduser().is_dir() or settings.offline:
            yield Finding("checkpoint", "error", str(error))
        else:
            yield Finding(
                "checkpoint",
                "warning",
                f"{settings.model_path} is not on this machine; it is downloaded at the start, "
                f"about {_WEIGHTS_GIB} GiB",
            )
            yield from _access(settings.model_path, ask_network=ask_network)
            encoder = settings.image_encoder or _ENCODER
            if not Path(encoder).expanduser().is_dir():
                yield from _access(encoder, "encoder", ask_network=ask_network)
            if settings.background == "upstream":
                yield from _access(_REMOVER, "background", ask_network=ask_network)
            yield from _disk(_WEIGHTS_GIB * _GIB)
        return
    if absent:
        yield from _absent(settings, absent, name, ask_network=ask_network)
    else:
        yield from _files(local, has_packages=has_packages)


def _absent(
    settings: ModelSettings,
    absent: Mapping[str, hub.HubFile],
    encoder: str,
    *,
    ask_network: bool,
) -> Iterator[Finding]:
    """Size of the missing files, and whether they can be downloaded."""
    level: Literal["error", "warning"] = "error" if settings.offline else "warning"
    size = f"{len(absent)} files"
    if ask_network:
        try:
            needed = sum(hub.sizes(absent).values())
        except EngineError as error:
            yield Finding("checkpoint", "error", str(error))
        else:
            size = f"{len(absent)} files, {needed / _GIB:.1f} GiB"
            yield from _disk(needed)
    yield Finding("checkpoint", level, f"not on this machine yet: {size}")
    for repository in dict.fromkeys(file.repository for file in absent.values()):
        what = "encoder" if repository == encoder else "checkpoint"
        yield from _access(repository, what, ask_network=ask_network)


def _files(settings: ModelSettings, *, has_packages: bool) -> Iterator[Finding]:
    """Whether the files on the disk are complete and fit the models."""

    def ignore(stage: str, step: int, steps: int) -> None:
        del stage, step, steps

    try:
        found = checkpoints.find(settings, MODEL_NAMES, ignore)
        for model in found.models:
            read_header(model.weights)
        if has_packages:
            # The models are built without memory, so that any device will do.
            usable = environment.missing_device(settings.device) is None
            device = settings.device if usable else "cpu"
            upstream = import_upstream(settings.model_copy(update={"device": device}))
            with contextlib.redirect_stdout(sys.stderr):  # TRELLIS.2 prints its choices
                loading.check(upstream, found)
    except EngineError as error:
        yield Finding("checkpoint", "error", str(error))
        return
    missing = [name for name in MODEL_NAMES if name not in {m.name for m in found.models}]
    if missing:
        yield Finding("checkpoint", "warning", f"it has no {', '.join(missing)}")
    if found.mesh_encoder is None:
        yield Finding(
            "checkpoint",
            "warning",
            f"it has no {checkpoints.MESH_ENCODER}: uploaded meshes cannot be textured",
        )
    size = sum(model.weights.stat().st_size for model in found.models) / _GIB
    how = "every tensor is present" if has_packages else "no file is truncated"
    yield Finding("checkpoint", "ok", f"{len(found.models)} models, {size:.1f} GiB, {how}")


def _access(repository: str, what: str = "checkpoint", *, ask_network: bool) -> Iterator[Finding]:
    if not ask_network:
        yield Finding(what, "warning", f"not checked: whether {repository} is gated")
        return
    try:
        hub.check_access(repository)
    except EngineError as error:
        yield Finding(what, "error", str(error))
    else:
        yield Finding(what, "ok", f"{repository} can be downloaded")


def _disk(needed: int) -> Iterator[Finding]:
    folder = hub.cache_folder()
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.0f} GiB are free for the download of {needed / _GIB:.1f} GiB"
    if free < needed:
        yield Finding("disk", "error", f"{text}; set HF_HOME to move the cache")
    else:
        yield Finding("disk", "ok", text)
