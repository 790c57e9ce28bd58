"""From desired state to the configuration that Ray Serve is given, and what Serve's answer says about it. Pure.

One application per model version, without a route of its own, and one router application that owns ``/``. Measured on
Ray 2.60: updating an application in place stops the old replica first (requests stall for seconds), and a version
that cannot load takes the whole application down; starting the new version beside the old one and switching a route
costs no request and 0.35 s.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from countersign_ray_serve.contract import ModelVersion
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State

ROUTER = "countersign-router"
BACKEND_IMPORT = "countersign_ray_serve.serving.backend:build_backend"
ROUTER_IMPORT = "countersign_ray_serve.serving.router:build_router"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AppStatus:
    """What Serve says about one application. ``matches``: Serve works on what we sent last, so ``status`` is about
    that.
    """

    status: str
    message: str
    matches: bool
    has_running_replica: bool

    @property
    def is_running(self) -> bool:
        return self.matches and self.status == "RUNNING"

    @property
    def has_failed(self) -> bool:
        return self.matches and self.status in {"DEPLOY_FAILED", "UNHEALTHY"}


def app_name(model: ModelVersion) -> str:
    """The name of a version's application: readable, and different for other bytes under the same version number."""
    ascii_name = unicodedata.normalize("NFKD", model.name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:40].rstrip("-") or "model"
    identity = f"{model.name}\0{model.version}\0{model.uri}\0{model.digest}"
    return f"{slug}--v{model.version}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def backend_spec(settings: Settings, model: ModelVersion, *, attempt: int) -> Json:
    """The Serve application of one version.

    ``attempt`` is there to differ: Serve does nothing when a failed application is put again with the same
    configuration.
    """
    actor: Json = {"num_cpus": settings.backend_num_cpus}
    if settings.backend_memory_mb:
        actor["memory"] = settings.backend_memory_mb * 1024 * 1024
    deployment: Json = {
        "name": "Backend",
        "ray_actor_options": actor,
        "max_ongoing_requests": settings.backend_max_ongoing_requests,
        "max_queued_requests": settings.backend_max_queued_requests,
        "health_check_period_s": 10,
        "graceful_shutdown_timeout_s": 20,
    }
    if settings.backend_max_replicas > settings.backend_min_replicas:
        deployment["autoscaling_config"] = {
            "min_replicas": settings.backend_min_replicas,
            "max_replicas": settings.backend_max_replicas,
            "target_ongoing_requests": max(1, settings.backend_max_ongoing_requests // 2),
        }
    else:
        deployment["num_replicas"] = settings.backend_min_replicas
    return {
        "name": app_name(model),
        "route_prefix": None,
        "import_path": BACKEND_IMPORT,
        "args": {
            "model": model.name,
            "version": model.version,
            "uri": model.uri,
            "digest": model.digest,
            "attempt": attempt,
        },
        "runtime_env": _runtime_env(settings, model_packages=True),
        "deployments": [deployment],
    }


def serve_config(settings: Settings, state: State) -> Json:
    """The complete configuration: Serve replaces all it has with this."""
    apps = [app.spec for _, resource in sorted(state.resources.items()) for _, app in sorted(resource.apps.items())]
    return {
        "proxy_location": settings.proxy_location,
        "http_options": {"host": settings.serve_host, "port": settings.serve_port},
        "applications": [*apps, _router_spec(settings, state)],
    }


def observe(wanted: Json, details: Json) -> dict[str, AppStatus]:
    """The status of each wanted application that Serve knows."""
    known: Mapping[str, Json] = details.get("applications") or {}
    return {
        spec["name"]: _status(spec, known[spec["name"]]) for spec in wanted["applications"] if spec["name"] in known
    }


def has_drifted(wanted: Json, details: Json) -> bool:
    """Whether Serve has other applications than wanted: lost (its head restarted), changed, or still there."""
    seen = observe(wanted, details)
    if any(name not in seen or not seen[name].matches for name in (spec["name"] for spec in wanted["applications"])):
        return True
    known: Mapping[str, Json] = details.get("applications") or {}
    return any(_is_declared(app) for name, app in known.items() if name not in seen)


def foreign_apps(details: Json) -> list[str]:
    """Applications that somebody else declared. Sending our configuration would delete them."""
    known: Mapping[str, Json] = details.get("applications") or {}
    ours = {BACKEND_IMPORT, ROUTER_IMPORT}
    return sorted(
        name
        for name, app in known.items()
        if _is_declared(app) and (app.get("deployed_app_config") or {}).get("import_path") not in ours
    )


def with_attempt(spec: Json, attempt: int) -> Json:
    """The same application, to be tried again."""
    return {**spec, "args": {**spec["args"], "attempt": attempt}}


def _router_spec(settings: Settings, state: State) -> Json:
    return {
        "name": ROUTER,
        "route_prefix": "/",
        "import_path": ROUTER_IMPORT,
        "args": {
            "timeout_s": settings.request_timeout_s,
            "max_request_bytes": settings.max_request_bytes,
            "attempt": state.router_attempt,
        },
        "runtime_env": _runtime_env(settings, model_packages=False),
        "deployments": [
            {
                "name": "Router",
                "num_replicas": settings.router_replicas,
                "max_ongoing_requests": 200,
                "ray_actor_options": {"num_cpus": settings.router_num_cpus},
                # Replace the router without a gap when its own settings change; Ray before 2.60 ignores this.
                "max_surge_percent": 100,
                "user_config": {"routes": _routes(state)},
            }
        ],
    }


def _routes(state: State) -> Json:
    """For each model, the application that answers. The rest is not for the router: it is the state's emergency
    copy.
    """
    return {
        name: {
            "app": resource.active,
            "version": resource.apps[resource.active].version,
            "generation": resource.generation,
            "deployment_id": resource.deployment_id,
        }
        for name, resource in sorted(state.resources.items())
        if resource.active is not None
    }


def _runtime_env(settings: Settings, *, model_packages: bool) -> Json:
    environment: Json = {}
    if settings.working_dir:
        environment["working_dir"] = settings.working_dir
    if model_packages and settings.runtime_env_vars:
        environment["env_vars"] = dict(settings.runtime_env_vars)
    if model_packages and settings.runtime_pip:
        environment[settings.runtime_installer] = list(settings.runtime_pip)
    return environment


def _status(spec: Json, app: Json) -> AppStatus:
    deployed = app.get("deployed_app_config") or {}
    deployments: Mapping[str, Json] = app.get("deployments") or {}
    messages = [app.get("message") or "", *(d.get("message") or "" for d in deployments.values())]
    replicas = [r for d in deployments.values() for r in d.get("replicas") or []]
    return AppStatus(
        status=str(app.get("status")),
        message="\n".join(dict.fromkeys(m for m in messages if m)),
        matches=_essence(deployed) == _essence(spec),
        has_running_replica=any(replica.get("state") == "RUNNING" for replica in replicas),
    )


def _essence(spec: Json) -> Json:
    """What identifies a configuration. Serve echoes what it was sent, but may mask ``runtime_env`` and add defaults."""
    user_configs = [d.get("user_config") for d in spec.get("deployments") or [] if d.get("user_config") is not None]
    return {**{key: spec.get(key) for key in ("import_path", "args", "route_prefix")}, "user_configs": user_configs}


def _is_declared(app: Json) -> bool:
    return app.get("source") == "declarative" and app.get("status") != "DELETING"
