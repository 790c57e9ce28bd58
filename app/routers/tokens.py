"""``/tokens`` and ``/logins``: personal access tokens, and the clients that somebody is signed in to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from app.domain.identity import Scope
from app.domain.tokens import LONGEST_NAME, Token
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated
from app.routers.schemas.shared import Answer, Cursor, Limit, Page, Request, read_cursor, write_cursor
from app.routers.services import ServicesOf

router = APIRouter(tags=["tokens"], route_class=GuardedRoute)

Of = Annotated[
    str | None,
    Query(max_length=2500, pattern=r"^[\x20-\x7e]*$", description="Somebody else's id, for administrators."),
]


class CreateToken(Request):
    """What a token shall be. `approve` and `admin` stand alone and are good for one day."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME, description="What you call it; yours alone.")
    scopes: Sequence[Scope] = Field(min_length=1, max_length=len(Scope))
    expires_in_days: int = Field(ge=1, le=366, description="The operator may allow fewer.")


class TokenAnswer(Answer):
    """A personal access token, without its secret."""

    id: str
    name: str
    owner: str
    scopes: Sequence[Scope]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None = Field(description="Right to a minute or two.")
    revoked_at: datetime | None


class NewTokenAnswer(TokenAnswer):
    """A personal access token, and its secret: this once."""

    token: str


class LoginAnswer(Answer):
    """A client that somebody signed in to."""

    id: str
    owner: str
    client: str
    title: str
    scopes: Sequence[Scope]
    created_at: datetime
    refreshed_at: datetime
    expires_at: datetime
    address: str
    user_agent: str
    ended_at: datetime | None
    end_reason: str | None


@router.post("/tokens", status_code=201, response_model=NewTokenAnswer)
@authenticated("people look after their own tokens; the service asks with which credential")
async def create_token(
    body: CreateToken, principal: CurrentPrincipal, services: ServicesOf, response: Response
) -> NewTokenAnswer:
    """A new personal access token. Its secret is in this answer and nowhere else."""
    token, secret = await services.tokens.create(
        principal, name=body.name, scopes=body.scopes, expires_in_days=body.expires_in_days
    )
    response.headers["Cache-Control"] = "no-store"
    return NewTokenAnswer(**_token(token).model_dump(), token=secret)


@router.get("/tokens", response_model=Page[TokenAnswer])
@authenticated("people look after their own tokens; the service asks with which credential")
async def list_tokens(
    principal: CurrentPrincipal,
    services: ServicesOf,
    of: Annotated[Of, Query(alias="principal")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[TokenAnswer]:
    """Newest first, those that are over among them for a month."""
    found = await services.tokens.page(principal, of=of, before=read_cursor(cursor), limit=limit)
    last = found[-1] if len(found) == limit else None
    return Page[TokenAnswer](
        items=[_token(token) for token in found],
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
    )


@router.delete("/tokens/{token_id}", status_code=204)
@authenticated("people look after their own tokens; the service asks with which credential")
async def revoke_token(
    token_id: Annotated[str, Path(pattern=r"^[0-9a-z_]{1,64}$")], principal: CurrentPrincipal, services: ServicesOf
) -> None:
    """Revoke a token, on every gateway process within a second."""
    await services.tokens.revoke(principal, token_id)


@router.get("/logins", response_model=Page[LoginAnswer])
@authenticated("people look after their own logins; the service asks with which credential")
async def list_logins(
    principal: CurrentPrincipal,
    services: ServicesOf,
    of: Annotated[Of, Query(alias="principal")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[LoginAnswer]:
    """Newest first, those that are over among them for a month."""
    found = await services.logins.page(principal, of=of, before=read_cursor(cursor), limit=limit)
    last = found[-1] if len(found) == limit else None
    return Page[LoginAnswer](
        items=[
            LoginAnswer(
                id=login.id,
                owner=login.principal_id,
                client=login.client,
                title=services.logins.title_of(login.client),
                scopes=sorted(login.scopes),
                created_at=login.created_at,
                refreshed_at=login.refreshed_at,
                expires_at=login.expires_at,
                address=login.address,
                user_agent=login.user_agent,
                ended_at=login.ended_at,
                end_reason=login.end_reason,
            )
            for login in found
        ],
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
    )


@router.delete("/logins/{login_id}", status_code=204)
@authenticated("people look after their own logins; the service asks with which credential")
async def end_login(
    login_id: Annotated[str, Path(pattern=r"^[0-9a-z_]{1,64}$")], principal: CurrentPrincipal, services: ServicesOf
) -> None:
    """End a login: its client is signed out, on every gateway process within a second."""
    await services.logins.end(principal, login_id)


def _token(token: Token) -> TokenAnswer:
    return TokenAnswer(
        id=token.id,
        name=token.name,
        owner=token.principal_id,
        scopes=sorted(token.scopes),
        created_at=token.created_at,
        expires_at=token.expires_at,
        last_used_at=token.last_used_at,
        revoked_at=token.revoked_at,
    )
