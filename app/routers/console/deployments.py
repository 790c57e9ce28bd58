"""``/console/deployments``: what runs where, whether it should, its history; having a target called again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response

from app.domain.access import Permission, Principal
from app.domain.deployments import Drift, Filter
from app.domain.errors import Conflict, CountersignError, InvalidInput
from app.domain.inventory import desired_in_words, drift_message, served_in_words
from app.domain.problems import problem_of
from app.routers.access import CurrentPrincipal, needs
from app.routers.console.frame import lead_to, reason_of, shown
from app.routers.page_route import PageForm, PageRoute
from app.routers.schemas.shared import read_name_cursor, read_number_cursor, write_name_cursor, write_number_cursor
from app.routers.services import Services, ServicesOf
from app.services.identifiers import new_id

router = APIRouter(prefix="/console/deployments", route_class=PageRoute)

A_PAGE = 50
ANY_DRIFT = "any"

Text = Annotated[str, Query(max_length=500)]
Place = Annotated[str, Query(max_length=4000)]


@router.get("")
@needs(Permission.DEPLOYMENTS_READ, somewhere=True)
async def deployments(
    principal: CurrentPrincipal,
    services: ServicesOf,
    model: Text = "",
    target: Text = "",
    drift: Text = "",
    cursor: Place = "",
) -> Response:
    """All of them by target and model, or those that a filter finds; what has drifted is counted first."""
    asked = {"model": model.strip(), "target": target.strip(), "drift": drift}
    wanted = Filter(
        target=asked["target"] or None,
        model=asked["model"] or None,
        drifts=(Drift(drift),) if drift in frozenset(Drift) else (),
        is_drifted=True if drift == ANY_DRIFT else None,
    )
    if any("\x00" in text for text in asked.values()):
        raise InvalidInput("model", "expected a text without NUL")
    found = await services.inventory.page(principal, wanted, after=read_name_cursor(cursor) or None, limit=A_PAGE)
    drifted = await services.inventory.page(principal, Filter(is_drifted=True), limit=A_PAGE)
    return shown(
        "deployments.html",
        principal,
        services,
        title="What runs where",
        here="deployments",
        asked=asked,
        found=[(each, drift_message(each)) for each in found],
        drifted=len(drifted),
        most_counted=A_PAGE,
        any_drift=ANY_DRIFT,
        next_cursor=write_name_cursor(found[-1].id) if len(found) == A_PAGE else None,
        query=urlencode({name: text for name, text in asked.items() if text}),
    )


@router.get("/{deployment_id}")
@needs(Permission.DEPLOYMENTS_READ, somewhere=True)
async def deployment(
    deployment_id: str, principal: CurrentPrincipal, services: ServicesOf, cursor: Place = ""
) -> Response:
    """One deployment: what it is to serve, what it serves, and what it was to serve before."""
    return await _shown(deployment_id, principal, services, cursor=cursor)


@router.post("/{deployment_id}/redeploy")
@needs(Permission.DEPLOYMENTS_ADMINISTER, somewhere=True)
async def redeploy(deployment_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Have the target be called again with the same."""
    try:
        await services.inventory.redeploy(
            principal, deployment_id, reason=reason_of(form), idempotency_key=form.get("key") or None
        )
    except (Conflict, InvalidInput) as error:
        return await _shown(deployment_id, principal, services, problem=error, typed=form)
    return lead_to("deployments", deployment_id)


@router.post("/{deployment_id}/remove")
@needs(Permission.DEPLOYMENTS_ADMINISTER, somewhere=True)
async def remove(deployment_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Have the target serve nothing of the model any more."""
    try:
        await services.inventory.remove(
            principal, deployment_id, reason=reason_of(form), idempotency_key=form.get("key") or None
        )
    except (Conflict, InvalidInput) as error:
        return await _shown(deployment_id, principal, services, problem=error, typed=form)
    return lead_to("deployments", deployment_id)


async def _shown(
    deployment_id: str,
    principal: Principal,
    services: Services,
    *,
    cursor: str = "",
    problem: CountersignError | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    found = await services.deployments.get(principal, deployment_id)
    before = read_number_cursor(cursor or None)
    history = await services.inventory.generations(principal, deployment_id, before=before, limit=A_PAGE)
    return shown(
        "deployment.html",
        principal,
        services,
        status=problem_of(problem).status if problem else 200,
        title=f"{found.resource} on {found.target}",
        here="deployments",
        deployment=found,
        desired=desired_in_words(found),
        serving=served_in_words(found.serving) if found.serving else "",
        drift_message=drift_message(found),
        history=history,
        next_cursor=write_number_cursor(history[-1].generation) if len(history) == A_PAGE else None,
        administers=await services.inventory.may_administer(principal, found),
        problem=problem.message if problem else "",
        typed=typed or {},
        key=new_id("key"),
    )
