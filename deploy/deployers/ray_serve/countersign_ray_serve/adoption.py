"""Models that Ray serves and the state does not know: the state was lost, they are taken over as they are. Pure.

Without this, a deployer that starts with an empty folder would tell Ray to run nothing. A removed model stays known as
a tombstone, so a route to an unknown model can mean nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

from countersign_deployer.phases import Phase

from countersign_ray_serve.layout import BACKEND_IMPORT, ROUTER, Json
from countersign_ray_serve.state import App, Resource, Share, State, Step


def orphans(state: State, details: Json) -> dict[str, Resource]:
    """The unknown models that Ray's router has routes for, each with what serves and its generation."""
    known: Mapping[str, Json] = details.get("applications") or {}
    router = (known.get(ROUTER) or {}).get("deployed_app_config") or {}
    found = {}
    for deployment in router.get("deployments") or []:
        for model, route in (deployment.get("user_config") or {}).get("routes", {}).items():
            if model in state.resources:
                continue
            shares = [Share(app=str(s["app"]), weight=int(s["weight"])) for s in route["shares"]]
            specs = {s.app: (known.get(s.app) or {}).get("deployed_app_config") or {} for s in shares}
            if specs and all(spec.get("import_path") == BACKEND_IMPORT for spec in specs.values()):
                found[model] = _adopted(model, route, shares, specs)
    return found


def _adopted(model: str, route: Json, shares: list[Share], specs: Mapping[str, Json]) -> Resource:
    return Resource(
        name=model,
        deployment_id=str(route["deployment_id"]),
        generation=int(route["generation"]),
        content="",  # nobody knows the call: its own generation may come once more
        callback_url="",  # nor where its reports go
        deadline_at=0,
        step=Step.SETTLED,
        phase=Phase.READY,
        message="It was found in Ray.",
        routed=shares,
        proven=list(shares),
        apps={name: _app(spec) for name, spec in specs.items()},
    )


def _app(spec: Json) -> App:
    version, uri, digest = (str(spec["args"][key]) for key in ("version", "uri", "digest"))
    return App(version=version, uri=uri, digest=digest, spec=spec)
