"""Who may call a route: declared beside it, and enforced, or the application does not start.

::

    router = APIRouter(route_class=GuardedRoute)

    @router.get("/promotions")
    @needs(Permission.PROMOTIONS_READ)
    async def list_promotions(...): ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from fastapi.params import Depends as DependsMarker
from fastapi.routing import APIRoute
from fastapi.security import HTTPBasic, HTTPBearer

from app.domain.access import Permission, Principal, holds_somewhere, require
from app.routers.services import Services, ServicesOf

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

_MARK = "__countersign_access__"
REFUSED = "countersign.refused"
"""Where a scope holds why it is refused already, by what stands before the application (``Refused``)."""
_bearer = HTTPBearer(auto_error=False, description="An access token of a trusted issuer, or of ours.")
_basic = HTTPBasic(auto_error=False, description="Any user name, and an access token of ours as the password.")


@dataclass(frozen=True, slots=True)
class _Access:
    """Who may call a route; ``permission`` is none if a principal is all that is needed."""

    is_public: bool = False
    permission: Permission | None = None
    somewhere: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is refused, and whose it is if that is known."""

    error: Exception
    principal: Principal | None


def needs(permission: Permission, *, somewhere: bool = False) -> Callable[[Endpoint], Endpoint]:
    """The permission that a caller of this route must hold: on everything, or ``somewhere``, and then the route asks
    again (``app.domain.access.require``) when it knows of what it is.
    """
    return _marked(_Access(permission=permission, somewhere=somewhere))


def authenticated(reason: str) -> Callable[[Endpoint], Endpoint]:
    """Whoever was authenticated may call this route, because of ``reason``."""
    if not reason:
        raise TypeError("say why every principal may call the route")
    return _marked(_Access())


def public(reason: str) -> Callable[[Endpoint], Endpoint]:
    """Anybody may call this route, because of ``reason``."""
    if not reason:
        raise TypeError("say why the route is public")
    return _marked(_Access(is_public=True))


def _marked(access: _Access) -> Callable[[Endpoint], Endpoint]:
    def mark(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, _MARK, access)
        return endpoint

    return mark


async def _principal(
    request: Request,
    services: ServicesOf,
    _bearer_token: Annotated[object, Depends(_bearer)],
    _basic_token: Annotated[object, Depends(_basic)],
) -> Principal:
    refused: Refused | None = request.scope.get(REFUSED)
    if refused is not None:
        request.state.principal = refused.principal
        raise refused.error
    principal = await services.authentication.authenticate(request.scope)
    # For the error handler, which tells the audit log who was refused.
    request.state.principal = principal
    return principal


CurrentPrincipal = Annotated[Principal, Depends(_principal)]


async def authenticated_again(request: Request, services: Services) -> Principal:
    """The principal of a request that has waited: what was taken away meanwhile is not answered any more."""
    return await services.authentication.authenticate(request.scope)


def _requires(access: _Access) -> DependsMarker:
    async def check(principal: CurrentPrincipal) -> None:
        permission = access.permission
        if permission is None:
            return
        if not (access.somewhere and holds_somewhere(principal, permission)):
            require(principal, permission)

    marker: DependsMarker = Depends(check)
    return marker


class GuardedRoute(APIRoute):
    """A route that cannot be made without saying who may call it."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # noqa: ANN401  # FastAPI's own
        access = getattr(endpoint, _MARK, None)
        if not isinstance(access, _Access):
            raise TypeError(f"{path}: declare @needs(<permission>), @authenticated(<reason>) or @public(<reason>)")
        if not access.is_public:
            options["dependencies"] = [_requires(access), *(options.get("dependencies") or [])]
        super().__init__(path, endpoint, **options)
