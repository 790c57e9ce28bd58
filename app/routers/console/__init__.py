"""``/console``: where people see what a promotion changes, and decide. Server-rendered; nothing needs a script."""

from __future__ import annotations

from fastapi import APIRouter

from app.routers.console import aliases, deployments, endpoints, explaining, policies, promotions

router = APIRouter(include_in_schema=False)
for part in (promotions, aliases, deployments, policies, explaining, endpoints):
    router.include_router(part.router)
