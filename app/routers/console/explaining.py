"""``/console/explain``: what would stand between a version and an alias. Nothing is written."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.domain.access import Permission
from app.domain.assessing import RuleStatus, is_blocked
from app.domain.errors import CountersignError, Forbidden, InvalidInput, NotAuthenticated, Unavailable
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.problems import problem_of
from app.domain.promotions import AliasKey, Promotion
from app.routers.access import CurrentPrincipal, needs
from app.routers.console.frame import shown
from app.routers.page_route import PageRoute
from app.routers.services import ServicesOf
from app.services.promotions import Wanted

router = APIRouter(prefix="/console/explain", route_class=PageRoute)

Asked = Annotated[str, Query(max_length=500)]


@router.get("")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def explain(
    principal: CurrentPrincipal,
    services: ServicesOf,
    model: Asked = "",
    alias: Asked = "",
    version: Asked = "",
    workspace: Asked = DEFAULT_WORKSPACE,
) -> Response:
    """A form, and rule by rule the answer to what was asked with it."""
    asked = {"model": model.strip(), "alias": alias.strip(), "version": version.strip()}
    promotion: Promotion | None = None
    statuses: tuple[RuleStatus, ...] = ()
    status, problem = 200, ""
    if any(asked.values()):
        wanted = Wanted(AliasKey(workspace, asked["model"], asked["alias"]), asked["version"])
        try:
            promotion, statuses = await services.promotions.explain(principal, wanted)
        except (NotAuthenticated, Forbidden, Unavailable):
            raise
        except InvalidInput as error:
            status, problem = 400, "; ".join(f"{field}: {said}" for field, said in error.problems)
        except CountersignError as error:
            status, problem = problem_of(error).status, error.message
    return shown(
        "explain.html",
        principal,
        services,
        status=status,
        title="What would it take?",
        here="explain",
        asked=asked,
        workspace=workspace,
        people={},
        is_blocked=is_blocked(statuses),
        unmet=sum(not status.holds for status in statuses),
        promotion=promotion,
        statuses=statuses,
        problem=problem,
    )
