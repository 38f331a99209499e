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


MESSAGES = {"RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "2147483647"}


@pytest.mark.parametrize(
    ("ingresses", "variables", "noted"),
    [
        (1, {}, []),
        (1, MESSAGES, []),
        (2, MESSAGES, ["several ingresses: set RAY_SERVE_PROXY_USE_GRPC=1 and "]),
        (2, {}, ["several ingresses: set RAY_SERVE_PROXY_USE_GRPC=1 and "]),
        (2, {"RAY_SERVE_PROXY_USE_GRPC": "1", **MESSAGES}, []),
        (2, {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1", **MESSAGES}, []),
        (1, {"RAY_SERVE_PROXY_USE_GRPC": "1"}, ["set RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH="]),
        (
            2,
            {"RAY_SERVE_USE_GRPC_BY_DEFAULT": "1", **dict.fromkeys(MESSAGES, "4194304")},
            ["set RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH=2147483647 where Ray is started"],
        ),
    ],
)
def test_variables_that_the_proxies_need_are_noted(
    monkeypatch: pytest.MonkeyPatch, ingresses: int, variables: dict[str, str], noted: list[str]
) -> None:
    monkeypatch.setattr(application.ray, "cluster_resources", dict)
    for name in ("RAY_SERVE_PROXY_USE_GRPC", "RAY_SERVE_USE_GRPC_BY_DEFAULT", *MESSAGES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _, _, notes = application.resolve(
        settings(model={"engine": "preview"}), ClusterSettings(engines=1, ingresses=ingresses)
    )
    found = [note for note in notes if "RAY_SERVE" in note]
    assert len(found) == len(noted)
    assert all(note.startswith(start) for note, start in zip(found, noted, strict=True))
