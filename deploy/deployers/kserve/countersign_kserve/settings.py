"""Typed settings, ``COUNTERSIGN_KSERVE_…``; those that every deployer has are the contract's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from countersign_deployer.settings import CommaSeparated, DeployerSettings
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from countersign_kserve.quantities import is_quantity

CANARY_SINCE = (0, 20)
STOP_SINCE = (0, 16)
MODES_SINCE = (0, 16)
_OLDER_MODES = {"Standard": "RawDeployment", "Knative": "Serverless"}

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"


class Settings(DeployerSettings):
    """What the deployer for KServe needs to know beside what every deployer does."""

    model_config = SettingsConfigDict(env_prefix="COUNTERSIGN_KSERVE_", frozen=True, extra="ignore")

    target: str = Field(default="kserve", min_length=1, description="The target's name; calls for another are refused.")
    state_dir: Path = Field(
        default=Path("/var/lib/countersign-kserve"), description="Folder of the state file; keep it on a durable disk."
    )

    kubeconfig: Path | None = Field(
        default=None, description="How to reach the cluster; without it, as a pod does: by its service account."
    )
    context: str | None = Field(default=None, description="Which context of KUBECONFIG; its current one by default.")
    cluster_timeout_s: float = Field(default=10, gt=0, description="Seconds the API server may take to answer.")
    namespaces: dict[str, str] = Field(
        description='JSON: the namespace of each MLflow workspace, as {"default": "models"}; others are refused.'
    )

    deployment_mode: Literal["Standard", "Knative"] = Field(
        default="Standard", description="How KServe runs models; RawDeployment and Serverless are the older names."
    )
    kserve_version: str = Field(
        default="auto", description="KServe's version, as 0.20; 'auto' asks the cluster's schema what it can do."
    )
    storage: Literal["physical", "countersign"] = Field(
        default="physical",
        description="What pods load from: the physical address, or countersign://name/version (our storage container).",
    )
    runtime: str = Field(default="countersign-mlflow", description="The ServingRuntime (or ClusterServingRuntime).")
    model_format: str = Field(default="mlflow", description="The model format that the runtime says it supports.")
    service_account: str | None = Field(
        default=None, description="The ServiceAccount of the models' pods, which has leave to read the artifacts."
    )
    force: bool = Field(default=False, description="Take over fields that others manage, instead of a conflict.")
    adopt: bool = Field(default=False, description="Take over an InferenceService of that name which is not ours.")
    repair: bool = Field(default=True, description="Undo what others did to our objects; else only report it.")
    allow_delete: bool = Field(
        default=False, description="Delete the object of a model that is removed; else it is stopped, and stays."
    )

    min_replicas: int = Field(default=1, ge=1, description="Pods of a version, at least.")
    max_replicas: int = Field(default=1, ge=1, validate_default=True, description="Pods of a version, at most.")
    cpu_request: str = Field(default="500m", description="CPU that a pod reserves.")
    memory_request: str = Field(default="1Gi", description="Memory that a pod reserves.")
    cpu_limit: str = Field(default="", description="CPU that a pod may use; empty: what there is.")
    memory_limit: str = Field(default="2Gi", description="Memory that a pod may use; empty: what there is.")
    allowed_options: CommaSeparated = Field(
        default=["resources", "min_replicas", "max_replicas"],
        description="Which options a target may set, comma-separated; see the README.",
    )
    most_replicas: int = Field(default=10, ge=1, description="The most that a target's options may ask for.")
    allowed_runtimes: CommaSeparated = Field(default=[], description="Runtimes that the option `runtime` may name.")
    allowed_service_accounts: CommaSeparated = Field(
        default=[], description="ServiceAccounts that the option `service_account` may name."
    )

    crash_restarts: int = Field(default=2, ge=1, description="Restarts after which a model that does not load is bad.")
    settle_s: float = Field(default=5, ge=0, description="Seconds before an old failure on the object counts as new.")
    poll_interval_s: float = Field(default=2, gt=0, description="Seconds between looks while something changes.")
    reconcile_interval_s: float = Field(default=30, gt=0, description="Seconds between looks while nothing changes.")

    @field_validator("deployment_mode", mode="before")
    @classmethod
    def _is_called_as_today(cls, value: object) -> object:
        return next((mode for mode, older in _OLDER_MODES.items() if older == value), value)

    @field_validator("allowed_options", "allowed_runtimes", "allowed_service_accounts", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value

    @field_validator("allowed_options")
    @classmethod
    def _are_options(cls, value: list[str]) -> list[str]:
        from countersign_kserve.options import Options

        if unknown := sorted(set(value) - set(Options.model_fields)):
            raise ValueError(f"no such option: {', '.join(unknown)}; there are {', '.join(Options.model_fields)}")
        return value

    @field_validator("namespaces")
    @classmethod
    def _are_namespaces(cls, value: dict[str, str]) -> dict[str, str]:
        if not value:
            raise ValueError('expected at least one workspace, as {"default": "models"}')
        if wrong := [name for name in value.values() if len(name) > 63 or not re.fullmatch(_DNS_LABEL, name)]:
            raise ValueError(f"not the name of a namespace: {', '.join(wrong)}")
        return value

    @field_validator("kserve_version")
    @classmethod
    def _is_version(cls, value: str) -> str:
        if not re.fullmatch(r"auto|v?\d+\.\d+(\.\d+)?([-.+].*)?", value):
            raise ValueError("expected 'auto' or a version, as 0.20")
        return value.removeprefix("v")

    @field_validator("cpu_request", "memory_request", "cpu_limit", "memory_limit")
    @classmethod
    def _is_quantity(cls, value: str) -> str:
        if value and not is_quantity(value):
            raise ValueError("expected a quantity, as 500m or 2Gi")
        return value

    @field_validator("max_replicas")
    @classmethod
    def _is_not_below_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_replicas", 1)
        if value < least:
            raise ValueError(f"is below {cls.variable('min_replicas')} ({least})")
        return value

    @property
    def is_knative(self) -> bool:
        return self.deployment_mode == "Knative"

    @property
    def mode_in_cluster(self) -> str:
        """What KServe calls the mode: it compares an object's word with its own, letter by letter (kserve#5885)."""
        version = self.known_version
        return _OLDER_MODES[self.deployment_mode] if version and version < MODES_SINCE else self.deployment_mode

    @property
    def known_version(self) -> tuple[int, int] | None:
        """KServe's version, if it was told."""
        if self.kserve_version == "auto":
            return None
        major, minor = self.kserve_version.split(".")[:2]
        return int(major), int(re.match(r"\d+", minor)[0])  # type: ignore[index]  # the validator has seen to it
