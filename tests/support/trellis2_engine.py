"""TRELLIS.2 for tests: the package that TRELLIS2_HOME names, or the small stand-in.

The weights are random: tests look at the calls of the package, not at the shapes.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trellis2_server.engines.trellis2 import Trellis2Engine
from trellis2_server.engines.trellis2.upstream import import_upstream
from trellis2_server.errors import EngineError
from trellis2_server.inputs.images import Cutout
from trellis2_server.mesh import Mesh, Shape, VoxelField
from trellis2_server.parameters import Options, read_options
from trellis2_server.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
STANDIN = ROOT / "tests" / "support" / "standin"
HOME = Path(os.environ.get("TRELLIS2_HOME") or STANDIN)
TYPES = ("512", "1024", "1024_cascade", "1536_cascade")
NEEDED = ("torch", "transformers", "safetensors", "easydict", "tqdm", "huggingface_hub")

needs_checkout = pytest.mark.skipif(HOME == STANDIN, reason="needs TRELLIS2_HOME")


class CancelledError(Exception):
    """Raised by a report, as for a cancelled job."""


def silent(stage: str, step: int, steps: int) -> None:
    """Ignore a report."""


def settings(folder: Path | str, **more: Any) -> ModelSettings:
    return ModelSettings(
        engine="trellis2",
        model_path=str(folder),
        device="cpu",
        trellis2_path=str(HOME),
        offline=True,
        **more,
    )


def options(pipeline_type: str = "512", **more: Any) -> Options:
    """Options with two steps per sampler."""
    fields = {f"{stage}_sampling_steps": 2 for stage in ("ss", "shape", "tex")}
    return read_options({"pipeline_type": pipeline_type, "seed": 7, **fields, **more}, Settings())


def picture(hue: int = 0) -> Cutout:
    """A disc in two colours."""
    rgba = np.zeros((64, 64, 4), np.uint8)
    y, x = np.mgrid[:64, :64]
    rgba[(y - 32) ** 2 + (x - 32) ** 2 < 1000] = (200, 60 + hue, 40, 255)
    rgba[:32][rgba[:32, :, 3] > 0] = (30, 90, 220 - hue, 255)
    return Cutout(rgba, "alpha")


def cone() -> Mesh:
    """A small closed surface in the model frame: it covers few voxels."""
    angle = np.arange(24) * np.pi / 12 + 0.05
    ring = np.stack([0.48 * np.cos(angle), 0.48 * np.sin(angle), np.full(24, -0.49)], axis=1)
    vertices = np.concatenate([ring, [[0, 0, 0.49], [0, 0, -0.49]]]).astype(np.float32) * 0.09
    i, j = np.arange(24), np.roll(np.arange(24), -1)
    sides = np.stack([i, j, np.full(24, 24)], axis=1)
    floor = np.stack([j, i, np.full(24, 25)], axis=1)
    return Mesh(vertices, np.concatenate([sides, floor]).astype(np.int32))


def write_checkpoint(folder: Path, **kinds: Any) -> Path:
    """Write a tiny random checkpoint."""
    import_upstream(settings(folder))
    return importlib.import_module("tests.support.tiny_checkpoint").write(folder, **kinds)


def edit_pipeline(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change `args` of a checkpoint's pipeline.json."""
    file = folder / "pipeline.json"
    content = json.loads(file.read_text())
    change(content["args"])
    file.write_text(json.dumps(content))


def edit_weights(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of a safetensors file."""
    tensors = importlib.import_module("safetensors.torch")
    content = tensors.load_file(file)
    change(content)
    tensors.save_file(content, file, metadata={"format": "pt"})


def load(folder: Path | str, **more: Any) -> Trellis2Engine:
    """An engine with that checkpoint loaded."""
    engine = Trellis2Engine(settings(folder, **more))
    engine.load(silent)
    return engine


def load_error(folder: Path | str, **more: Any) -> str:
    """The text of the error with which a load fails; it has no path."""
    with pytest.raises(EngineError) as caught:
        load(folder, **more)
    text = str(caught.value)
    assert not isinstance(folder, Path) or str(folder) not in text
    return text


def pipeline_of(engine: Trellis2Engine) -> Any:
    """TRELLIS.2's pipeline."""
    assert engine._loaded is not None
    return engine._loaded.model.pipeline


def texturing_of(engine: Trellis2Engine) -> Any:
    """TRELLIS.2's pipeline for uploaded meshes."""
    assert engine._loaded is not None
    return engine._loaded.model.texturing


def repair(engine: Trellis2Engine) -> None:
    """Make an engine usable again that is broken."""
    assert engine._device is not None
    assert engine._loaded is not None
    engine._device.runner.broken = None
    engine._loaded.placement._needs_reset = False


def make(
    engine: Trellis2Engine, cutout: Cutout, requested: Options, report: Any = silent
) -> tuple[Shape, VoxelField]:
    """Both stages of a job."""
    shape = engine.shape(cutout, requested, report)
    return shape, engine.texture(shape, cutout, requested, report)


def same(a: tuple[Shape, VoxelField], b: tuple[Shape, VoxelField]) -> bool:
    """Whether two results are bit-identical."""
    return all(
        np.array_equal(x, y)
        for x, y in (
            (a[0].mesh.vertices, b[0].mesh.vertices),
            (a[0].mesh.faces, b[0].mesh.faces),
            (a[1].coords, b[1].coords),
            (a[1].attributes, b[1].attributes),
            (a[0].resolution, b[0].resolution),
        )
    )


def out_of_memory(torch: Any, pipeline: Any, name: str, times: int) -> Any:
    """Let a model fail that many times with an out-of-memory error; remove the hook to stop."""
    left = iter(range(times))

    def fail(*_: object) -> None:
        if next(left, None) is not None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return pipeline.models[name].register_forward_pre_hook(fail)


_FIND = """
import json
from trellis2_server.settings import ModelSettings
from trellis2_server.engines.trellis2 import checkpoint, inspect_trellis2, pipeline_types
from trellis2_server.errors import EngineError
given = dict(model_path="some/model", device="cpu", trellis2_path={home!r}) | {more!r}
settings = ModelSettings(engine="trellis2", **given)
reports = []
report = lambda *report: reports.append(report)
try:
    if {inspects!r}:
        found = inspect_trellis2(settings, ask_network=True)
        answer = [[f.what, f.level, f.text] for f in found if f.what in ("checkpoint", "encoder")]
    else:
        found = checkpoint.find(settings, pipeline_types.MODEL_NAMES, report)
        answer = [str(m.weights) for m in found.models] + [found.encoder]
except EngineError as error:
    answer = str(error)
print(json.dumps({{"answer": answer, "reports": reports}}))
"""


class OtherMachine:
    """A process with its own cache of the Hub."""

    def __init__(self, folder: Path, url: str) -> None:
        self.cache = folder / "cache"
        self._environ = {**os.environ, "HF_HUB_CACHE": str(self.cache), "HF_ENDPOINT": url}
        self._environ |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            self._environ.pop(name, None)

    def find(self, *, inspects: bool = False, **more: Any) -> tuple[Any, list[list[Any]]]:
        """Paths of the files, or findings, or the text of the error; and all reports."""
        code = _FIND.format(home=str(HOME), more=more, inspects=inspects)
        run = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            capture_output=True,
            text=True,
            env=self._environ,
            cwd=ROOT,
        )
        assert run.returncode == 0, run.stderr
        answer = json.loads(run.stdout.splitlines()[-1])
        return answer["answer"], answer["reports"]


def split_checkpoint(folder: Path) -> dict[str, Path]:
    """Move the encoder and one model of a checkpoint to repositories of their own.

    Returns:
        Repository → folder.
    """
    encoder, decoder = folder.parent / "encoder", folder.parent / "decoder"
    shutil.move(folder / "image_encoder", encoder)
    name = "sparse_structure_decoder"
    (decoder / "ckpts").mkdir(parents=True)
    for suffix in (".json", ".safetensors"):
        shutil.move(folder / "ckpts" / (name + suffix), decoder / "ckpts")

    def change(args: dict[str, Any]) -> None:
        args["image_cond_model"]["args"]["model_name"] = "gated/encoder"
        args["models"][name] = f"other/decoder/ckpts/{name}"

    edit_pipeline(folder, change)
    return {"some/model": folder, "other/decoder": decoder, "gated/encoder": encoder}
