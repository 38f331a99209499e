from __future__ import annotations

import pytest
from pydantic import ValidationError

pytest.importorskip("ray", reason="needs ray")

from trellis2_server.ray_serve import ClusterSettings


@pytest.mark.parametrize("name", ["jobs_resources", "desk_resources"])
def test_the_resources_of_the_jobs_process_have_a_present_and_a_former_name(name: str) -> None:
    assert ClusterSettings.model_validate({name: {"a": 1}}).jobs_resources == {"a": 1.0}


def test_both_names_of_one_setting_are_an_error() -> None:
    both = {"jobs_resources": {"a": 1}, "desk_resources": {"b": 1}}
    with pytest.raises(ValidationError, match="desk_resources"):
        ClusterSettings.model_validate(both)


def test_by_default_only_engines_may_run_on_any_machine() -> None:
    cluster = ClusterSettings()
    assert cluster.jobs_resources == cluster.ingress_resources == {"node:__internal_head__": 0.001}
    assert cluster.engine_resources == {}
