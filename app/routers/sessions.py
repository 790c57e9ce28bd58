"""``/sessions``: the browsers in which somebody is signed in."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from app.domain.identity import CredentialKind
from app.domain.sessions import Session
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated
from app.routers.schemas.shared import Answer, Cursor, Limit, Page, read_cursor, write_cursor
from app.routers.services import ServicesOf

router = APIRouter(prefix="/sessions", tags=["sessions"], route_class=GuardedRoute)


class SessionAnswer(Answer):
    """One browser in which somebody is signed in."""

    id: str
    principal: str = Field(description="The id of whose it is.")
    principal_name: str
    provider: str = Field(description="The short name of the provider where they signed in.")
    created_at: datetime
    authenticated_at: datetime | None = Field(
        description="When they last proved to the provider who they are, if it says so."
    )
    last_seen_at: datetime = Field(description="The last request, to the minute.")
    expires_at: datetime = Field(description="The latest end, however much it is used.")
    address: str
    user_agent: str
    current: bool = Field(description="Whether this request came with it.")


class EndedAnswer(Answer):
    ended: int = Field(description="How many sessions ended.")


@router.get("", response_model=Page[SessionAnswer])
@authenticated("everybody may see their own; the service asks for more where it is somebody else's")
async def list_sessions(
    principal: CurrentPrincipal,
    services: ServicesOf,
    cursor: Cursor = None,
    limit: Limit = 50,
    of: Annotated[
        str | None,
        Query(alias="principal", max_length=1000, description="Administrators: of this principal, or `*` for all."),
    ] = None,
) -> Page[SessionAnswer]:
    """Sessions that go on, newest first: your own, unless you say whose."""
    found = await services.sessions.page(principal, of=of, everybody=of == "*", before=read_cursor(cursor), limit=limit)
    current = principal.credential.id if principal.credential.kind is CredentialKind.SESSION else None
    last = found[-1] if len(found) == limit else None
    return Page[SessionAnswer](
        items=[_answer(session, current) for session in found],
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
    )


@router.delete("/{session_id}", status_code=204)
@authenticated("everybody may end their own; the service asks for more where it is somebody else's")
async def end_session(session_id: str, principal: CurrentPrincipal, services: ServicesOf) -> None:
    """End a session, on every gateway within a second."""
    await services.sessions.end(principal, session_id)


@router.delete("", response_model=EndedAnswer)
@authenticated("everybody may end their own")
async def end_other_sessions(principal: CurrentPrincipal, services: ServicesOf) -> EndedAnswer:
    """End all your sessions but the one this request came with."""
    return EndedAnswer(ended=await services.sessions.end_others(principal))


def _answer(session: Session, current: str | None) -> SessionAnswer:
    return SessionAnswer(
        id=session.id,
        principal=session.principal_id,
        principal_name=session.principal_name,
        provider=session.provider,
        created_at=session.created_at,
        authenticated_at=session.authenticated_at,
        last_seen_at=session.last_seen_at,
        expires_at=session.expires_at,
        address=session.address,
        user_agent=session.user_agent,
        current=session.id == current,
    )
