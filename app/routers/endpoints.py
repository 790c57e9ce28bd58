"""``/endpoints`` and ``/targets``: who is told and who is called, how they are doing, and repairing that."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Response

from app.domain.access import Permission, Principal, may
from app.domain.errors import InvalidInput
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.deliveries import DeliveryAnswer
from app.routers.schemas.endpoints import (
    DisableEndpoint,
    EndpointAnswer,
    EndpointBody,
    EndpointWrittenAnswer,
    KeyAnswer,
    Replayed,
    ReplayEvents,
    RotateKey,
    TargetAnswer,
)
from app.routers.schemas.shared import Cursor, IdempotencyKey, Limit, Page, read_name_cursor, write_name_cursor
from app.routers.services import ServicesOf

router = APIRouter(route_class=GuardedRoute)

Name = Annotated[str, Path(max_length=400)]
IfMatch = Annotated[str | None, Header(max_length=1000, description="The ETag that it must have now.")]
CHANGED: dict[int | str, dict[str, Any]] = {412: {"description": "It was changed meanwhile."}}
NOT_KEPT = "no-store"
"""``Cache-Control`` of what may hold a secret (RFC 9111 section 5.2.2.5)."""


@router.get("/endpoints", response_model=Page[EndpointAnswer], tags=["endpoints"])
@needs(Permission.ENDPOINTS_READ)
async def list_endpoints(
    principal: CurrentPrincipal, services: ServicesOf, limit: Limit = 50, cursor: Cursor = None
) -> Page[EndpointAnswer]:
    """By name."""
    found = await services.endpoints.page(after=read_name_cursor(cursor), limit=limit)
    return Page[EndpointAnswer](
        items=[EndpointAnswer.of(each, in_full=_in_full(principal)) for each in found],
        next_cursor=write_name_cursor(found[-1].endpoint.name) if len(found) == limit else None,
    )


@router.get("/endpoints/{name}", response_model=EndpointAnswer, tags=["endpoints"])
@needs(Permission.ENDPOINTS_READ)
async def get_endpoint(
    name: Name, principal: CurrentPrincipal, services: ServicesOf, response: Response
) -> EndpointAnswer:
    """One endpoint, and how it is doing."""
    found = await services.endpoints.get(name)
    response.headers["ETag"] = found.etag
    return EndpointAnswer.of(found, in_full=_in_full(principal))


@router.put(
    "/endpoints/{name}",
    response_model=EndpointWrittenAnswer,
    responses={201: {"model": EndpointWrittenAnswer}, **CHANGED},
    tags=["endpoints"],
)
@needs(Permission.ENDPOINTS_ADMINISTER)
async def put_endpoint(
    name: Name,
    body: EndpointBody,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: Annotated[str | None, Header(max_length=10, description="`*`: there must be none yet.")] = None,
) -> EndpointWrittenAnswer:
    """Write an endpoint, new (201) or in the place of the one of its name. A new one hears what happens from now on.

    Refused with every wrong field and what was expected. Its key is derived and shown in the answer that made it.
    """
    if if_none_match not in {None, "*"}:
        raise InvalidInput("if-none-match", "expected `*`")
    written = await services.endpoints.put(
        principal, name, body, if_match=if_match, if_none_match=if_none_match is not None
    )
    response.status_code = 201 if written.is_new else 200
    response.headers["ETag"] = written.stored.etag
    response.headers["Cache-Control"] = NOT_KEPT
    return EndpointWrittenAnswer.of_written(written)


@router.delete("/endpoints/{name}", status_code=204, responses=CHANGED, tags=["endpoints"])
@needs(Permission.ENDPOINTS_ADMINISTER)
async def delete_endpoint(
    name: Name, principal: CurrentPrincipal, services: ServicesOf, if_match: IfMatch = None
) -> None:
    """Remove an endpoint. What waits for it is not sent any more; the log of what was sent stays."""
    await services.endpoints.remove(principal, name, if_match=if_match)


@router.post("/endpoints/{name}/enable", response_model=EndpointAnswer, tags=["endpoints"])
@needs(Permission.ENDPOINTS_ADMINISTER)
async def enable_endpoint(
    name: Name, principal: CurrentPrincipal, services: ServicesOf, response: Response
) -> EndpointAnswer:
    """Have it hear what happens from now on. What happened meanwhile can be replayed."""
    found = await services.endpoints.enable(principal, name)
    response.headers["ETag"] = found.etag
    return EndpointAnswer.of(found, in_full=True)


@router.post("/endpoints/{name}/disable", response_model=EndpointAnswer, tags=["endpoints"])
@needs(Permission.ENDPOINTS_ADMINISTER)
async def disable_endpoint(
    name: Name,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    body: DisableEndpoint | None = None,
) -> EndpointAnswer:
    """Send it nothing any more, nor what waits for it. What happens meanwhile is not kept for it."""
    found = await services.endpoints.disable(principal, name, reason=body.reason if body else "")
    response.headers["ETag"] = found.etag
    return EndpointAnswer.of(found, in_full=True)


@router.post("/endpoints/{name}/rotate", response_model=EndpointWrittenAnswer, responses=CHANGED, tags=["endpoints"])
@needs(Permission.ENDPOINTS_ADMINISTER)
async def rotate_endpoint_key(
    name: Name,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    body: RotateKey | None = None,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> EndpointWrittenAnswer:
    """Give it a new key, shown in this answer. Messages are signed with the one before too while they overlap."""
    written = await services.endpoints.rotate(
        principal,
        name,
        overlap=timedelta(seconds=(body or RotateKey()).overlap_s),
        if_match=if_match,
        idempotency_key=idempotency_key,
    )
    response.headers["ETag"] = written.stored.etag
    response.headers["Cache-Control"] = NOT_KEPT
    return EndpointWrittenAnswer.of_written(written)


@router.get("/endpoints/{name}/keys", response_model=Page[KeyAnswer], tags=["endpoints"])
@needs(Permission.ENDPOINTS_READ)
async def list_endpoint_keys(name: Name, services: ServicesOf) -> Page[KeyAnswer]:
    """The keys that sign now, the newest first: the public ones of ed25519, and nothing that is secret."""
    keys = await services.endpoints.keys(name)
    return Page[KeyAnswer](items=[KeyAnswer.model_validate(key) for key in keys], next_cursor=None)


@router.post("/endpoints/{name}/ping", status_code=201, response_model=DeliveryAnswer, tags=["endpoints"])
@needs(Permission.ENDPOINTS_ADMINISTER)
async def ping_endpoint(
    name: Name, principal: CurrentPrincipal, services: ServicesOf, idempotency_key: IdempotencyKey = None
) -> DeliveryAnswer:
    """Send it an `endpoint.pinged`, once; the delivery tells how that went."""
    return DeliveryAnswer.model_validate(
        await services.deliveries.ping(principal, name, idempotency_key=idempotency_key)
    )


@router.post("/endpoints/{name}/replay", response_model=Replayed, tags=["endpoints"])
@needs(Permission.ENDPOINTS_ADMINISTER)
async def replay_events(name: Name, body: ReplayEvents, principal: CurrentPrincipal, services: ServicesOf) -> Replayed:
    """Have what happened in a range of time sent to it, in order: what it did not get, or everything again.

    What waits to be sent is left as it is: asked for twice, nothing that the first one has yet to send is sent again.
    """
    count = await services.deliveries.replay(principal, name, body.wanted(), dry_run=body.dry_run)
    return Replayed(count=count, dry_run=body.dry_run)


@router.get("/targets", response_model=Page[TargetAnswer], tags=["targets"])
@needs(Permission.ENDPOINTS_READ)
async def list_targets(services: ServicesOf, limit: Limit = 50, cursor: Cursor = None) -> Page[TargetAnswer]:
    """Where models are deployed to, by name. `countersign apply` writes them."""
    found = await services.endpoints.targets(after=read_name_cursor(cursor), limit=limit)
    return Page[TargetAnswer](
        items=[TargetAnswer.of(each) for each in found],
        next_cursor=write_name_cursor(found[-1].target.name) if len(found) == limit else None,
    )


@router.get("/targets/{name}", response_model=TargetAnswer, tags=["targets"])
@needs(Permission.ENDPOINTS_READ)
async def get_target(name: Name, services: ServicesOf) -> TargetAnswer:
    """One target, and how it is doing."""
    return TargetAnswer.of(await services.endpoints.target(name))


@router.post("/targets/{name}/enable", response_model=TargetAnswer, tags=["targets"])
@needs(Permission.ENDPOINTS_ADMINISTER)
async def enable_target(name: Name, principal: CurrentPrincipal, services: ServicesOf) -> TargetAnswer:
    """Call a deployer again that was disabled, as after it said that it is gone (410)."""
    return TargetAnswer.of(await services.endpoints.enable_target(principal, name))


def _in_full(principal: Principal) -> bool:
    return may(principal, Permission.ENDPOINTS_ADMINISTER)
