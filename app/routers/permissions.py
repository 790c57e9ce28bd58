"""``/permissions/check`` and ``/me``: why may I (not), and who am I here?"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.domain.access import Permission, Principal, may
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated
from app.routers.schemas.grants import CheckAnswer, CheckBody, MeAnswer, check_answer, named_grant
from app.routers.services import Services, ServicesOf
from app.services.explaining import Question

router = APIRouter(tags=["access"], route_class=GuardedRoute)

ONESELF = "everybody may ask about themselves; the service asks for more where it is somebody else"


@router.get("/me", response_model=MeAnswer)
@authenticated("everybody may know how they are seen")
async def get_me(principal: CurrentPrincipal) -> MeAnswer:
    """Your name and groups, the grants that speak of you, and what this credential may do."""
    in_full = may(principal, Permission.GRANTS_READ)
    return MeAnswer(
        id=principal.id,
        name=principal.name,
        kind=principal.kind,
        groups=sorted(principal.groups),
        roles=sorted(principal.roles),
        permissions=sorted(principal.permissions),
        everywhere=sorted(each for each in Permission if may(principal, each)),
        grants=[named_grant(grant, in_full=in_full or not grant.is_denial) for grant in principal.access.grants],
        credential=principal.credential.kind,
        scopes=None if principal.scopes is None else sorted(principal.scopes),
        authenticated_at=principal.credential.authenticated_at,
        acr=principal.credential.acr,
    )


@router.get("/permissions/check", response_model=CheckAnswer)
@authenticated(ONESELF)
async def check_permission(
    question: Annotated[CheckBody, Query()], principal: CurrentPrincipal, services: ServicesOf
) -> CheckAnswer:
    """Whether you may, why, by which grant, and who could change that."""
    return await _check(question, principal, services)


@router.post("/permissions/check", response_model=CheckAnswer)
@authenticated(ONESELF)
async def check_permission_of_body(
    question: CheckBody, principal: CurrentPrincipal, services: ServicesOf
) -> CheckAnswer:
    """The same, with names that do not belong into an address."""
    return await _check(question, principal, services)


async def _check(body: CheckBody, principal: Principal, services: Services) -> CheckAnswer:
    question = Question(**body.model_dump(exclude={"principal"}))
    why = await services.explaining.check(principal, question, principal_id=body.principal)
    return check_answer(why, in_full=may(principal, Permission.GRANTS_READ))
