"""``/principals``: who is known here, and who is not let in any more."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from app.domain.access import Permission
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.grants import PrincipalAnswer, principal_answer
from app.routers.schemas.promotions import Reason
from app.routers.schemas.shared import Cursor, Limit, Page, read_name_cursor, write_name_cursor
from app.routers.services import ServicesOf

router = APIRouter(prefix="/principals", tags=["access"], route_class=GuardedRoute)

Id = Annotated[
    str, Path(max_length=2500, pattern=r"^[\x20-\x7e]+$", description="`<issuer>|<subject>`, percent-encoded.")
]


@router.get("", response_model=Page[PrincipalAnswer])
@needs(Permission.IDENTITIES_ADMINISTER)
async def list_principals(
    services: ServicesOf,
    search: Annotated[
        str, Query(max_length=200, pattern=r"^[^\x00]*$", description="What their id or name holds.")
    ] = "",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[PrincipalAnswer]:
    """Those whom sessions and tokens of ours belong to, or belonged to, by id."""
    found = await services.principals.page(after=read_name_cursor(cursor), limit=limit, search=search)
    return Page[PrincipalAnswer](
        items=[principal_answer(known) for known in found],
        next_cursor=write_name_cursor(found[-1].identity.id) if len(found) == limit else None,
    )


@router.get("/{principal_id:path}", response_model=PrincipalAnswer)
@needs(Permission.IDENTITIES_ADMINISTER)
async def get_principal(principal_id: Id, services: ServicesOf) -> PrincipalAnswer:
    """One of them."""
    return principal_answer(await services.principals.get(principal_id))


@router.post("/{principal_id:path}/disable", response_model=PrincipalAnswer)
@needs(Permission.IDENTITIES_ADMINISTER)
async def disable_principal(
    principal_id: Id, principal: CurrentPrincipal, services: ServicesOf, body: Reason | None = None
) -> PrincipalAnswer:
    """Let somebody in no more, with any credential, on every gateway within a second. Nobody disables themselves."""
    reason = body.reason if body else ""
    return principal_answer(await services.principals.disable(principal, principal_id, reason=reason))


@router.post("/{principal_id:path}/enable", response_model=PrincipalAnswer)
@needs(Permission.IDENTITIES_ADMINISTER)
async def enable_principal(
    principal_id: Id, principal: CurrentPrincipal, services: ServicesOf, body: Reason | None = None
) -> PrincipalAnswer:
    """Let somebody in again."""
    reason = body.reason if body else ""
    return principal_answer(await services.principals.enable(principal, principal_id, reason=reason))
