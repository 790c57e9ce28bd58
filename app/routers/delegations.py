"""``/delegations``: who stands in for whom."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import Field

from app.domain.access import Permission
from app.domain.delegations import LONGEST_REASON
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.promotions import PersonAnswer
from app.routers.schemas.shared import (
    Answer,
    Cursor,
    IdempotencyKey,
    Limit,
    Moment,
    Page,
    Request,
    read_cursor,
    write_cursor,
)
from app.routers.services import ServicesOf
from app.services.delegations import Delegation

router = APIRouter(prefix="/delegations", tags=["delegations"], route_class=GuardedRoute)


class CreateDelegation(Request):
    """Let somebody decide on promotions for you while you are away."""

    to: str = Field(min_length=1, max_length=2500, description="Id, or exact name, of a person who has signed in here.")
    delegator: str | None = Field(
        default=None,
        min_length=1,
        max_length=2500,
        description="Administrators: id or exact name of who is away. Else it is you.",
    )
    models: str = Field(default="*", max_length=500, description="A pattern of the models it is about.")
    starts_at: Moment | None = Field(default=None, description="From when; from now if it is left out.")
    ends_at: Moment = Field(description="Until when, at most 90 days from now.")
    reason: str = Field(default="", max_length=LONGEST_REASON, examples=["on leave"])


class DelegationAnswer(Answer):
    """`delegate` decides for `delegator`, with what the delegator may."""

    id: str
    delegator: PersonAnswer
    delegate: PersonAnswer
    models: str
    starts_at: datetime
    ends_at: datetime
    reason: str
    created_at: datetime
    created_by: str = Field(description="The id of who made it.")
    revoked_at: datetime | None


@router.get("", response_model=Page[DelegationAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_delegations(
    principal: CurrentPrincipal,
    services: ServicesOf,
    everybody: Annotated[
        bool, Query(alias="all", description="Administrators: everybody's.")
    ] = False,  # FastAPI's parameter
    active: Annotated[bool, Query(description="Only those that hold now.")] = False,  # as above
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DelegationAnswer]:
    """Newest first, those from you and to you."""
    found = await services.delegations.page(
        principal, everybody=everybody, active=active, before=read_cursor(cursor), limit=limit
    )
    last = found[-1] if len(found) == limit else None
    return Page[DelegationAnswer](
        items=[_answer(delegation) for delegation in found],
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
    )


@router.post("", status_code=201, response_model=DelegationAnswer)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def create_delegation(
    body: CreateDelegation,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> DelegationAnswer:
    """Let another person stand in for you: they need a right to read the promotions, and the rest is yours."""
    delegation, is_new = await services.delegations.create(
        principal,
        to=body.to,
        giver=body.delegator,
        models=body.models,
        starts_at=body.starts_at,
        ends_at=body.ends_at,
        reason=body.reason,
        idempotency_key=idempotency_key,
    )
    response.status_code = 201 if is_new else 200
    return _answer(delegation)


@router.delete("/{delegation_id}", status_code=204)
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def revoke_delegation(delegation_id: str, principal: CurrentPrincipal, services: ServicesOf) -> None:
    """End it. Decisions that were made by it stand."""
    await services.delegations.revoke(principal, delegation_id)


def _answer(delegation: Delegation) -> DelegationAnswer:
    return DelegationAnswer(
        id=delegation.id,
        delegator=PersonAnswer(id=delegation.from_id, name=delegation.from_name),
        delegate=PersonAnswer(id=delegation.to_id, name=delegation.to_name),
        models=delegation.models,
        starts_at=delegation.starts_at,
        ends_at=delegation.ends_at,
        reason=delegation.reason,
        created_at=delegation.created_at,
        created_by=delegation.created_by,
        revoked_at=delegation.revoked_at,
    )
