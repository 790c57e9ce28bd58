"""Health, metrics and OAuth metadata, outside ``/control/v1``."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.domain.access import Permission
from app.routers.access import GuardedRoute, needs, public
from app.routers.services import ServicesOf

router = APIRouter(tags=["operations"], route_class=GuardedRoute)


@router.get("/livez")
@public("tells nothing but that the process runs")
async def livez() -> dict[str, str]:
    """The process runs."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "A part does not answer; `parts` says which."}})
@public("load balancers ask before they have a token; it names parts, no addresses")
async def readyz(services: ServicesOf, response: Response) -> dict[str, object]:
    """Every part answers, or which does not."""
    problems = await services.health.problems()
    is_ready = not any(problems.values())
    response.status_code = 200 if is_ready else 503
    response.headers["Cache-Control"] = "no-store"
    notes = services.health.notes()
    return {
        "status": "ready" if is_ready else "not ready",
        "parts": {part: problem or notes.get(part) or "ok" for part, problem in problems.items()},
    }


@router.get("/metrics", response_class=Response)
@needs(Permission.METRICS_READ)
async def metrics() -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
