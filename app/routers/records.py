"""``/audit``: what happened."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from app.domain.access import Permission
from app.routers.access import GuardedRoute, needs
from app.routers.schemas.shared import LARGEST_NUMBER, Answer, Limit
from app.routers.services import ServicesOf

router = APIRouter(route_class=GuardedRoute)


class AuditEntryAnswer(Answer):
    """One entry with the hashes that chain it."""

    entry: Mapping[str, object]
    previous_hash: str
    hash: str


class AuditPage(Answer):
    items: Sequence[AuditEntryAnswer]
    next_after: int | None


class VerificationAnswer(Answer):
    """Whether the chain is intact.

    Keep `last_hash` elsewhere: it shows later whether entries were removed from the end.
    """

    intact: bool
    entries: int
    last_hash: str
    problem: str | None


@router.get("/audit", response_model=AuditPage, tags=["audit"])
@needs(Permission.AUDIT_READ)
async def list_audit_entries(
    services: ServicesOf,
    after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="The sequence of the last entry seen.")] = 0,
    limit: Limit = 100,
    object_id: Annotated[str | None, Query(alias="object", description="Only entries about this.")] = None,
    *,
    newest_first: bool = False,
) -> AuditPage:
    """Entries in their order, or newest first."""
    found = await services.audit.page(after=after, limit=limit, newest_first=newest_first, object_id=object_id)
    items = [AuditEntryAnswer(entry=item.document, previous_hash=item.previous_hash, hash=item.hash) for item in found]
    last = found[-1].document["sequence"] if len(found) == limit else None
    return AuditPage(items=items, next_after=last if isinstance(last, int) else None)


@router.get("/audit/export", tags=["audit"], response_class=StreamingResponse)
@needs(Permission.AUDIT_READ)
async def export_audit(services: ServicesOf) -> StreamingResponse:
    """The whole log, a JSON object a line, for `countersign audit verify --file`."""

    async def lines() -> AsyncIterator[str]:
        async for page in services.audit.everything():
            for item in page:
                row = {"entry": item.document, "previous_hash": item.previous_hash, "hash": item.hash}
                yield json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"

    return StreamingResponse(
        lines(),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": 'attachment; filename="countersign-audit.ndjson"'},
    )


@router.get("/audit/verify", response_model=VerificationAnswer, tags=["audit"])
@needs(Permission.AUDIT_READ)
async def verify_audit(services: ServicesOf) -> VerificationAnswer:
    """Walk the whole chain."""
    result = await services.audit.verify()
    return VerificationAnswer(
        intact=result.is_intact, entries=result.entries, last_hash=result.last_hash, problem=result.problem
    )
