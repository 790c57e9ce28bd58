"""``/deliveries``: what was sent to whom, how that went, and having it sent again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from app.domain.access import Permission
from app.domain.deliveries import DeliveryState, Filter, Receiver
from app.domain.errors import InvalidInput
from app.domain.grants import DEFAULT_WORKSPACE
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.deliveries import DeliveryAnswer, DeliveryDetail
from app.routers.schemas.shared import Cursor, IdempotencyKey, Limit, Moment, Page, Workspace, read_cursor, write_cursor
from app.routers.services import ServicesOf

router = APIRouter(prefix="/deliveries", tags=["deliveries"], route_class=GuardedRoute)

NO_NUL = r"^[^\x00]*$"
"""The database takes none."""


@router.get("", response_model=Page[DeliveryAnswer])
@needs(Permission.DELIVERIES_READ)
async def list_deliveries(
    services: ServicesOf,
    receiver: Annotated[
        str | None, Query(max_length=300, pattern=NO_NUL, description="`endpoint:<name>` or `target:<name>`.")
    ] = None,
    states: Annotated[list[DeliveryState] | None, Query(alias="state", description="Repeat for several.")] = None,
    event_type: Annotated[
        str | None, Query(alias="type", max_length=200, pattern=NO_NUL, description="As `promotion.applied`.")
    ] = None,
    model: Annotated[str | None, Query(max_length=500, pattern=NO_NUL)] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    message_id: Annotated[str | None, Query(max_length=200, pattern=NO_NUL, description="The `webhook-id`.")] = None,
    since: Annotated[Moment | None, Query(description="Those that were made from then on.")] = None,
    until: Annotated[Moment | None, Query(description="Those that were made before.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DeliveryAnswer]:
    """Newest first."""
    sought = Filter(
        receiver=_receiver(receiver),
        states=tuple(states or ()),
        event_type=event_type,
        model=model,
        workspace=workspace,
        message_id=message_id,
        since=since,
        until=until,
    )
    found = await services.deliveries.page(sought, before=read_cursor(cursor), limit=limit)
    last = found[-1] if len(found) == limit else None
    return Page[DeliveryAnswer](
        items=[DeliveryAnswer.model_validate(delivery) for delivery in found],
        next_cursor=write_cursor(last.created_at, last.id) if last else None,
    )


@router.get("/{delivery_id}", response_model=DeliveryDetail)
@needs(Permission.DELIVERIES_READ)
async def get_delivery(delivery_id: str, services: ServicesOf) -> DeliveryDetail:
    """One delivery with its message and every attempt: what was sent, and what was answered."""
    return DeliveryDetail.of_log(*await services.deliveries.get(delivery_id))


@router.post("/{delivery_id}/redeliver", status_code=201, response_model=DeliveryAnswer)
@needs(Permission.ENDPOINTS_ADMINISTER)
async def redeliver(
    delivery_id: str, principal: CurrentPrincipal, services: ServicesOf, idempotency_key: IdempotencyKey = None
) -> DeliveryAnswer:
    """Send the same message again, with the same `webhook-id`; receivers can tell that it is a repetition."""
    return DeliveryAnswer.model_validate(
        await services.deliveries.redeliver(principal, delivery_id, idempotency_key=idempotency_key)
    )


@router.post("/{delivery_id}/skip", response_model=DeliveryAnswer)
@needs(Permission.ENDPOINTS_ADMINISTER)
async def skip_delivery(delivery_id: str, principal: CurrentPrincipal, services: ServicesOf) -> DeliveryAnswer:
    """Give a message to an endpoint up, so that those of the same model behind it go on."""
    return DeliveryAnswer.model_validate(await services.deliveries.skip(principal, delivery_id))


def _receiver(text: str | None) -> Receiver | None:
    if text is None:
        return None
    try:
        return Receiver.parse(text)
    except ValueError:
        raise InvalidInput("receiver", "expected endpoint:<name> or target:<name>") from None
