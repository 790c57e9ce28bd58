"""``/resolve``: one physical address for a model version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from app.domain.access import Permission
from app.domain.grants import DEFAULT_WORKSPACE
from app.routers.access import CurrentPrincipal, GuardedRoute, authenticated_again, needs
from app.routers.schemas.shared import Answer, Wait
from app.routers.services import ServicesOf

router = APIRouter(tags=["resolution"], route_class=GuardedRoute)


class ResolutionAnswer(Answer):
    """Where the bytes are. `digest` and `promotion_id` are null when no promotion put the version where it is."""

    workspace: str
    model: str
    version: str
    alias: str | None
    uri: str
    source_uri: str
    run_id: str | None
    digest: str | None
    promotion_id: str | None


@router.get("/resolve", response_model=ResolutionAnswer, responses={304: {"description": "Nothing changed."}})
@needs(Permission.MODELS_RESOLVE, somewhere=True)
async def resolve(
    uri: Annotated[str, Query(max_length=1000, examples=["models:/iris@production"])],
    request: Request,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    workspace: Annotated[str, Query(max_length=63, description="MLflow's: `models:/` URIs name none.")] = (
        DEFAULT_WORKSPACE
    ),
    wait: Wait = 0,
    if_none_match: Annotated[str | None, Header(description="The ETag seen last.")] = None,
) -> ResolutionAnswer | Response:
    """The physical URI behind `models:/<name>@<alias>` or `models:/<name>/<version>`.

    With `If-None-Match`, answers 304 when nothing changed; with `wait` too, only after that many seconds.
    """
    seen = if_none_match.strip().removeprefix("W/").strip('"') if if_none_match else None
    resolution = await services.resolver.wait(principal, uri, workspace=workspace, seen=seen, timeout_s=wait)
    if wait:
        principal = await authenticated_again(request, services)
        await services.resolver.check_may_resolve(principal, uri, workspace=workspace)
    headers = {"ETag": f'"{resolution.etag}"', "Cache-Control": "private, no-cache"}
    if resolution.etag == seen:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return ResolutionAnswer.model_validate(resolution)
