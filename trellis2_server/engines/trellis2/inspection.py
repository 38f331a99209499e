"""What will not work with TRELLIS.2 and what to do about it, before anything is loaded.

Nothing is downloaded, and the network is asked only where the caller says so.

What this module does not know: how the findings are shown.
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
from trellis2_server.engines.trellis2 import checkpoint as files
from trellis2_server.engines.trellis2 import environment, loading, upstream_glb
from trellis2_server.engines.trellis2.engine import MODELS, PLANS
from trellis2_server.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trellis2_server.settings import ModelSettings

#: DINOv3 came with 4.56.
_LEAST_TRANSFORMERS: Final = (4, 56)
#: What TRELLIS.2's authors ask for, all models on the GPU; and about what the weights take.
_ASKED_VRAM_GIB: Final = 24
_WEIGHTS_GIB: Final = 16
_GIB: Final = 2**30
#: What TRELLIS.2's own checkpoint names; both are gated.
_ENCODER: Final = "facebook/dinov3-vitl16-pretrain-lvd1689m"
_REMOVER: Final = "briaai/RMBG-2.0"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: "packages", "trellis2", "device", "extensions", "export", "checkpoint", "encoder",
            "background", "disk".
        level: `error`: TRELLIS.2 will not start; `warning`: it will, but slower or with less.
        text: a sentence; what to do, where something is to be done.
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
    """All that can be known about TRELLIS.2 without loading it.

    Args:
        settings: as it would be started with.
        pipeline_type: what requests get by default, for the memory.
        exports: whether TRELLIS.2's own exporter is to write the GLBs.
        ask_network: whether the Hugging Face Hub is asked for sizes and access.
    """
    findings = [*_packages(), *_clone(settings)]
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
        if package == "transformers" and numbers and numbers < _LEAST_TRANSFORMERS:
            yield Finding("packages", "error", f"transformers {version} is too old: {install}")
    yield Finding("packages", "ok", ", ".join(versions))


def _clone(settings: ModelSettings) -> Iterator[Finding]:
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
    built = torch.version.cuda or getattr(torch.version, "hip", None) or "none"
    missing = environment.missing_device(settings.device)
    if missing:
        yield Finding("device", "error", f"{missing} (PyTorch is built for CUDA or ROCm: {built})")
        return
    if settings.device == "cpu":
        yield Finding(
            "device", "warning", "the CPU: more than an hour a model with TRELLIS.2's own weights"
        )
        return
    if settings.device.partition(":")[0] != "cuda":
        yield Finding("device", "warning", f"{settings.device}: TRELLIS.2 was never tried on it")
        return
    properties = torch.cuda.get_device_properties(settings.device)
    gib = properties.total_memory / _GIB
    yield Finding("device", "ok", f"{properties.name}, {gib:.0f} GiB, PyTorch for {built}")
    kernel = f"sm_{properties.major}{properties.minor}"
    made_for = torch.cuda.get_arch_list()
    if torch.version.cuda and not _has_kernels(properties.major, properties.minor, made_for):
        yield Finding(
            "device",
            "error",
            f"this build of PyTorch has no kernels for the GPU's {kernel}, only for "
            f"{' '.join(made_for)}: install a newer PyTorch",
        )
    yield from _memory(settings, gib, pipeline_type)


def _has_kernels(major: int, minor: int, made_for: list[str]) -> bool:
    """Compiled code runs on later minor versions; PTX (compute_) on all later ones."""
    for entry in made_for:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", entry)
        if found is None:
            continue
        its = int(found[2]), int(found[3])
        if found[1] == "compute" and its <= (major, minor):
            return True
        if found[1] == "sm" and its[0] == major and its[1] <= minor:
            return True
    return False


def _memory(settings: ModelSettings, gib: float, pipeline_type: str) -> Iterator[Finding]:
    # A 24 GB card has a little less than 24 GiB.
    if gib >= _ASKED_VRAM_GIB - 1:
        return
    advice = "" if settings.low_vram else "set model.low_vram to true, and "
    lower = PLANS[pipeline_type].next
    less = f"generation.pipeline_type to {lower}" if lower else "expect jobs to run out of memory"
    yield Finding(
        "device",
        "warning",
        f"TRELLIS.2's authors ask for {_ASKED_VRAM_GIB} GB of GPU memory: {advice}{less}",
    )


def _extensions(settings: ModelSettings) -> Iterator[Finding]:
    for extension in portable.inspect(settings.device, environment.alternatives()):
        if extension.kind == "real":
            yield Finding("extensions", "ok", f"{extension.name}: {extension.why or 'installed'}")
        else:
            yield Finding(
                "extensions",
                "warning",
                f"{extension.name}: a slower stand-in takes its place ({extension.why})",
            )


def _exporter(settings: ModelSettings, findings: list[Finding]) -> Finding:
    lacking = upstream_glb.lacking()
    if settings.device.partition(":")[0] != "cuda":
        lacking = f"it runs on CUDA alone, and model.device is {settings.device}"
    elif lacking is None and any(f.what == "device" and f.level == "error" for f in findings):
        lacking = "the device is not there"
    if lacking:
        return Finding("export", "error", f"export.backend upstream: {lacking}")
    return Finding("export", "ok", "TRELLIS.2's own to_glb (nvdiffrast: not for commercial use)")


def _remover(settings: ModelSettings, args: Mapping[str, Any], *, ask_network: bool) -> Finding:
    try:
        environment.import_remover(files.remover(args)[0])
        name = str(files.remover(args)[1].get("model_name"))
        if ask_network or settings.offline:
            files.check_remover(settings, args)
            return Finding("background", "ok", f"{name}, with the code that it brings")
    except EngineError as error:
        return Finding("background", "error", str(error))
    return Finding("background", "warning", f"whether {name} may be downloaded was not asked")


def _checkpoint(
    settings: ModelSettings, *, has_packages: bool, ask_network: bool
) -> Iterator[Finding]:
    local = settings.model_copy(update={"offline": True})
    try:
        args = files.read_pipeline(local)
        name = files.encoder_name(local, args)
        absent = files.absent(local, MODELS)
        if settings.background == "upstream" and has_packages:
            yield _remover(settings, args, ask_network=ask_network)
    except EngineError as error:
        if Path(settings.model_path).expanduser().is_dir() or settings.offline:
            yield Finding("checkpoint", "error", str(error))
        else:
            yield Finding(
                "checkpoint",
                "warning",
                f"{settings.model_path} is not on this machine; the start downloads it, about "
                f"{_WEIGHTS_GIB} GiB",
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
    absent: Mapping[str, files.HubFile],
    encoder: str,
    *,
    ask_network: bool,
) -> Iterator[Finding]:
    """What a download would bring, and whether it may."""
    level: Literal["error", "warning"] = "error" if settings.offline else "warning"
    size = f"{len(absent)} files"
    if ask_network:
        try:
            needed = sum(files.sizes(absent).values())
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
    """Whether what lies on the disk is whole, and fits the models."""

    def ignore(stage: str, step: int, steps: int) -> None:
        del stage, step, steps

    try:
        found = files.find(settings, MODELS, ignore)
        for model in found.models:
            files.read_header(model.weights)
        if has_packages:
            # The models are built without memory; any device does.
            usable = environment.missing_device(settings.device) is None
            device = settings.device if usable else "cpu"
            upstream = environment.import_upstream(settings.model_copy(update={"device": device}))
            with contextlib.redirect_stdout(sys.stderr):  # TRELLIS.2 prints its choices
                loading.check(upstream, found)
    except EngineError as error:
        yield Finding("checkpoint", "error", str(error))
        return
    lacking = [name for name in MODELS if name not in {model.name for model in found.models}]
    if lacking:
        yield Finding("checkpoint", "warning", f"it has no {', '.join(lacking)}")
    if found.mesh_encoder is None:
        yield Finding(
            "checkpoint", "warning", f"it has no {files.MESH_ENCODER}: given meshes are refused"
        )
    size = sum(model.weights.stat().st_size for model in found.models) / _GIB
    how = "every tensor is there" if has_packages else "no file is cut short"
    yield Finding("checkpoint", "ok", f"{len(found.models)} models, {size:.1f} GiB, {how}")


def _access(repository: str, what: str = "checkpoint", *, ask_network: bool) -> Iterator[Finding]:
    if not ask_network:
        yield Finding(what, "warning", f"whether {repository} is gated was not asked")
        return
    try:
        files.check_access(repository)
    except EngineError as error:
        yield Finding(what, "error", str(error))
    else:
        yield Finding(what, "ok", f"{repository} can be downloaded")


def _disk(needed: int) -> Iterator[Finding]:
    folder = files.cache_folder()
    free = shutil.disk_usage(folder).free
    text = f"{free / _GIB:.0f} GiB are free for the download of {needed / _GIB:.1f} GiB"
    if free < needed:
        yield Finding("disk", "error", f"{text}; HF_HOME puts the cache elsewhere")
    else:
        yield Finding("disk", "ok", text)
