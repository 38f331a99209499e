"""Which steps need the engine's device."""

from __future__ import annotations

from trellis2_server.jobs.steps import device_steps
from trellis2_server.settings import ExportSettings, ModelSettings, Settings


def test_what_trellis2_does_itself_runs_on_the_device_thread() -> None:
    assert device_steps(Settings()) == {"shape", "texture"}
    settings = Settings(
        model=ModelSettings(background="upstream"), export=ExportSettings(backend="upstream")
    )
    assert device_steps(settings) == {"shape", "texture", "cutout", "texture_export"}
