"""What is the same for every request of a route, worked out once."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial

from app.domain.contributions import Hand, creation
from app.domain.lanes import Lane, is_upload, lane_of, timeout_of
from app.domain.routes import Route, RouteClass
from app.proxy.capabilities import without_presigned
from app.proxy.content_security import protective
from app.proxy.forwarding import Rewrite
from app.proxy.interface import with_script


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """What callers may send, and how long MLflow may take."""

    json_body: int = 2 * 1024 * 1024
    """Bytes of a message that is judged."""
    body: int = 64 * 1024 * 1024
    """Bytes of any other body but a file's."""
    idle_s: float = 60
    """Seconds a caller may let pass before the next part of its body."""
    upstream_s: float = 120
    """Seconds MLflow may take to begin an answer, and between its parts."""
    upstream_s_of: Mapping[RouteClass, float] = field(default_factory=dict)
    """The same for single classes of routes."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How requests of one route are passed on."""

    lane: Lane
    timeout_s: float
    is_upload: bool
    rewrite: Rewrite | None
    protective: tuple[tuple[bytes, bytes], ...]
    """Headers that the caller is sent in the place of MLflow's."""
    creates: Hand | None
    """What has an author when MLflow has answered well."""


def plan_of(
    route: Route, limits: ExchangeLimits, *, https: bool, openings: Collection[str], script: str | None = None
) -> Plan:
    """The plan of a route.

    Args:
        route: whose plan it is.
        limits: of time and size.
        https: whether callers reach the gateway by HTTPS.
        openings: what the operator has opened.
        script: the address of ours that is added to the page of MLflow's interface, if one is.
    """
    return Plan(
        lane=lane_of(route),
        timeout_s=timeout_of(route, limits.upstream_s, limits.upstream_s_of),
        is_upload=is_upload(route),
        rewrite=_rewrite(route, openings, script),
        protective=protective(route, https=https),
        creates=creation(route),
    )


def _rewrite(route: Route, openings: Collection[str], script: str | None) -> Rewrite | None:
    """What is changed in a good answer."""
    if route.template.endswith("/server-info"):
        return partial(without_presigned, downloads="presigned-downloads" in openings)
    if script is not None and (route.method, route.template) == ("GET", "/"):
        return partial(with_script, address=script)
    return None
