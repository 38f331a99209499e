"""`--image`: one picture → an untextured and a textured GLB, without serving."""

from __future__ import annotations

import logging
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Final

from trellis2_server import logs
from trellis2_server.parameters import read_options

if TYPE_CHECKING:
    from pathlib import Path

    from trellis2_server.pipeline import Engine
    from trellis2_server.settings import Settings

logger = logging.getLogger(__name__)

_BAR_WIDTH: Final = 30


def make_models(settings: Settings, image: Path, output: Path) -> int:
    """Write the models of a picture; return the exit code.

    Args:
        settings: engine, background removal, and defaults of the parameters.
        image: file of the picture.
        output: folder for `<name>_shape.glb` and `<name>_textured.glb`; made if missing.

    Raises:
        ServerError: the picture cannot be used, or the engine failed.
    """
    from trellis2_server import pipeline

    logs.configure(settings.server.model_copy(update={"log_level": "warning"}))
    engine, warnings = pipeline.choose_engine(settings)
    settings = pipeline.with_engine_defaults(settings, engine.name)
    for warning in warnings:
        logger.warning(warning)
    try:
        picture = image.read_bytes()
        made = _make_folder(output)
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    bar = Bar()
    try:
        return _write_models(settings, engine, picture, output / image.stem, bar)
    finally:  # an error, or an interrupt, leaves no empty folder
        bar.end()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder; return what did not exist of it and of its parents, from the inside out."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def _write_models(settings: Settings, engine: Engine, picture: bytes, name: Path, bar: Bar) -> int:
    """Write the models of a picture to files that begin with `name`; return the exit code."""
    from trellis2_server import pipeline

    options = read_options({}, settings)
    pipeline.load(engine, bar.report, remesh=options.remesh)
    bar.report("cut out", 0, 1)
    with (
        closing(pipeline.make_decoders(settings)) as decoders,
        closing(pipeline.make_cutter(engine, settings, decoders)) as cutter,
    ):
        cutout = cutter.cut_out(picture, remove_background=options.remove_background)
    glbs = pipeline.make_model(engine, cutout, options, settings.export, bar.report)
    files: list[Path] = []
    for kind, glb in zip(("shape", "textured"), glbs, strict=True):
        files.append(name.with_name(f"{name.name}_{kind}.glb"))
        try:
            files[-1].write_bytes(glb)
        except OSError as error:
            bar.end()
            print(f"error: {files[-1]}: {error.strerror}", file=sys.stderr)  # noqa: T201
            return 2
    bar.end()
    for file in files:
        print(f"{file}  {file.stat().st_size / 1e6:.1f} MB")  # noqa: T201
    print(f"engine {engine.name}, background {cutout.background}, seed {options.seed}")  # noqa: T201
    return 0


class Bar:
    """A progress bar on a terminal's last line; nothing if standard error is no terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()

    def report(self, stage: str, step: int, steps: int) -> None:
        """Show the progress of a stage."""
        if self._is_shown:
            done = _BAR_WIDTH * step // max(steps, 1)
            bar = "#" * done + "." * (_BAR_WIDTH - done)
            sys.stderr.write(f"\r[{bar}] {stage:20.20}")
            sys.stderr.flush()

    def end(self) -> None:
        """Clear the bar."""
        if self._is_shown:
            sys.stderr.write("\r" + " " * (_BAR_WIDTH + 24) + "\r")
            sys.stderr.flush()
