"""``…/checks``: verdicts that CI posts on promotions and versions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from app.domain.access import Permission
from app.domain.checks import LONGEST_LIFE, LONGEST_LINK, LONGEST_MESSAGE, PostedCheck, Posting, Verdict
from app.domain.grants import DEFAULT_WORKSPACE
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.promotions import PersonAnswer
from app.routers.schemas.shared import (
    Answer,
    Cursor,
    Limit,
    Moment,
    Page,
    Request,
    read_number_cursor,
    write_number_cursor,
)
from app.routers.services import ServicesOf
from app.services.checks import Listed

router = APIRouter(tags=["checks"], route_class=GuardedRoute)

Workspace = Annotated[str, Query(max_length=256, description="MLflow's.")]
All = Annotated[bool, Query(alias="all", description="Earlier verdicts too, not the newest of each name alone.")]


class PostCheck(Request):
    """A verdict."""

    outcome: Verdict = Field(description="`running` is waited for; post again when it is over.")
    message: str = Field(default="", max_length=LONGEST_MESSAGE, description="What was found; approvers read it.")
    link: str | None = Field(
        default=None,
        max_length=LONGEST_LINK,
        description="A page that says more, https://…",
        examples=["https://ci.example/runs/1"],
    )
    digest: str | None = Field(
        default=None,
        max_length=71,
        description="Of the artifacts that were checked. Without it: of those that lie there now, if they are small.",
    )
    expires_in: int | None = Field(
        default=None, ge=1, le=int(LONGEST_LIFE.total_seconds()), description="Seconds for which it counts."
    )
    expires_at: Moment | None = Field(default=None, description="Or the time, with its zone, when it ends.")

    def posting(self, name: str) -> Posting:
        return Posting(
            name=name,
            outcome=self.outcome,
            message=self.message,
            link=self.link,
            digest=self.digest,
            expires_in_s=self.expires_in,
            expires_at=self.expires_at,
        )


class CheckAnswer(Answer):
    """A verdict that was posted, on one version and its bytes. Whose counts is the policy's say."""

    id: str
    name: str
    outcome: Verdict
    message: str
    link: str | None
    workspace: str
    model: str
    version: str
    digest: str | None = Field(description="Of the artifacts that it is about: it says nothing of others.")
    promotion_id: str | None = Field(description="By which the version was named, if it was.")
    posted_by: PersonAnswer
    posted_at: datetime
    expires_at: datetime | None = Field(description="It is not counted any more then; the policy may end it sooner.")


@router.post("/promotions/{promotion_id}/checks/{name}", status_code=201, response_model=CheckAnswer)
@needs(Permission.CHECKS_POST, somewhere=True)
async def post_check_on_promotion(
    promotion_id: str, name: str, body: PostCheck, principal: CurrentPrincipal, services: ServicesOf
) -> CheckAnswer:
    """Post a verdict on what a promotion promotes. It counts for every promotion of the same bytes."""
    return _answer(await services.checks.post_on_promotion(principal, promotion_id, body.posting(name)))


@router.get("/promotions/{promotion_id}/checks", response_model=Page[CheckAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_checks_of_promotion(
    promotion_id: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    *,
    history: All = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[CheckAnswer]:
    """The verdicts on the version that is promoted, newest first."""
    listed = Listed(history, read_number_cursor(cursor), limit)
    return _page(await services.checks.of_promotion(principal, promotion_id, listed), limit)


@router.post("/models/{model}/versions/{version}/checks/{name}", status_code=201, response_model=CheckAnswer)
@needs(Permission.CHECKS_POST, somewhere=True)
async def post_check_on_version(
    model: str,
    version: str,
    name: str,
    body: PostCheck,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
) -> CheckAnswer:
    """Post a verdict on a version, before or after somebody asks for a promotion of it."""
    posted = await services.checks.post_on_version(principal, model, version, body.posting(name), workspace=workspace)
    return _answer(posted)


@router.get("/models/{model}/versions/{version}/checks", response_model=Page[CheckAnswer])
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def list_checks_of_version(
    model: str,
    version: str,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
    *,
    history: All = False,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[CheckAnswer]:
    """The verdicts on a version, newest first."""
    listed = Listed(history, read_number_cursor(cursor), limit)
    found = await services.checks.of_version(principal, model, version, listed, workspace=workspace)
    return _page(found, limit)


def _page(found: Sequence[PostedCheck], limit: int) -> Page[CheckAnswer]:
    more = len(found) == limit
    return Page[CheckAnswer](
        items=[_answer(posted) for posted in found],
        next_cursor=write_number_cursor(found[-1].sequence) if more else None,
    )


def _answer(posted: PostedCheck) -> CheckAnswer:
    return CheckAnswer(
        id=posted.id,
        name=posted.name,
        outcome=Verdict(posted.outcome),
        message=posted.message,
        link=posted.link,
        workspace=posted.workspace,
        model=posted.model,
        version=posted.version,
        digest=posted.digest,
        promotion_id=posted.promotion_id,
        posted_by=PersonAnswer(id=posted.posted_by, name=posted.posted_by_name),
        posted_at=posted.posted_at,
        expires_at=posted.expires_at,
    )
