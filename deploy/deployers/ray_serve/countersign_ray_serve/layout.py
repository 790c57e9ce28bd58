"""From desired state to the configuration that Ray Serve is given, and what Serve's answer says about it. Pure.

One application per model version, without a route of its own, and one router application that owns ``/`` and deals
requests out by weights. Measured on Ray 2.60: updating an application in place stops the old replica first (requests
stall for seconds), and a version that cannot load takes the whole application down; starting the new version beside
the old one and switching a route costs no request and 0.35 s.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from countersign_ray_serve import __version__, packages
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State

ROUTER = "countersign-router"
BACKEND_IMPORT = "countersign_ray_serve.serving.backend:build_backend"
ROUTER_IMPORT = "countersign_ray_serve.serving.router:build_router"
MODELS_OWN = "model"
"""In RUNTIME_PIP: what the model's ``requirements.txt`` asks for. ``serving.backend`` has the same word."""

SURGE = 100
ROUTER_SLOTS = 1000
"""Requests that a router replica holds at a time, nearly all of which wait; as many again may wait at each proxy."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AppStatus:
    """What Serve says about one application. ``matches``: Serve works on what we sent last, so ``status`` is about
    that. ``replicas``: the ids of those that run, ``None`` where nobody tells.
    """

    status: str
    message: str
    matches: bool
    replicas: frozenset[str] | None = frozenset()

    @property
    def is_running(self) -> bool:
        return self.matches and self.status == "RUNNING"

    @property
    def answers(self) -> bool:
        """Some of its replicas run; Ray may be replacing others."""
        return self.is_running or (self.matches and self.status == "UNHEALTHY" and bool(self.replicas))

    @property
    def has_failed(self) -> bool:
        return self.matches and self.status in {"DEPLOY_FAILED", "UNHEALTHY"}

    @property
    def is_given_up(self) -> bool:
        """Serve does not try any more, and nothing of it runs."""
        return self.matches and self.status == "DEPLOY_FAILED" and not self.replicas


@dataclass(frozen=True, slots=True)
class Version:
    """Immutable bytes of a model."""

    model: str
    version: str
    uri: str
    digest: str


def app_name(version: Version, options: Json) -> str:
    """The name of a version's application: readable, and different for other bytes under the same version number, and
    for replicas that run in another way.
    """
    ascii_name = unicodedata.normalize("NFKD", version.model).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:40].rstrip("-") or "model"
    identity = json.dumps([version.model, version.version, version.uri, version.digest, options], sort_keys=True)
    return f"{slug}--v{version.version}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def backend_spec(settings: Settings, version: Version, options: Json, *, attempt: int) -> Json:
    """The Serve application of one version.

    ``attempt`` is there to differ: Serve does nothing when a failed application is put again with the same
    configuration.
    """
    actor: Json = {"num_cpus": options["num_cpus"]}
    if options["num_gpus"]:
        actor["num_gpus"] = options["num_gpus"]
    if options["memory_mb"]:
        actor["memory"] = options["memory_mb"] * 1024 * 1024
    deployment: Json = {
        "name": "Backend",
        "max_ongoing_requests": options["max_ongoing_requests"],
        "max_queued_requests": options["max_queued_requests"],
        "health_check_period_s": 10,
        "graceful_shutdown_timeout_s": 20,
    }
    args: Json = {
        "model": version.model,
        "version": version.version,
        "uri": version.uri,
        "digest": version.digest,
        "any_python": settings.allow_other_python,
        "attempt": attempt,
    }
    if MODELS_OWN in settings.runtime_pip:
        # The application's own code reads the list, and says then how its replicas run.
        args |= {"packages": list(settings.runtime_pip), "installer": settings.runtime_installer, "actor": actor}
    else:
        deployment["ray_actor_options"] = actor
    if options["max_replicas"] > options["min_replicas"]:
        deployment["autoscaling_config"] = {
            "min_replicas": options["min_replicas"],
            "max_replicas": options["max_replicas"],
            "target_ongoing_requests": options["target_ongoing_requests"]
            or max(1, options["max_ongoing_requests"] // 2),
            "upscale_delay_s": options["upscale_delay_s"],
            "downscale_delay_s": options["downscale_delay_s"],
            **({"initial_replicas": options["initial_replicas"]} if options["initial_replicas"] else {}),
        }
    else:
        deployment["num_replicas"] = options["min_replicas"]
    return {
        "name": app_name(version, options),
        "route_prefix": None,
        "import_path": BACKEND_IMPORT,
        "args": args,
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


def foreign_apps(details: Json, target: str) -> list[str]:
    """Applications that somebody else declared, the deployer of another target among them. Sending our configuration
    would delete them.
    """
    known: Mapping[str, Json] = details.get("applications") or {}
    return sorted(
        name
        for name, app in known.items()
        if _is_declared(app) and not _is_ours(app.get("deployed_app_config") or {}, target)
    )


def _is_ours(spec: Json, target: str) -> bool:
    args = spec.get("args") or {}
    return spec.get("import_path") in {BACKEND_IMPORT, ROUTER_IMPORT} and args.get("target", target) == target


def with_next_attempt(spec: Json) -> Json:
    """The same application, to be tried again."""
    return {**spec, "args": {**spec["args"], "attempt": int(spec["args"]["attempt"]) + 1}}


def declared(details: Json) -> Mapping[str, Json]:
    """The applications that Serve has by a list as ours, those on their way out included."""
    known: Mapping[str, Json] = details.get("applications") or {}
    return {name: app for name, app in known.items() if app.get("source") == "declarative"}


def lost_surge(details: Json) -> bool:
    """Whether Serve dropped the one field that replaces a router without a gap; it ignores what it does not know."""
    known: Mapping[str, Json] = details.get("applications") or {}
    deployments: Mapping[str, Json] = (known.get(ROUTER) or {}).get("deployments") or {}
    configs = [d.get("deployment_config") or {} for d in deployments.values()]
    return any(config.get("max_surge_percent", SURGE) != SURGE for config in configs)


def _router_spec(settings: Settings, state: State) -> Json:
    return {
        "name": ROUTER,
        "route_prefix": "/",
        "import_path": ROUTER_IMPORT,
        "args": {
            "target": settings.target,
            "timeout_s": settings.request_timeout_s,
            "max_request_bytes": settings.max_request_bytes,
            "slots": ROUTER_SLOTS,
            "attempt": state.router_attempt,
            # What the router is told and what it understands are of one release.
            "release": packages.current() if settings.ship == "upload" else __version__,
        },
        "runtime_env": _runtime_env(settings, model_packages=False),
        "deployments": [
            {
                "name": "Router",
                "num_replicas": settings.router_replicas,
                "max_ongoing_requests": ROUTER_SLOTS,
                "max_queued_requests": ROUTER_SLOTS,
                "backpressure_config": {"status_code": 503, "retry_after_s": 1},
                "ray_actor_options": {"num_cpus": settings.router_num_cpus},
                # Replace the router without a gap when its own settings change.
                "max_surge_percent": SURGE,
                "user_config": {
                    "routes": _routes(state),
                    "probe_token": state.probe_token,
                    "allow_pins": settings.allow_version_header,
                },
            }
        ],
    }


def _routes(state: State) -> Json:
    """For each model, the applications that answer. The rest is not for the router: it is the state's emergency
    copy.
    """
    return {
        name: {
            "shares": [
                {"app": share.app, "version": resource.apps[share.app].version, "weight": share.weight}
                for share in resource.routed
            ],
            "generation": resource.generation,
            "deployment_id": resource.deployment_id,
        }
        for name, resource in sorted(state.resources.items())
        if resource.routed
    }


def _runtime_env(settings: Settings, *, model_packages: bool) -> Json:
    environment: Json = {}
    if settings.ship == "upload":
        environment["py_modules"] = [packages.current()]
    if settings.working_dir:
        environment["working_dir"] = settings.working_dir
    if model_packages and settings.runtime_env_vars:
        environment["env_vars"] = dict(settings.runtime_env_vars)
    if model_packages and settings.runtime_pip and MODELS_OWN not in settings.runtime_pip:
        environment[settings.runtime_installer] = list(settings.runtime_pip)
    return environment


def _status(spec: Json, app: Json) -> AppStatus:
    deployed = app.get("deployed_app_config") or {}
    deployments: Mapping[str, Json] = app.get("deployments") or {}
    messages = [app.get("message") or "", *(d.get("message") or "" for d in deployments.values())]
    tells_replicas = any("replicas" in d for d in deployments.values())
    running = (r for d in deployments.values() for r in d.get("replicas") or [] if r.get("state") == "RUNNING")
    return AppStatus(
        status=str(app.get("status")),
        message="\n".join(dict.fromkeys(m for m in messages if m)),
        matches=_essence(deployed) == _essence(spec),
        replicas=frozenset(str(r["replica_id"]) for r in running) if tells_replicas or not deployments else None,
    )


def _essence(spec: Json) -> Json:
    """What identifies a configuration. Serve echoes what it was sent, but may mask ``runtime_env`` and add defaults."""
    user_configs = [d.get("user_config") for d in spec.get("deployments") or [] if d.get("user_config") is not None]
    return {**{key: spec.get(key) for key in ("import_path", "args", "route_prefix")}, "user_configs": user_configs}


def _is_declared(app: Json) -> bool:
    return app.get("source") == "declarative" and app.get("status") != "DELETING"
