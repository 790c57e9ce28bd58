"""Who may call a route: declared beside it, and enforced, or the application does not start.

::

    router = APIRouter(route_class=GuardedRoute)

    @router.get("/promotions")
    @needs(Permission.PROMOTIONS_READ)
    async def list_promotions(...): ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.params import Depends as DependsMarker
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from app.domain.access import Permission, Principal, authorise
from app.domain.errors import Forbidden
from app.domain.verdicts import Deny
from app.routers.services import ServicesOf

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

_MARK = "__countersign_access__"
_PUBLIC = "public"
_documented = HTTPBearer(auto_error=False, description="An OAuth 2 access token of the configured issuer.")


def needs(permission: Permission) -> Callable[[Endpoint], Endpoint]:
    """The permission that a caller of this route must hold."""

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, permission)
        return endpoint

    return mark


def public(reason: str) -> Callable[[Endpoint], Endpoint]:
    """Anybody may call this route, because of ``reason``."""
    if not reason:
        raise TypeError("say why the route is public")

    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, _PUBLIC)
        return endpoint

    return mark


async def _principal(
    request: Request, services: ServicesOf, _token: Annotated[object, Depends(_documented)]
) -> Principal:
    principal = await services.authentication.authenticate(request.headers.raw)
    # For the error handler, which tells the audit log who was refused.
    request.state.principal = principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(_principal)]


def _requires(permission: Permission) -> DependsMarker:
    async def check(principal: CurrentPrincipal) -> None:
        verdict = authorise(principal, permission)
        if isinstance(verdict, Deny):
            raise Forbidden(verdict.reason, permission=permission.value)

    marker: DependsMarker = Depends(check)
    return marker


class GuardedRoute(APIRoute):
    """A route that cannot be made without saying who may call it."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401  # FastAPI's own
        access = getattr(endpoint, _MARK, None)
        if access is None:
            raise TypeError(f"{path}: declare @needs(<permission>) or @public(<reason>) below the route")
        if isinstance(access, Permission):
            options["dependencies"] = [_requires(access), *(options.get("dependencies") or [])]
        super().__init__(path, endpoint, **options)
