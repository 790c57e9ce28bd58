"""``/console/policies``: what each asks for, in words, and how it came to that."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app.domain.access import Permission
from app.domain.errors import InvalidInput
from app.routers.access import CurrentPrincipal, needs
from app.routers.console.frame import shown
from app.routers.console.policy_words import in_words, protects
from app.routers.page_route import PageRoute
from app.routers.schemas.shared import read_number_cursor, write_number_cursor
from app.routers.services import ServicesOf

router = APIRouter(prefix="/console/policies", route_class=PageRoute)

A_PAGE = 20
LONGEST_NUMBER = 9

Name = Annotated[str, Path(max_length=400)]


@router.get("")
@needs(Permission.POLICIES_READ, somewhere=True)
async def policies(principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Those in force, by name."""
    listed = [
        (each, protects(each.policy), in_words(each.policy)) for each in await services.policies.listed(principal)
    ]
    return shown("policies.html", principal, services, title="Policies", here="policies", policies=listed)


@router.get("/{name}")
@needs(Permission.POLICIES_READ, somewhere=True)
async def policy(
    name: Name,
    principal: CurrentPrincipal,
    services: ServicesOf,
    revision: Annotated[str, Query()] = "",
    cursor: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """One policy as it is in force, or one of its revisions, and all that there were."""
    revisions = await services.policies.revisions(
        principal, name, before=read_number_cursor(cursor or None), limit=A_PAGE
    )
    newest = (await services.policies.revisions(principal, name, limit=1)).items[0]
    looked_at = await services.policies.revision(principal, name, _number(revision)) if revision else newest
    return shown(
        "policy.html",
        principal,
        services,
        title=f"Policy {name}",
        here="policies",
        policy=looked_at,
        newest=newest,
        protects="" if looked_at.is_retired else protects(looked_at.policy),
        clauses=() if looked_at.is_retired else in_words(looked_at.policy),
        revisions=revisions.items,
        next_cursor=None if revisions.last is None else write_number_cursor(revisions.last),
    )


def _number(revision: str) -> int:
    if not (revision.isascii() and revision.isdecimal() and len(revision) <= LONGEST_NUMBER):
        raise InvalidInput("revision", "expected a whole number")
    return int(revision)
