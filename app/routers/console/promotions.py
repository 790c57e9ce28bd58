"""``/console`` and ``/console/promotions``: what waits, what one promotion changes, and the word of who decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Response
from fastapi.responses import RedirectResponse

from app.domain.access import Permission, Principal, holds_somewhere, may
from app.domain.assessing import is_blocked
from app.domain.errors import Conflict, InvalidInput, NotFound
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.policies import ReasonFor
from app.domain.promotions import UNSETTLED, Filter, Kind, Outcome, Promotion, State
from app.domain.rolling_out import Order
from app.domain.verdicts import Verdict
from app.routers.access import CurrentPrincipal, needs
from app.routers.console.comparing import comparison
from app.routers.console.frame import lead_to, reason_of, revision_of, shown, text_of
from app.routers.console.wording import steps
from app.routers.page_route import PageForm, PageRoute
from app.routers.schemas.rollouts import rollout_answer
from app.routers.schemas.shared import read_cursor, write_cursor
from app.routers.services import Services, ServicesOf
from app.services.identifiers import new_id
from app.services.promotions import facts_seen, may_withdraw
from app.services.reviews import Review

router = APIRouter(prefix="/console", route_class=PageRoute)

A_PAGE = 50
MOST_WAITING, MOST_LOOKED_AT = 20, 100
"""On the first page: those that wait for the reader, and how many are asked about to find them."""
MOST_OWN = 10
MOST_ENTRIES = 200
MOST_COMMENTS = 200
IN_FLIGHT = "open"
"""Of the filter, beside the states: everything that is not settled."""
_OUTCOMES = {"approve": Outcome.APPROVE, "reject": Outcome.REJECT}

Text = Annotated[str, Query(max_length=4000)]


@dataclass(frozen=True, slots=True)
class _Listed:
    """Some promotions, and the cursor behind the last one if there may be more."""

    items: Sequence[Promotion]
    next_cursor: str | None = None


@router.get("")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def console(
    principal: CurrentPrincipal,
    services: ServicesOf,
    model: Text = "",
    alias: Text = "",
    state: Text = "",
    of: Text = "",
    cursor: Text = "",
) -> Response:
    """What waits for the reader, what is theirs, and everything in flight; or what a filter finds."""
    model, alias = model.strip(), alias.strip()
    wanted = Filter(
        model=model or None,
        alias=alias or None,
        states=_states(state),
        requested_by=principal.id if of == "me" else None,
        awaiting=principal.id if of == "awaiting" else None,
    )
    asked = {"model": model, "alias": alias, "state": state, "of": of}
    if any(asked.values()) or cursor:
        found = await _page(principal, services, wanted, cursor=cursor)
        return shown("found.html", principal, services, title="Promotions", here="promotions", found=found, asked=asked)
    is_open = Filter(states=tuple(UNSETTLED))
    own = Filter(states=tuple(UNSETTLED), requested_by=principal.id)
    return shown(
        "promotions.html",
        principal,
        services,
        title="Promotions",
        here="promotions",
        asked=asked | {"state": IN_FLIGHT},
        decides=await _decides(principal, services),
        waiting=await _waiting(principal, services),
        own=await _page(principal, services, own, limit=MOST_OWN),
        found=await _page(principal, services, is_open),
    )


@router.get("/promotions")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def promotions() -> Response:
    """There is one list, on the first page."""
    return RedirectResponse("/console", 303)


@router.get("/promotions/{promotion_id}")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def promotion_page(promotion_id: str, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """One promotion: what stands between it and the alias, what it changes, and the reader's part."""
    return await _shown(promotion_id, principal, services)


@router.post("/promotions/{promotion_id}/decide")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def decide(promotion_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """The reader's word, on what the page showed them."""
    outcome = _OUTCOMES.get(form.get("decision", ""))
    if outcome is None:
        raise InvalidInput("decision", f"expected {' or '.join(_OUTCOMES)}")
    try:
        await services.promotions.decide(
            principal,
            promotion_id,
            outcome,
            reason=reason_of(form),
            on_behalf_of=form.get("on_behalf_of", "").strip() or None,
            seen_revision=revision_of(form),
            seen_facts=form.get("facts", ""),
        )
    except InvalidInput as error:
        return await _shown(promotion_id, principal, services, problem=error, typed=form)
    except Conflict as error:
        return _changed(promotion_id, error, form, principal, services)
    return lead_to("promotions", promotion_id)


@router.post("/promotions/{promotion_id}/withdraw")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def withdraw(promotion_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Take back what one asked for."""
    try:
        await services.promotions.withdraw(
            principal, promotion_id, reason=reason_of(form), seen_revision=revision_of(form)
        )
    except InvalidInput as error:
        return await _shown(promotion_id, principal, services, problem=error, typed=form)
    except Conflict as error:
        return _changed(promotion_id, error, form, principal, services)
    return lead_to("promotions", promotion_id)


@router.post("/promotions/{promotion_id}/comment")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def comment(promotion_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf) -> Response:
    """Say something beside a decision."""
    try:
        # The page made the key: pressing the button twice says it once.
        key = form.get("key") or None
        await services.comments.add(principal, promotion_id, text_of(form, "text"), idempotency_key=key)
    except InvalidInput as error:
        return await _shown(promotion_id, principal, services, problem=error, typed=form)
    return lead_to("promotions", promotion_id, at="comments")


@router.post("/promotions/{promotion_id}/rollout")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def order_rollout(
    promotion_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf
) -> Response:
    """What the reader would have a rollout do, as the page showed it."""
    order = next((each for each in Order if each.value == form.get("order")), None)
    if order is None:
        raise InvalidInput("order", f"expected {' or '.join(Order)}")
    try:
        await services.rollouts.order(
            principal, promotion_id, order, reason=reason_of(form), seen_revision=revision_of(form)
        )
    except InvalidInput as error:
        return await _shown(promotion_id, principal, services, problem=error, typed=form)
    except Conflict as error:
        return _changed(promotion_id, error, form, principal, services)
    return lead_to("promotions", promotion_id, at="rollout")


@router.post("/promotions/{promotion_id}/review")
@needs(Permission.PROMOTIONS_READ, somewhere=True)
async def close_review(
    promotion_id: str, form: PageForm, principal: CurrentPrincipal, services: ServicesOf
) -> Response:
    """Say what one found, looking at an emergency afterwards."""
    try:
        await services.reviews.close(principal, promotion_id, comment=text_of(form, "text"))
    except InvalidInput as error:
        return await _shown(promotion_id, principal, services, problem=error, typed=form)
    except Conflict as error:
        return _changed(promotion_id, error, form, principal, services)
    return lead_to("promotions", promotion_id, at="review")


async def _shown(
    promotion_id: str,
    principal: Principal,
    services: Services,
    *,
    problem: InvalidInput | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    promotion = await services.promotions.get(principal, promotion_id)
    statuses, reading = await services.promotions.standing(promotion)
    taken = await services.promotions.evidence(principal, promotion_id)
    by_outcome = {
        outcome: (await services.promotions.may_decide(principal, [promotion], outcome))[0] for outcome in Outcome
    }
    return shown(
        "promotion.html",
        principal,
        services,
        status=400 if problem else 200,
        title=f"{promotion.model} {promotion.to_version} → {promotion.alias}",
        here="promotions",
        promotion=promotion,
        steps=steps(promotion),
        statuses=statuses,
        reading=reading,
        taken=taken,
        facts=facts_seen(taken),
        compared=comparison(taken.facts) if taken else None,
        people=_people(promotion),
        part=_part(principal, promotion, by_outcome),
        review=await _review(principal, services, promotion),
        comments=await services.comments.latest(principal, promotion_id, limit=MOST_COMMENTS),
        may_comment=await services.comments.may_add(principal, promotion_id),
        comment_key=new_id("key"),
        verification=await services.aliases.verification(promotion),
        deployments=await services.deployments.of_promotion(principal, promotion_id),
        rollout=(followed := await services.rollouts.find(principal, promotion)) and rollout_answer(followed),
        orders=await services.rollouts.may_order(principal, followed) if followed else {},
        entries=await _entries(principal, services, promotion_id),
        in_mlflow=promotion.workspace == DEFAULT_WORKSPACE,
        workspace_query="" if promotion.workspace == DEFAULT_WORKSPACE else f"?workspace={quote(promotion.workspace)}",
        is_blocked=is_blocked(statuses),
        stands_in=await _stands_in(principal, services),
        problem="; ".join(said for _, said in problem.problems) if problem else "",
        typed=typed or {},
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """What the reader has said and may do, and why not. ``*_needs_reason``: the policy asks for one."""

    said: str
    may_approve: bool
    may_reject: bool
    may_withdraw: bool
    why_not: str
    approval_needs_reason: bool
    rejection_needs_reason: bool
    withdrawal_needs_reason: bool


def _part(principal: Principal, promotion: Promotion, by_outcome: Mapping[Outcome, Verdict]) -> _Part:
    approve, reject = by_outcome[Outcome.APPROVE], by_outcome[Outcome.REJECT]
    reasons = promotion.policy.reasons
    own = next((each for each in promotion.standing_decisions if each.principal_id == principal.id), None)
    return _Part(
        said="" if own is None else f"You {'approved' if own.outcome is Outcome.APPROVE else 'rejected'} it.",
        may_approve=bool(approve),
        may_reject=bool(reject),
        may_withdraw=may_withdraw(principal, promotion),
        why_not=getattr(approve, "reason", ""),
        approval_needs_reason=ReasonFor.APPROVE in reasons,
        rejection_needs_reason=ReasonFor.REJECT in reasons,
        withdrawal_needs_reason=ReasonFor.WITHDRAW in reasons,
    )


async def _review(principal: Principal, services: Services, promotion: Promotion) -> tuple[Review, Verdict] | None:
    """The review of an emergency, and whether the reader may close it."""
    if promotion.kind is not Kind.BREAK_GLASS:
        return None
    try:
        review = await services.reviews.get(principal, promotion.id)
    except NotFound:  # it has not moved the alias yet
        return None
    return review, await services.reviews.may_close(principal, promotion.id)


def _people(promotion: Promotion) -> Mapping[str, str]:
    """The names of those who are known on this page by their ids."""
    named = {promotion.requested_by: promotion.requested_by_name}
    for decision in promotion.decisions:
        named[decision.principal_id] = decision.principal_name
        if decision.on_behalf_of:
            named[decision.on_behalf_of[0]] = decision.on_behalf_of[1]
    return named


async def _entries(principal: Principal, services: Services, promotion_id: str) -> Sequence[Mapping[str, Any]] | None:
    """What the log says of it, in order, the last if it is much; none if the reader may not read the log."""
    if not may(principal, Permission.AUDIT_READ):
        return None
    found = await services.audit.page(after=0, limit=MOST_ENTRIES, newest_first=True, object_id=promotion_id)
    return [item.document for item in reversed(found)]


def _changed(
    promotion_id: str, error: Conflict, form: Mapping[str, str], principal: Principal, services: Services
) -> Response:
    """What was looked at is not what is there: nothing was done, and what was written is not lost."""
    return shown(
        "changed.html",
        principal,
        services,
        status=409,
        title="It changed meanwhile",
        here="promotions",
        promotion_id=promotion_id,
        detail=error.message,
        typed=form.get("reason", "") or form.get("text", ""),
    )


async def _page(
    principal: Principal, services: Services, wanted: Filter, *, cursor: str = "", limit: int = A_PAGE
) -> _Listed:
    found = await services.promotions.page(principal, wanted, before=read_cursor(cursor or None), limit=limit)
    last = found[-1] if len(found) == limit else None
    return _Listed(found, write_cursor(last.created_at, last.id) if last else None)


async def _decides(principal: Principal, services: Services) -> bool:
    """Whether there is anything that the reader may decide on, for themselves or for somebody who is away."""
    if holds_somewhere(principal, Permission.PROMOTIONS_DECIDE):
        return True
    return await _stands_in(principal, services)


async def _stands_in(principal: Principal, services: Services) -> bool:
    """Whether somebody who is away has let the reader decide for them."""
    return any(each.to_id == principal.id for each in await services.delegations.page(principal, active=True))


async def _waiting(principal: Principal, services: Services) -> _Listed:
    """Those on which the reader's word would count now, newest first."""
    if not await _decides(principal, services):
        return _Listed(())
    wanted = Filter(awaiting=principal.id)
    found: list[Promotion] = []
    cursor: str | None = None
    for _ in range(MOST_LOOKED_AT // A_PAGE):
        listed = await _page(principal, services, wanted, cursor=cursor or "")
        verdicts = await services.promotions.may_decide(principal, listed.items, Outcome.APPROVE)
        found += [each for each, verdict in zip(listed.items, verdicts, strict=True) if verdict]
        cursor = listed.next_cursor
        if cursor is None or len(found) >= MOST_WAITING:
            break
    return _Listed(found[:MOST_WAITING], cursor if len(found) <= MOST_WAITING else "more")


def _states(asked: str) -> tuple[State, ...] | None:
    if not asked:
        return None
    if asked == IN_FLIGHT:
        return tuple(UNSETTLED)
    if asked not in set(State):
        raise InvalidInput("state", f"expected {IN_FLIGHT} or one of {', '.join(State)}")
    return (State(asked),)
