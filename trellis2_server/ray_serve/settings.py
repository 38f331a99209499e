"""`ClusterSettings`: how much of a cluster is used, and for what.

What this module does not know: Ray.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotation

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: What only the head has of Ray's resources, and so little of it that hundreds fit.
_HEAD = {"node:__internal_head__": 0.001}


class ClusterSettings(BaseModel):
    """Arguments of `build`: `serve run trellis2_server.ray_serve:build config=… engines=4`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Path | None = Field(
        default=None, description="Configuration file, as of the single process; null: defaults."
    )
    engines: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Engines, one on each GPU; null: as many as the cluster has GPUs when it is "
        "deployed, or machines where it has none.",
    )
    min_engines: int | None = Field(
        default=None,
        ge=0,
        le=1024,
        description="Where it differs from `engines`, Serve starts and stops engines between "
        "the two as jobs wait.",
    )
    num_gpus: float | None = Field(
        default=None,
        ge=0,
        le=16,
        description="GPUs of an engine; null: 1 where the cluster has GPUs, otherwise 0. With 0 "
        "and `model.engine: auto`, the embedded engine serves.",
    )
    engine_cpus: float = Field(default=0, ge=0, le=256, description="CPUs set aside for an engine.")
    engine_resources: dict[str, float] = Field(
        default={}, description="Ray's custom resources that an engine needs."
    )
    export_cpus: float = Field(
        default=1, gt=0, le=256, description="CPUs set aside for an export while it runs."
    )
    cutters: int = Field(
        default=1, ge=1, le=256, description="Processes that cut pictures out of their background."
    )
    desk_resources: dict[str, float] = Field(
        default=_HEAD,
        description="Ray's custom resources that the desk needs. As it is, it runs on the head, "
        "with which Ray is lost anyway, so that no other machine takes the jobs along.",
    )
    ingresses: int = Field(default=1, ge=1, le=256, description="Processes that answer HTTP.")
    ingress_resources: dict[str, float] = Field(
        default=_HEAD,
        description="Ray's custom resources that an ingress needs. As it is, they run on the "
        "head: a request is lost with its ingress. {}: anywhere.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> ClusterSettings:
        if self.min_engines is not None and self.min_engines > self.most_engines:
            raise ValueError("min_engines: more than engines")
        return self

    @property
    def most_engines(self) -> int:
        """Engines at most."""
        return self.engines or 1
