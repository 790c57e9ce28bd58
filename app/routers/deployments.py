"""``/deployments``: what runs where, and what deployers report."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import ValidationError

from app.domain.access import Permission
from app.domain.errors import InvalidInput, NotAuthenticated
from app.routers.access import CurrentPrincipal, GuardedRoute, needs, public
from app.routers.schemas.deployments import DeploymentAnswer, StatusEvent, Taken
from app.routers.schemas.shared import Page
from app.routers.services import ServicesOf

router = APIRouter(route_class=GuardedRoute)


@router.get("/deployments", response_model=Page[DeploymentAnswer], tags=["deployments"])
@needs(Permission.DEPLOYMENTS_READ, somewhere=True)
async def list_deployments(
    principal: CurrentPrincipal,
    services: ServicesOf,
    model: str | None = None,
    target: str | None = None,
    workspace: str | None = None,
) -> Page[DeploymentAnswer]:
    """What is desired and observed on each target, by target and model, of the models that you may read."""
    found = await services.deployments.find(principal, model=model, target=target, workspace=workspace)
    return Page[DeploymentAnswer](
        items=[DeploymentAnswer.model_validate(deployment) for deployment in found], next_cursor=None
    )


@router.get("/deployments/{deployment_id}", response_model=DeploymentAnswer, tags=["deployments"])
@needs(Permission.DEPLOYMENTS_READ, somewhere=True)
async def get_deployment(deployment_id: str, principal: CurrentPrincipal, services: ServicesOf) -> DeploymentAnswer:
    """One deployment."""
    return DeploymentAnswer.model_validate(await services.deployments.get(principal, deployment_id))


@router.post("/deployments/{deployment_id}/status", response_model=Taken, tags=["deployments"])
@public("deployers sign the call itself (Standard Webhooks) with the secret of their target, or send a token")
async def report_status(deployment_id: str, request: Request, services: ServicesOf) -> Taken:
    """A deployer's report: a CloudEvent `countersign.deployment.status.v1`.

    Signed with its target's secret (Standard Webhooks), or sent with an access token of who has the role deployer on
    the model.
    """
    is_signed = "webhook-signature" in request.headers or "authorization" not in request.headers
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
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInput(".".join(str(part) for part in first["loc"]) or "body", first["msg"]) from None
    if is_signed and event.id != request.headers.get("webhook-id"):
        raise InvalidInput("id", "expected the same as the webhook-id header")
    if event.data.deployment_id != deployment_id:
        raise InvalidInput("data.deployment_id", "expected the deployment that the address names")
    before, after = await services.deployments.report(deployment_id, event.data.report(), by=principal)
    return Taken(result="taken" if before != after else "ignored", phase=after.phase)
