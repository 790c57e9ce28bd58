"""Routes that people see: their refusals are pages, and their forms are read field by field."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import Depends, Request, Response

from app.domain.errors import CountersignError, Forbidden, InvalidInput, NotAuthenticated
from app.routers.access import GuardedRoute
from app.routers.pages import page_of
from app.routers.services import Services

MOST_FIELDS = 16


class PageRoute(GuardedRoute):
    """A route that people see: its refusals are pages, and the way to the sign-in page where a session is missing."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            services: Services = request.app.state.services
            try:
                return await handle(request)
            except CountersignError as error:
                if isinstance(error, NotAuthenticated) and request.method != "POST":
                    raise
                if isinstance(error, Forbidden):
                    principal = getattr(request.state, "principal", None)
                    what = f"{request.method} {request.url.path}"
                    await services.audit.record_denial(principal, what=what, error=error)
                return page_of(error, public_url=services.public_url)

        return answered


async def read_form(request: Request) -> Mapping[str, str]:
    """The fields of a form, each once.

    Raises:
        InvalidInput: it is something else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise InvalidInput("content-type", "expected application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl((await request.body()).decode("ascii"), strict_parsing=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise InvalidInput("body", "expected a form") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidInput("body", "expected each field once")
    return fields


PageForm = Annotated[Mapping[str, str], Depends(read_form)]
