"""``/grants`` and ``/roles``: who may do what, given and taken away."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from app.domain.access import Role
from app.domain.errors import InvalidInput
from app.domain.roles import DENIED_WITH, MEANINGS, ROLE_PERMISSIONS, SERVER_WIDE
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated
from app.routers.schemas.grants import GrantAnswer, GrantBody, RoleAnswer, grant_answer
from app.routers.schemas.shared import Cursor, Limit, Page, read_name_cursor, write_name_cursor
from app.routers.services import ServicesOf
from app.services.grants import GrantFilter, ListedGrant

router = APIRouter(tags=["access"], route_class=GuardedRoute)

OWNERS = "administrators may change all grants, owners those on what they created: the service asks"
Name = Annotated[str, Path(max_length=400, description="Lower-case letters, digits, `-`, `_` and `.`.")]
Text = Annotated[str | None, Query(max_length=2500)]
IfMatch = Annotated[str | None, Header(max_length=1000, description="The ETag that it must have now.")]
CHANGED: dict[int | str, dict[str, Any]] = {412: {"description": "It was changed meanwhile."}}


@router.get("/roles", response_model=list[RoleAnswer])
@authenticated("what each role permits is in the documentation too")
async def list_roles() -> list[RoleAnswer]:
    """The roles, and what each permits."""
    return [
        RoleAnswer(
            role=role,
            meaning=MEANINGS[role],
            permissions=sorted(ROLE_PERMISSIONS[role]),
            on_parts=role not in SERVER_WIDE,
            denial=sorted(DENIED_WITH[role]),
        )
        for role in Role
    ]


@router.get("/grants", response_model=Page[GrantAnswer])
@authenticated("who may not read grants sees those on the models that they own: the service asks")
async def list_grants(
    principal: CurrentPrincipal,
    services: ServicesOf,
    role: Role | None = None,
    person: Text = None,
    group: Text = None,
    issuer: Text = None,
    model: Annotated[str | None, Query(max_length=500, description="Those that reach this model.")] = None,
    experiment: Annotated[str | None, Query(max_length=500, description="Those that reach it.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[GrantAnswer]:
    """By name. Who may not read grants sees those on the models that they own."""
    wanted = GrantFilter(role, person, group, issuer, model, experiment)
    found = await services.grants.page(principal, wanted, after=read_name_cursor(cursor), limit=limit)
    return Page[GrantAnswer](
        items=[grant_answer(each) for each in found],
        next_cursor=write_name_cursor(found[-1].grant.name) if len(found) == limit else None,
    )


@router.get("/grants/{name:path}", response_model=GrantAnswer)
@authenticated(OWNERS)
async def get_grant(name: Name, principal: CurrentPrincipal, services: ServicesOf, response: Response) -> GrantAnswer:
    """One grant."""
    return _answer(await services.grants.get(principal, name), response)


@router.put("/grants/{name:path}", response_model=GrantAnswer, responses={201: {"model": GrantAnswer}, **CHANGED})
@authenticated(OWNERS)
async def put_grant(
    name: Name,
    body: GrantBody,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: Annotated[str | None, Header(max_length=10, description="`*`: there must be none yet.")] = None,
) -> GrantAnswer:
    """Write a grant, new (201) or in the place of the one of its name.

    Who owns a model or experiment may make others viewer, contributor or requester on exactly that one.
    """
    if body.name not in {None, name}:
        raise InvalidInput("name", "expected the one in the address, or none")
    if if_none_match not in {None, "*"}:
        raise InvalidInput("if-none-match", "expected `*`")
    listed, is_new = await services.grants.put(
        principal, body.document(name), if_match=if_match, if_none_match=if_none_match is not None
    )
    response.status_code = 201 if is_new else 200
    return _answer(listed, response)


@router.delete("/grants/{name:path}", status_code=204, responses=CHANGED)
@authenticated(OWNERS)
async def delete_grant(name: Name, principal: CurrentPrincipal, services: ServicesOf, if_match: IfMatch = None) -> None:
    """Take a grant back, on every gateway within a second."""
    await services.grants.remove(principal, name, if_match=if_match)


def _answer(listed: ListedGrant, response: Response) -> GrantAnswer:
    if listed.stored:
        response.headers["ETag"] = listed.stored.etag
    return grant_answer(listed)
