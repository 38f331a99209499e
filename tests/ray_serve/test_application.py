"""Building the application; nothing is deployed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs ray")

from tests.support.server import settings
from trellis2_server.errors import ConfigError
from trellis2_server.ray_serve import ClusterSettings, application, build

ROOT = Path(__file__).parents[2]


def test_only_the_deployment_imports_ray() -> None:
    code = (
        "import sys, trellis2_server.api.app, trellis2_server.cli, trellis2_server.client\n"
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"engine": "4"}, "engine: "),
        ({"engines": "four"}, "engines: "),
        ({"engines": "2", "min_engines": "3"}, "min_engines"),
        ({"config": "nowhere.json"}, "nowhere.json"),
        ({"jobs_resources": "4"}, "jobs_resources: "),
    ],
)
def test_an_invalid_argument_is_named(args: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(args)


def test_the_configuration_file_that_ships_is_valid_for_serve() -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load((ROOT / "deploy" / "ray_serve.yaml").read_text(encoding="utf-8"))
    [application] = ServeDeploySchema.model_validate(content).applications
    assert application.import_path == "trellis2_server.ray_serve:build"
    config = ClusterSettings.model_validate(application.args).config
    assert config is not None
    assert (ROOT / config).is_file()


@pytest.mark.parametrize(
    ("ingresses", "variable", "noted"),
    [
        (1, None, 0),
        (2, None, 1),
        (2, "RAY_SERVE_PROXY_USE_GRPC", 0),
        (2, "RAY_SERVE_USE_GRPC_BY_DEFAULT", 0),
    ],
)
def test_several_ingresses_whose_proxies_do_not_call_them_over_grpc_are_noted(
    monkeypatch: pytest.MonkeyPatch, ingresses: int, variable: str | None, noted: int
) -> None:
    monkeypatch.setattr(application.ray, "cluster_resources", dict)
    for name in ("RAY_SERVE_PROXY_USE_GRPC", "RAY_SERVE_USE_GRPC_BY_DEFAULT"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    _, _, notes = application.resolve(
        settings(model={"engine": "preview"}), ClusterSettings(engines=1, ingresses=ingresses)
    )
    assert sum("RAY_SERVE_PROXY_USE_GRPC=1" in note for note in notes) == noted
