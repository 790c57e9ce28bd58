"""``/events``: what happened, in order. ``/drifts``: aliases that were moved past the gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Send

from app.domain.access import Permission, Principal, holds_somewhere, require
from app.domain.errors import NotFound
from app.domain.events import CATALOGUE, EventType, StoredEvent, cloud_event, schema_address, schema_of
from app.routers import server_sent_events
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated_again, needs, public
from app.routers.schemas.aliases import DriftAnswer, drift_answer
from app.routers.schemas.events import EventCatalogue, EventPage, EventTypeAnswer, event_answer
from app.routers.schemas.shared import LARGEST_NUMBER, Cursor, Limit, Page, read_cursor, write_cursor
from app.routers.services import ServicesOf
from app.services.events import WantedEvents

router = APIRouter(route_class=GuardedRoute)

SCHEMA_MEDIA_TYPE = "application/schema+json"
RECONNECT_MS = 2000
STUCK_S = 60.0
"""A reader of a stream that takes nothing for so long is cut off."""


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


_Types = Annotated[list[EventType] | None, Query(alias="type", description="Repeat for several.")]
_NO_NUL = r"^[^\x00]*$"  # the database takes none
_OfWorkspace = Annotated[
    str | None, Query(alias="workspace", max_length=63, pattern=_NO_NUL, description="Of models in this one.")
]
_OfModel = Annotated[str | None, Query(alias="model", max_length=256, pattern=_NO_NUL, description="Of this model.")]
_OfAlias = Annotated[
    str | None,
    Query(
        alias="alias",
        max_length=256,
        pattern=_NO_NUL,
        description="Of this alias; empty: of a model itself, as `version.registered`.",
    ),
]


def _wanted(
    types: _Types = None, workspace: _OfWorkspace = None, model: _OfModel = None, alias: _OfAlias = None
) -> WantedEvents:
    return WantedEvents(tuple(types or ()), workspace, model, alias)


Wanted = Annotated[WantedEvents, Depends(_wanted)]


@router.get("/events", response_model=EventPage, tags=["events"])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_events(
    request: Request,
    principal: CurrentPrincipal,
    services: ServicesOf,
    wanted: Wanted,
    after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="The sequence of the last event seen.")] = 0,
    limit: Limit = 100,
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for an event if there is none.")] = 0,
    *,
    newest_first: Annotated[bool, Query(description="The last ones, instead of those that come next.")] = False,
) -> EventPage:
    """Oldest first, of the aliases whose promotions you may read. None is missed: order is that of being seen."""
    events = services.events
    if wait and not newest_first:
        await events.wait(principal, after=after, wanted=wanted, limit=1, timeout_s=wait)
        # What was taken away meanwhile is not answered any more.
        principal = await authenticated_again(request, services)
    found = await events.page(principal, after=after, wanted=wanted, limit=limit, newest_first=newest_first)
    last = max((each.sequence for each in found), default=after)
    return EventPage(items=[event_answer(each) for each in found], next_after=last)


@router.get(
    "/events/stream",
    tags=["events"],
    response_class=StreamingResponse,
    responses={200: {"description": "Events, until you hang up.", "content": {server_sent_events.MEDIA_TYPE: {}}}},
)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def stream_events(
    request: Request,
    services: ServicesOf,
    wanted: Wanted,
    after: Annotated[
        int | None, Query(ge=0, le=LARGEST_NUMBER, description="As of `/events`; without it, from now on.")
    ] = None,
    last_event_id: Annotated[
        int | None, Header(ge=0, le=LARGEST_NUMBER, description="What a browser sends when it connects again.")
    ] = None,
) -> StreamingResponse:
    """As things happen, as server-sent events: `id` is the sequence, `event` the type, `data` the CloudEvent.

    It ends when you may not know any more what happens, and when the gateway stops: connect again with what you saw
    last, and nothing is missed.
    """
    events, seen = services.events, after if last_event_id is None else last_event_id
    if seen is None:
        seen = await events.last()

    async def present() -> Principal:
        principal = await authenticated_again(request, services)
        if not holds_somewhere(principal, Permission.PROMOTIONS_READ):
            require(principal, Permission.PROMOTIONS_READ)
        return principal

    async def messages() -> AsyncIterator[bytes]:
        # The number first: whoever connects again before anything happened goes on from here.
        yield server_sent_events.reconnect_after(RECONNECT_MS) + server_sent_events.seen(str(seen))
        pages = events.follow(present, after=seen, wanted=wanted, heartbeat_s=server_sent_events.HEARTBEAT_S)
        async with aclosing(pages):
            async for page in pages:
                for stored in page:
                    yield _message(stored, services.public_url)
                if not page:
                    yield server_sent_events.HEARTBEAT

    return _UntilStuck(messages(), media_type=server_sent_events.MEDIA_TYPE, headers=dict(server_sent_events.HEADERS))


@router.get("/events/schemas", response_model=EventCatalogue, tags=["events"])
@public("what events say is in the documentation, and whoever receives them has no credential of ours")
async def list_event_schemas(services: ServicesOf) -> EventCatalogue:
    """Every type of event, what it means, and where the JSON Schema of its data is."""
    return EventCatalogue(
        items=[
            EventTypeAnswer(
                type=kind,
                meaning=row.meaning,
                subject=row.subject,
                is_alarm=row.is_alarm,
                dataschema=schema_address(services.public_url, kind),
            )
            for kind, row in CATALOGUE.items()
        ]
    )


@router.get(
    "/events/schemas/{event_type}",
    tags=["events"],
    response_class=JSONResponse,
    responses={200: {"content": {SCHEMA_MEDIA_TYPE: {"schema": {"type": "object"}}}}},
)
@public("what events say is in the documentation, and whoever receives them has no credential of ours")
async def get_event_schema(event_type: str, services: ServicesOf) -> JSONResponse:
    """The JSON Schema (2020-12) of what events of a type say. Members may be added later: ignore unknown ones."""
    try:
        kind = EventType(event_type)
    except ValueError:
        raise NotFound("There is no such type of event; /control/v1/events/schemas lists them.") from None
    document = schema_of(kind, address=schema_address(services.public_url, kind))
    return JSONResponse(document, media_type=SCHEMA_MEDIA_TYPE)


class _UntilStuck(StreamingResponse):
    """What is sent until its reader takes nothing for too long: then it is cut off, and holds nothing any more."""

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(STUCK_S):
                    await send(message)
            except TimeoutError:
                raise _ReaderIsStuck from None

        with suppress(_ReaderIsStuck):
            await super().stream_response(send_in_time)


class _ReaderIsStuck(Exception):
    """It took nothing for ``STUCK_S``."""


def _message(stored: StoredEvent, public_url: str) -> bytes:
    body = json.dumps(cloud_event(stored, source=public_url), ensure_ascii=False, separators=(",", ":"))
    return server_sent_events.message(body, event=stored.event.type.value, last_id=str(stored.sequence))
