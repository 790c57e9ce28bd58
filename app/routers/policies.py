"""``/policies``: what must be true before an alias moves, revision by revision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Response

from app.domain.access import Permission
from app.domain.errors import InvalidInput
from app.domain.grants import DEFAULT_WORKSPACE
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.policies import PolicyAnswer, PolicyBody, PolicyChoiceAnswer, PolicyWrittenAnswer
from app.routers.schemas.shared import Cursor, Limit, Page, read_number_cursor, write_number_cursor
from app.routers.services import ServicesOf

router = APIRouter(tags=["policies"], route_class=GuardedRoute)

Name = Annotated[str, Path(max_length=400)]
Asked = Annotated[str, Query(min_length=1, max_length=500)]
IfMatch = Annotated[str | None, Header(max_length=1000, description="The ETag that it must have now.")]
CHANGED: dict[int | str, dict[str, Any]] = {412: {"description": "It was changed meanwhile."}}


@router.get("/policies", response_model=list[PolicyAnswer])
@needs(Permission.POLICIES_READ, somewhere=True)
async def list_policies(principal: CurrentPrincipal, services: ServicesOf) -> list[PolicyAnswer]:
    """The policies in force, by name; not those of a single model that you may not read."""
    return [PolicyAnswer.of(revision) for revision in await services.policies.listed(principal)]


@router.get("/policies/for", response_model=PolicyChoiceAnswer)
@needs(Permission.POLICIES_READ, somewhere=True)
async def choose_policy(
    principal: CurrentPrincipal,
    services: ServicesOf,
    model: Asked,
    alias: Asked,
    workspace: Asked = DEFAULT_WORKSPACE,
    tag: Annotated[
        list[str] | None, Query(description="`key=value` of the model's own; none: not known, so that any could be.")
    ] = None,
) -> PolicyChoiceAnswer:
    """Which policy protects an alias, why it is that one, and which others match."""
    choice = await services.policies.chosen(principal, model, alias, workspace=workspace, tags=_tags(tag))
    return PolicyChoiceAnswer.model_validate(
        {"protected": choice.policy is not None, "policy": choice.policy, "why": choice.why, "others": choice.others}
    )


@router.get("/policies/{name}", response_model=PolicyAnswer)
@needs(Permission.POLICIES_READ, somewhere=True)
async def get_policy(name: Name, principal: CurrentPrincipal, services: ServicesOf, response: Response) -> PolicyAnswer:
    """The revision that is in force."""
    revision = await services.policies.get(principal, name)
    response.headers["ETag"] = revision.etag
    return PolicyAnswer.of(revision)


@router.get("/policies/{name}/revisions", response_model=Page[PolicyAnswer])
@needs(Permission.POLICIES_READ, somewhere=True)
async def list_policy_revisions(
    name: Name, principal: CurrentPrincipal, services: ServicesOf, limit: Limit = 50, cursor: Cursor = None
) -> Page[PolicyAnswer]:
    """Every revision there was, newest first. None is ever changed."""
    before = read_number_cursor(cursor)
    found = await services.policies.revisions(principal, name, before=before, limit=limit)
    return Page[PolicyAnswer](
        items=[PolicyAnswer.of(each) for each in found.items],
        next_cursor=None if found.last is None else write_number_cursor(found.last),
    )


@router.get("/policies/{name}/revisions/{revision}", response_model=PolicyAnswer)
@needs(Permission.POLICIES_READ, somewhere=True)
async def get_policy_revision(
    name: Name,
    revision: Annotated[int, Path(ge=1, le=2**31 - 1)],
    principal: CurrentPrincipal,
    services: ServicesOf,
) -> PolicyAnswer:
    """One revision: promotions name the one that they were made under."""
    return PolicyAnswer.of(await services.policies.revision(principal, name, revision))


@router.put(
    "/policies/{name}", response_model=PolicyWrittenAnswer, responses={201: {"model": PolicyWrittenAnswer}, **CHANGED}
)
@needs(Permission.POLICIES_ADMINISTER)
async def put_policy(
    name: Name,
    body: PolicyBody,
    principal: CurrentPrincipal,
    services: ServicesOf,
    response: Response,
    if_match: IfMatch = None,
    if_none_match: Annotated[str | None, Header(max_length=10, description="`*`: there must be none yet.")] = None,
    *,
    dry_run: Annotated[bool, Query(description="Say what would change, and change nothing.")] = False,
) -> PolicyWrittenAnswer:
    """Write the next revision of a policy, or its first (201). The same document again changes nothing.

    Refused with every wrong field and the reason, also if nobody could ever satisfy it.
    """
    if if_none_match not in {None, "*"}:
        raise InvalidInput("if-none-match", "expected `*`")
    written = await services.policies.put(
        principal, name, body, dry_run=dry_run, if_match=if_match, if_none_match=if_none_match is not None
    )
    response.status_code = 201 if written.is_new and not dry_run else 200
    if not dry_run:
        response.headers["ETag"] = written.revision.etag
    return PolicyWrittenAnswer.of_written(written, dry_run=dry_run)


@router.delete("/policies/{name}", status_code=204, responses=CHANGED)
@needs(Permission.POLICIES_ADMINISTER)
async def retire_policy(
    name: Name, principal: CurrentPrincipal, services: ServicesOf, if_match: IfMatch = None
) -> None:
    """End a policy with a last revision. What it protected is the next best policy's, or nobody's.

    Promotions that were made under it go on under the revision that they were made under.
    """
    await services.policies.retire(principal, name, if_match=if_match)


def _tags(given: list[str] | None) -> Mapping[str, str] | None:
    if given is None:
        return None
    if not all("=" in each for each in given):
        raise InvalidInput("tag", "expected `key=value`")
    return {key: value for key, _, value in (each.partition("=") for each in given)}
