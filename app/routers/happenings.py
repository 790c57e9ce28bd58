"""``/events``: what happened, in order. ``/drifts``: aliases that were moved past the gateway."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.domain.access import Permission
from app.domain.events import EventType
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated_again, needs
from app.routers.schemas.aliases import DriftAnswer, EventPage, drift_answer, event_answer
from app.routers.schemas.shared import LARGEST_NUMBER, Cursor, Limit, Page, read_cursor, write_cursor
from app.routers.services import ServicesOf

router = APIRouter(route_class=GuardedRoute)


@router.get("/drifts", response_model=Page[DriftAnswer], tags=["aliases"])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_drifts(
    principal: CurrentPrincipal,
    services: ServicesOf,
    *,
    is_open: Annotated[
        bool | None, Query(alias="open", description="Only those that are open, or only those that are over.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DriftAnswer]:
    """Newest first, of the aliases whose promotions you may read."""
    found = await services.drifts.page(principal, is_open=is_open, before=read_cursor(cursor), limit=limit)
    last = found[-1] if len(found) == limit else None
    return Page[DriftAnswer](
        items=[drift_answer(each) for each in found],
        next_cursor=write_cursor(last.found_at, last.id) if last else None,
    )


@router.get("/events", response_model=EventPage, tags=["events"])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_events(
    request: Request,
    principal: CurrentPrincipal,
    services: ServicesOf,
    after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="The sequence of the last event seen.")] = 0,
    types: Annotated[list[EventType] | None, Query(alias="type", description="Repeat for several.")] = None,
    limit: Limit = 100,
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for an event if there is none.")] = 0,
) -> EventPage:
    """Oldest first, of the aliases whose promotions you may read. None is missed: order is that of being seen."""
    types = types or []
    found = await services.events.wait(principal, after=after, types=types, limit=limit, timeout_s=wait)
    if wait:
        # What was taken away meanwhile is not answered any more.
        principal = await authenticated_again(request, services)
        found = await services.events.page(principal, after=after, types=types, limit=limit)
    return EventPage(items=[event_answer(each) for each in found], next_after=found[-1].sequence if found else after)
