"""``/deployments``: what runs where, and what deployers report."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import ValidationError

from app.domain.access import Permission
from app.domain.deployments import Drift, Filter
from app.domain.errors import InvalidInput, NotAuthenticated
from app.domain.phases import Phase
from app.routers.access import CurrentPrincipal, GuardedRoute, needs, public
from app.routers.schemas.deployments import (
    DeploymentAnswer,
    DesiredAnswer,
    GenerationAnswer,
    Redeploy,
    Remove,
    StatusEvent,
    Taken,
)
from app.routers.schemas.shared import (
    Cursor,
    IdempotencyKey,
    Limit,
    Page,
    read_name_cursor,
    read_number_cursor,
    write_name_cursor,
    write_number_cursor,
)
from app.routers.services import ServicesOf
from app.services.inventory import DesiredPage
from app.services.statuses import invalid

router = APIRouter(route_class=GuardedRoute)

Id = Annotated[str, Path(max_length=200)]


def _wanted(
    target: Annotated[str | None, Query(max_length=200)] = None,
    model: Annotated[str | None, Query(max_length=500)] = None,
    workspace: Annotated[str | None, Query(max_length=63)] = None,
    version: Annotated[str | None, Query(max_length=100, description="That is desired.")] = None,
    promotion: Annotated[str | None, Query(max_length=100, description="By which that is.")] = None,
    phase: Phase | None = None,
    drift: Annotated[list[Drift] | None, Query(description="Repeat for several.")] = None,
    *,
    drifted: Annotated[bool | None, Query(description="Only those that have drifted, or that have not.")] = None,
) -> Filter:
    for name, text in (("target", target), ("model", model), ("workspace", workspace), ("version", version)):
        _check_writable(text or "", name)
    _check_writable(promotion or "", "promotion")
    return Filter(
        target=target,
        model=model,
        workspace=workspace,
        version=version,
        promotion=promotion,
        phase=phase,
        drifts=tuple(drift or ()),
        is_drifted=drifted,
    )


@router.get("/deployments", response_model=Page[DeploymentAnswer], tags=["deployments"])
@needs(Permission.DEPLOYMENTS_READ, somewhere=True)
async def list_deployments(
    principal: CurrentPrincipal,
    services: ServicesOf,
    wanted: Annotated[Filter, Depends(_wanted)],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DeploymentAnswer]:
    """What runs where: desired and observed, by target and model, of the models that you may read."""
    found = await services.inventory.page(principal, wanted, after=read_name_cursor(cursor) or None, limit=limit)
    return Page[DeploymentAnswer](
        items=[DeploymentAnswer.of(deployment) for deployment in found],
        next_cursor=write_name_cursor(found[-1].id) if len(found) == limit else None,
    )


@router.get("/deployments/{deployment_id}", response_model=DeploymentAnswer, tags=["deployments"])
@needs(Permission.DEPLOYMENTS_READ, somewhere=True)
async def get_deployment(deployment_id: Id, principal: CurrentPrincipal, services: ServicesOf) -> DeploymentAnswer:
    """One deployment: what the target is to serve, what it serves since when, how that goes, and drift."""
    return DeploymentAnswer.of(await services.deployments.get(principal, deployment_id))


@router.get("/deployments/{deployment_id}/generations", response_model=Page[GenerationAnswer], tags=["deployments"])
@needs(Permission.DEPLOYMENTS_READ, somewhere=True)
async def list_generations(
    deployment_id: Id, principal: CurrentPrincipal, services: ServicesOf, limit: Limit = 50, cursor: Cursor = None
) -> Page[GenerationAnswer]:
    """What a target was to serve of a model, newest first, and what came of it."""
    before = read_number_cursor(cursor)
    found = await services.inventory.generations(principal, deployment_id, before=before, limit=limit)
    return Page[GenerationAnswer](
        items=[GenerationAnswer.model_validate(each) for each in found],
        next_cursor=write_number_cursor(found[-1].generation) if len(found) == limit else None,
    )


@router.post("/deployments/{deployment_id}/redeploy", response_model=DeploymentAnswer, tags=["deployments"])
@needs(Permission.DEPLOYMENTS_ADMINISTER, somewhere=True)
async def redeploy(
    deployment_id: Id,
    principal: CurrentPrincipal,
    services: ServicesOf,
    body: Redeploy | None = None,
    idempotency_key: IdempotencyKey = None,
) -> DeploymentAnswer:
    """Have the target be called again with the same, as a new generation; what was taken away comes back.

    Only for a version that is still approved for the target. With the target's present options.
    """
    reason = body.reason if body else ""
    after = await services.inventory.redeploy(principal, deployment_id, reason=reason, idempotency_key=idempotency_key)
    return DeploymentAnswer.of(after)


@router.post("/deployments/{deployment_id}/remove", response_model=DeploymentAnswer, tags=["deployments"])
@needs(Permission.DEPLOYMENTS_ADMINISTER, somewhere=True)
async def remove(
    deployment_id: Id,
    body: Remove,
    principal: CurrentPrincipal,
    services: ServicesOf,
    idempotency_key: IdempotencyKey = None,
) -> DeploymentAnswer:
    """Have the target serve nothing of the model any more. The alias stays; the next promotion deploys again."""
    after = await services.inventory.remove(
        principal, deployment_id, reason=body.reason, idempotency_key=idempotency_key
    )
    return DeploymentAnswer.of(after)


@router.get("/targets/{target}/desired", response_model=DesiredAnswer, tags=["deployments"])
@public("deployers sign the question itself (Standard Webhooks) with the secret of their target, or send a token")
async def desired(
    target: Annotated[str, Path(max_length=200)],
    request: Request,
    services: ServicesOf,
    after: Annotated[str, Query(max_length=200, description="`next_after` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="How many deployments at most.")] = 500,
) -> Response:
    """What a target is to serve, for its deployer: the `data` of each model's present call, exactly as it was made.

    Signed with the target's callback secret over `GET <path>`, the path as it is on the wire, without the query; the
    answer is signed with the target's secret, and has the question's `webhook-id`. Or asked with an access token of who
    has the role deployer, who is told of the models that they deploy.
    """
    _check_writable(after, "after")
    if not _is_signed(request):
        principal = await services.authentication.authenticate(request.scope)
        request.state.principal = principal
        services.inventory.check_may_deploy(principal)
        page = await services.inventory.desired(target, after=after, limit=limit, by=principal)
        return Response(_written(page), media_type="application/json")
    try:
        await services.callbacks.verify_question(target, request.headers, request.scope["raw_path"].decode("latin-1"))
    except NotAuthenticated as error:
        await services.authentication.refused(error, request.scope)
        raise
    body = _written(await services.inventory.desired(target, after=after, limit=limit))
    headers = await services.callbacks.sign_answer(target, request.headers["webhook-id"], body)
    return Response(body, headers=dict(headers), media_type="application/json")


@router.post("/deployments/{deployment_id}/status", response_model=Taken, tags=["deployments"])
@public("deployers sign the call itself (Standard Webhooks) with the secret of their target, or send a token")
async def report_status(deployment_id: str, request: Request, services: ServicesOf) -> Taken:
    """A deployer's report: a CloudEvent `countersign.deployment.status.v1`.

    Signed with its target's secret (Standard Webhooks), or sent with an access token of who has the role deployer on
    the model.
    """
    is_signed = _is_signed(request)
    principal = None
    if not is_signed:
        # Before the body is read: nobody who may not report makes us read one.
        principal = await services.authentication.authenticate(request.scope)
        request.state.principal = principal
        await services.deployments.check_may_report(principal, deployment_id)
    body = await request.body()
    if is_signed:
        try:
            await services.callbacks.verify(deployment_id, request.headers, body)
        except NotAuthenticated as error:
            await services.authentication.refused(error, request.scope)
            raise
    try:
        event = StatusEvent.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
    if is_signed and event.id != request.headers.get("webhook-id"):
        raise InvalidInput("id", "expected the same as the webhook-id header")
    if event.data.deployment_id != deployment_id:
        raise InvalidInput("data.deployment_id", "expected the deployment that the address names")
    before, after = await services.deployments.report(deployment_id, event.data.report(), by=principal)
    return Taken(result="taken" if before != after else "ignored", phase=after.phase)


def _is_signed(request: Request) -> bool:
    return "webhook-signature" in request.headers or "authorization" not in request.headers


def _written(page: DesiredPage) -> str:
    return DesiredAnswer.model_validate(page).model_dump_json()


def _check_writable(text: str, field: str) -> None:
    """Raise ``InvalidInput`` for what no row can hold."""
    if "\x00" in text:
        raise InvalidInput(field, "expected a text without NUL")
