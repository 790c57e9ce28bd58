"""``/console/endpoints`` and ``/console/deliveries``: who is told, how that goes, and having it sent again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.domain.access import Permission, Principal, may
from app.domain.advice import advice
from app.domain.deliveries import Delivery, DeliveryState, Filter, Receiver, ReceiverKind, is_success
from app.domain.endpoint_documents import cautions, masked_document
from app.domain.endpoints import ReceiverState
from app.domain.errors import Conflict
from app.routers.access import CurrentPrincipal, needs
from app.routers.console.frame import lead_to, shown
from app.routers.page_route import PageForm, PageRoute
from app.routers.schemas.shared import read_cursor, write_cursor
from app.routers.services import Services, ServicesOf
from app.services.identifiers import new_id

router = APIRouter(prefix="/console", route_class=PageRoute)

MOST_ENDPOINTS = 500
A_PAGE = 30


@router.get("/endpoints")
@needs(Permission.ENDPOINTS_READ)
async def endpoints(principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """All of them, those that are not well first, and the targets."""
    found = await services.endpoints.page(limit=MOST_ENDPOINTS)
    found = sorted(found, key=lambda each: each.state is ReceiverState.ACTIVE and each.failing_since is None)
    return shown(
        "endpoints.html",
        principal,
        services,
        title="Webhooks",
        here="endpoints",
        endpoints=[(each, masked_document(each.endpoint)) for each in found],
        targets=await services.endpoints.targets(limit=MOST_ENDPOINTS),
    )


@router.get("/endpoints/{name}")
@needs(Permission.ENDPOINTS_READ)
async def endpoint(
    name: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    cursor: Annotated[str, Query(max_length=4000)] = "",
) -> Response:
    """One endpoint: what it hears, how it is doing, and what it was sent."""
    return await _endpoint(name, principal, services, cursor=cursor)


@router.post("/endpoints/{name}/ping")
@needs(Permission.ENDPOINTS_ADMINISTER)
async def ping(name: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Try whether it hears."""
    try:
        sent = await services.deliveries.ping(principal, name, idempotency_key=form.get("key") or None)
    except Conflict as error:
        return await _endpoint(name, principal, services, problem=error)
    return lead_to("deliveries", sent.id)


@router.get("/deliveries/{delivery_id}")
@needs(Permission.DELIVERIES_READ)
async def delivery(delivery_id: str, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """One message, and every attempt at it."""
    return await _delivery(delivery_id, principal, services)


@router.post("/deliveries/{delivery_id}/redeliver")
@needs(Permission.ENDPOINTS_ADMINISTER)
async def redeliver(delivery_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Send the same message again."""
    try:
        again = await services.deliveries.redeliver(principal, delivery_id, idempotency_key=form.get("key") or None)
    except Conflict as error:
        return await _delivery(delivery_id, principal, services, problem=error)
    return lead_to("deliveries", again.id)


async def _endpoint(
    name: str, principal: Principal, services: Services, *, cursor: str = "", problem: Conflict | None = None
) -> Response:
    stored = await services.endpoints.get(name)
    receiver = Receiver(ReceiverKind.ENDPOINT, name)
    found = await services.deliveries.page(Filter(receiver), before=read_cursor(cursor or None), limit=A_PAGE)
    last = found[-1] if len(found) == A_PAGE else None
    obstacle = await _obstacle(services, receiver, found, stored.failing_since) if stored.failing_since else None
    return shown(
        "endpoint.html",
        principal,
        services,
        title=f"Webhook {name}",
        here="endpoints",
        status=409 if problem else 200,
        problem=problem,
        obstacle=obstacle,
        endpoint=stored,
        document=masked_document(stored.endpoint),
        cautions=cautions(stored.endpoint),
        deliveries=found,
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
        administers=may(principal, Permission.ENDPOINTS_ADMINISTER),
        is_active=stored.state is ReceiverState.ACTIVE,
        key=new_id("key"),
    )


async def _obstacle(
    services: Services, receiver: Receiver, newest: Sequence[Delivery], since: datetime
) -> tuple[str, str] | None:
    """The delivery that shows best why a receiver takes nothing, and the reason; none if no attempt is left of any."""
    undelivered = Filter(receiver, states=(DeliveryState.PENDING, DeliveryState.DEAD), until=since)
    older = await services.deliveries.page(undelivered, limit=A_PAGE)
    tried = (each for each in (*newest, *older) if each.attempts and each.state is not DeliveryState.DELIVERED)
    if (failed := next(tried, None)) is None:
        return None
    _, log = await services.deliveries.get(failed.id)
    if not log or is_success(log[-1]):
        return None
    return failed.id, log[-1].error or f"it answered {log[-1].status}"


async def _delivery(
    delivery_id: str, principal: Principal, services: Services, *, problem: Conflict | None = None
) -> Response:
    found, log = await services.deliveries.get(delivery_id)
    return shown(
        "delivery.html",
        principal,
        services,
        title=f"Delivery of {found.event_type}",
        here="endpoints",
        status=409 if problem else 200,
        problem=problem,
        delivery=found,
        log=[(each, advice(each)) for each in reversed(log)],
        payload=json.dumps(json.loads(found.body), indent=2, ensure_ascii=False),
        administers=may(principal, Permission.ENDPOINTS_ADMINISTER),
        is_settled=found.state is not DeliveryState.PENDING,
        key=new_id("key"),
        is_of_endpoint=found.receiver.kind is ReceiverKind.ENDPOINT,
    )
