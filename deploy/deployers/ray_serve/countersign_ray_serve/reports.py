"""What this deployer tells of a model beside its phase: what serves, and what Ray says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from countersign_deployer.contract import Serving

from countersign_ray_serve.layout import ROUTER, AppStatus
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import Resource


def public_url(settings: Settings, model: str) -> str:
    """Where a model answers."""
    return f"{settings.serve_url}/{quote(model, safe='')}"


def serving_of(settings: Settings, resource: Resource, apps: Mapping[str, AppStatus]) -> list[Serving]:
    """What the router is told of a model. ``name`` is the label ``application`` of Serve's metrics."""
    router = apps.get(ROUTER)
    return [
        Serving(
            version=app.version,
            weight=share.weight,
            ready=bool(router and router.is_running and (known := apps.get(share.app)) and known.is_running),
            url=public_url(settings, resource.name),
            name=share.app,
            digest=app.digest,
        )
        for share in resource.routed
        if (app := resource.apps[share.app])
    ]


def backend_of(resource: Resource, apps: Mapping[str, AppStatus]) -> dict[str, Any]:
    """What Ray calls a model's applications, and how it says they are."""
    return {"ray": {name: known.status if (known := apps.get(name)) else None for name in sorted(resource.apps)}}
