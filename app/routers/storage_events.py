"""``/storage-events``: where an object store says that something changed."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import Field

from app.domain.access import Permission
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.schemas.shared import Answer
from app.routers.services import ServicesOf

router = APIRouter(prefix="/storage-events", tags=["resolution"], route_class=GuardedRoute)


class StorageEventsAnswer(Answer):
    """What follows from a message."""

    versions: int = Field(description="Promoted versions that are looked at now.")


@router.post("", status_code=202, response_model=StorageEventsAnswer)
@needs(Permission.MODELS_RESOLVE)
async def note_storage_events(
    principal: CurrentPrincipal,
    services: ServicesOf,
    message: Annotated[
        dict[str, Any], Body(description="As S3, MinIO or Ceph notify (`Records`), or EventBridge's event.")
    ],
) -> StorageEventsAnswer:
    """Have the versions looked at whose objects were written or deleted. What the message says is not believed."""
    return StorageEventsAnswer(versions=await services.storage_events.note(principal, message))
