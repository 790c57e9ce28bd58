"""Models that Ray serves and the state does not know: the state was lost, they are taken over as they are. Pure.

Without this, a deployer that starts with an empty folder would tell Ray to run nothing. A removed model stays known as
a tombstone, so a route to an unknown model can mean nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from countersign_ray_serve.contract import Phase
from countersign_ray_serve.layout import BACKEND_IMPORT, ROUTER, Json
from countersign_ray_serve.reports import fingerprint
from countersign_ray_serve.state import App, Resource, State, Step


def orphans(state: State, details: Json) -> dict[str, Resource]:
    """The unknown models that Ray's router has a route for, each with its version that serves and its generation."""
    known: Mapping[str, Json] = details.get("applications") or {}
    router = (known.get(ROUTER) or {}).get("deployed_app_config") or {}
    found = {}
    for deployment in router.get("deployments") or []:
        for model, route in (deployment.get("user_config") or {}).get("routes", {}).items():
            spec = (known.get(route["app"]) or {}).get("deployed_app_config") or {}
            if model not in state.resources and spec.get("import_path") == BACKEND_IMPORT:
                found[model] = _adopted(model, route, spec)
    return found


def _adopted(model: str, route: Json, spec: Json) -> Resource:
    version, uri, digest = (str(spec["args"][key]) for key in ("version", "uri", "digest"))
    return Resource(
        name=model,
        deployment_id=str(route["deployment_id"]),
        generation=int(route["generation"]),
        content=fingerprint(str(route["deployment_id"]), "apply", [model, version, uri, digest]),
        callback_url="",  # a settled generation has nothing left to report
        deadline_at=0,
        step=Step.SETTLED,
        phase=Phase.READY,
        message=f"Version {version} was found in Ray.",
        active=route["app"],
        stable=route["app"],
        apps={route["app"]: App(version=version, uri=uri, digest=digest, spec=spec)},
    )
