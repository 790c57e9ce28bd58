"""What this deployer is told by its environment, beside what every deployer is. Variables start with
``COUNTERSIGN_RAY_``; a few are read by their plain names, too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

from countersign_deployer.settings import CommaSeparated, DeployerSettings, http_url
from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

PREFIX = "COUNTERSIGN_RAY_"
PLAIN_NAMES = {
    "runtime_pip": "RAY_RUNTIME_PIP",
    "serve_wait_timeout": "SERVE_WAIT_TIMEOUT",
    "serve_reset_on_start": "SERVE_RESET_ON_START",
}
"""What is read from a variable of this name where the one with the prefix is not set."""
# Not the commas inside a requirement: pandas[excel,plot]>=2,<4
_BETWEEN_REQUIREMENTS = r",\s*(?=[A-Za-z])(?![^\[]*\])"


class Settings(DeployerSettings):
    """What a deployer needs to know. Immutable once read."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    target: str = Field(default="ray", min_length=1, description="The target's name; calls for another are refused.")
    state_dir: Path = Field(
        default=Path("/var/lib/countersign-ray-serve"),
        description="Folder of the state file; keep it on a durable disk.",
    )

    mode: Literal["rest", "rayservice"] = Field(
        default="rest", description="What is told what to serve: Ray's dashboard, or KubeRay by its RayService."
    )
    rayservice: str = Field(default="", description="With MODE=rayservice: namespace/name of the resource.")
    kubeconfig: Path | None = Field(
        default=None,
        description="With MODE=rayservice: file that says how to reach the cluster, if not as this pod's account.",
    )
    dashboard_url: str = Field(default="http://127.0.0.1:8265", description="Ray's dashboard, whose Serve API we call.")
    dashboard_token: SecretStr | None = Field(default=None, description="Ray's token (RAY_AUTH_MODE=token), as Bearer.")
    dashboard_timeout_s: float = Field(default=30, gt=0, description="Seconds Ray's dashboard may take to answer.")

    serve_host: str = Field(default="127.0.0.1", description="Address Serve's HTTP proxies listen on.")
    serve_port: int = Field(default=8000, ge=1, le=65535, description="Port Serve's HTTP proxies listen on.")
    serve_url: str = Field(default="http://127.0.0.1:8000", description="Where clients (and our probes) reach Serve.")
    proxy_location: Literal["EveryNode", "HeadOnly"] = Field(default="EveryNode", description="Nodes that run a proxy.")

    runtime_pip: CommaSeparated = Field(
        default=[],
        description="Packages a model's replicas get, comma-separated; `model`: those its requirements.txt asks for.",
    )
    runtime_installer: Literal["pip", "uv"] = Field(default="pip", description="Ray's installer of RUNTIME_PIP.")
    runtime_env_vars: dict[str, str] = Field(
        default={}, description="JSON: environment of a model's replicas. Ray shows it to who may read its dashboard."
    )
    ship: Literal["image", "upload"] = Field(
        default="image", description="How this package gets into Ray: it is in the image, or we upload it."
    )
    working_dir: str | None = Field(
        default=None, description="Where Ray imports this package from, if its image lacks it: local:///…, s3://….zip."
    )
    allow_other_python: bool = Field(
        default=False, description="Load models that were saved with another minor version of Python."
    )
    allow_version_header: bool = Field(
        default=False, description="Let clients choose a loaded version by the request header X-Model-Version."
    )

    serve_wait_timeout: float = Field(default=600, gt=0, description="Seconds a version may take to be RUNNING.")
    serve_reset_on_start: bool = Field(
        default=False, description="At the start, end all that we declared and declare what is desired anew."
    )

    backend_num_cpus: float = Field(default=0.5, ge=0, description="CPUs one replica of a model reserves.")
    backend_num_gpus: float = Field(default=0, ge=0, description="GPUs one replica of a model reserves.")
    backend_memory_mb: int = Field(default=0, ge=0, description="Memory one replica of a model reserves; 0: none.")
    backend_min_replicas: int = Field(default=1, ge=1, description="Replicas of a model version, at least.")
    backend_max_replicas: int = Field(default=1, ge=1, validate_default=True, description="Replicas, at most.")
    backend_initial_replicas: int | None = Field(default=None, ge=1, description="Replicas to begin with.")
    backend_target_ongoing_requests: float | None = Field(
        default=None,
        gt=0,
        description="Requests per replica that autoscaling aims at; half of MAX_ONGOING_REQUESTS if not set.",
    )
    backend_upscale_delay_s: float = Field(default=30, ge=0, description="Seconds before replicas are added.")
    backend_downscale_delay_s: float = Field(default=600, ge=0, description="Seconds before replicas are taken away.")
    backend_max_ongoing_requests: int = Field(default=16, ge=1, description="Requests one replica works on at a time.")
    backend_max_queued_requests: int = Field(
        default=200, ge=1, description="Requests that wait before 503 is answered."
    )
    router_num_cpus: float = Field(default=0.1, ge=0, description="CPUs one router replica reserves.")
    router_replicas: int = Field(default=2, ge=1, description="Router replicas.")
    request_timeout_s: float = Field(default=60, gt=0, description="Seconds a prediction may take.")
    max_request_bytes: int = Field(default=16 * 1024 * 1024, gt=0, description="Largest prediction request.")

    rollback_window_s: float = Field(default=3600, ge=0, description="Seconds the previous version stays loaded.")
    drain_s: float = Field(
        default=10, ge=1, description="Seconds a version without a route stays, to end its requests."
    )
    probe_count: int = Field(default=3, ge=1, description="Probes in a row that must answer with the new version.")
    poll_interval_s: float = Field(default=0.5, gt=0, description="Seconds between looks while something changes.")
    reconcile_interval_s: float = Field(default=15, gt=0, description="Seconds between looks while nothing changes.")

    @model_validator(mode="before")
    @classmethod
    def _plain_names(cls, data: dict[str, Any]) -> dict[str, Any]:
        plain = {field: os.environ[name] for field, name in PLAIN_NAMES.items() if name in os.environ}
        return {**plain, **data}

    @field_validator("runtime_pip", mode="before")
    @classmethod
    def _split_requirements(cls, value: object) -> object:
        found = re.split(_BETWEEN_REQUIREMENTS, value) if isinstance(value, str) else value
        items = [item.strip() for item in found if item.strip()] if isinstance(found, list) else found
        return [] if items == ["none"] else items

    @field_validator("dashboard_url", "serve_url")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return http_url(value)

    @field_validator("backend_max_replicas")
    @classmethod
    def _is_not_below_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("backend_min_replicas", 1)
        if value < least:
            raise ValueError(f"is below {PREFIX}BACKEND_MIN_REPLICAS ({least})")
        return value

    @model_validator(mode="after")
    def _suits_kuberay(self) -> Settings:
        if self.mode == "rest":
            return self
        if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9.-]+", self.rayservice):
            raise ValueError("RAYSERVICE is needed with MODE=rayservice, as namespace/name")
        if self.ship == "upload" or self.serve_reset_on_start:
            raise ValueError("MODE=rayservice goes with SHIP=image and without SERVE_RESET_ON_START")
        return self
