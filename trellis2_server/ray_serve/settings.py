"""`ClusterSettings`: how a cluster is used.

Does not know: Ray.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads the annotation

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

#: A resource that only the head of a Ray cluster has; hundreds of processes fit.
_HEAD = {"node:__internal_head__": 0.001}


class ClusterSettings(BaseModel):
    """Arguments of `build`, `args` in Ray Serve's configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Path | None = Field(
        default=None,
        description="Configuration file, as for the single process; null: default settings.",
    )
    engines: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Number of engines, one on each GPU; null: as many as the cluster has GPUs "
        "when it is deployed, or machines if it has none.",
    )
    min_engines: int | None = Field(
        default=None,
        ge=0,
        le=1024,
        description="If it differs from `engines`, Serve starts and stops engines between the "
        "two, depending on the number of waiting jobs.",
    )
    num_gpus: float | None = Field(
        default=None,
        ge=0,
        le=16,
        description="GPUs of an engine; null: 1 if the cluster has GPUs, otherwise 0. With 0 "
        "and `model.engine: auto`, the preview engine serves.",
    )
    engine_cpus: float = Field(default=0, ge=0, le=256, description="CPUs reserved for an engine.")
    engine_resources: dict[str, float] = Field(
        default={}, description="Custom Ray resources that an engine needs."
    )
    export_cpus: float = Field(
        default=1, gt=0, le=256, description="CPUs reserved for an export while it runs."
    )
    cutters: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Number of processes that cut pictures out of their background.",
    )
    jobs_resources: dict[str, float] = Field(
        default=_HEAD,
        validation_alias=AliasChoices("jobs_resources", "desk_resources"),
        description="Custom Ray resources that the jobs process needs (former name: "
        "`desk_resources`). By default it runs on the head, whose loss ends Ray anyway, so that "
        "the loss of another machine loses no job.",
    )
    ingresses: int = Field(
        default=1, ge=1, le=256, description="Number of processes that answer HTTP."
    )
    ingress_resources: dict[str, float] = Field(
        default=_HEAD,
        description="Custom Ray resources that an ingress needs. By default ingresses run on the "
        "head, because requests are lost with their ingress. {}: any machine.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> ClusterSettings:
        if self.min_engines is not None and self.min_engines > self.max_engines:
            raise ValueError("min_engines: more than engines")
        return self

    @property
    def max_engines(self) -> int:
        """Maximum number of engines."""
        return self.engines or 1
