"""``/resolve``: one physical address for a model version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from app.domain.access import Permission
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.resolutions import Resolution
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.resolving import LONGEST_URI, MOST_URIS, answer_to, asked_for, check_may, headers_of, is_seen
from app.routers.resolving import ResolutionStream as Stream
from app.routers.schemas.shared import Answer, Wait
from app.routers.services import ServicesOf

URI = Annotated[str, Field(max_length=LONGEST_URI)]

router = APIRouter(tags=["resolution"], route_class=GuardedRoute)


class ResolutionAnswer(Answer):
    """Where the bytes are.

    `digest` and `promotion_id` are null when no promotion put the version where it is; so are `flavors`, `signature`,
    `size` and `file_count`, which are read when a version is promoted, and never to answer this.
    """

    workspace: str
    model: str = Field(description="Empty for a logged model.")
    version: str = Field(description="Empty for a logged model.")
    alias: str | None
    model_id: str | None = Field(description="Of the logged model (`m-…`), if the address named one.")
    uri: str = Field(description="The physical address, with a slash at its end.")
    source_uri: str = Field(description="What MLflow says.")
    run_id: str | None
    digest: str | None = Field(description="What was approved: the tree digest of the files.")
    promotion_id: str | None
    flavors: list[str] | None = Field(description="Of the file `MLmodel`.")
    signature: dict[str, Any] | None = Field(description="Of the file `MLmodel`, its columns read.")
    size: int | None = Field(description="Bytes of all files.")
    file_count: int | None


@router.get("/resolve", response_model=ResolutionAnswer, responses={304: {"description": "Nothing changed."}})
@needs(Permission.MODELS_RESOLVE, somewhere=True)
async def resolve(
    uri: Annotated[URI, Query(examples=["models:/iris@production"])],
    request: Request,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Annotated[str, Query(max_length=63, description="MLflow's: `models:/` URIs name none.")] = (
        DEFAULT_WORKSPACE
    ),
    wait: Wait = 0,
    if_none_match: Annotated[str | None, Header(description="The ETag seen last.")] = None,
) -> Response:
    """The physical URI behind `models:/<name>@<alias>`, `models:/<name>/<version>` or `models:/m-<id>`.

    A stage and `latest` are answered for models that no policy is for.

    With `If-None-Match`, answers 304 when nothing changed; with `wait` too, only after that many seconds.
    """
    asked = asked_for([uri], workspace, wait)
    seen = if_none_match.encode("latin-1") if if_none_match is not None else None
    answer = await answer_to(services, request.scope, principal, asked, seen)
    found, unchanged = headers_of(answer)
    if is_seen(seen, answer.etag):
        return Response(status_code=304, headers=_readable(unchanged))
    return Response(answer.body, headers=_readable(found))


class StreamAnswer(Response):
    """What is followed, as server-sent events."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream | None = None) -> None:
        super().__init__()
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._stream is not None  # FastAPI makes none of its own
        await self._stream(scope, receive, send)


@router.get("/resolve/stream", response_class=StreamAnswer, status_code=200)
@needs(Permission.MODELS_RESOLVE, somewhere=True)
async def follow(
    uri: Annotated[list[URI], Query(min_length=1, max_length=MOST_URIS, description="Repeat for several.")],
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Annotated[str, Query(max_length=63, description="MLflow's: `models:/` URIs name none.")] = (
        DEFAULT_WORKSPACE
    ),
    last_event_id: Annotated[str | None, Header(description="The id of the event seen last.")] = None,  # noqa: ARG001  # the stream reads it
) -> Response:
    """Server-sent events: what each address means now, and whenever it means something else.

    An event `resolution` has what `/control/v1/resolve` answers. An event `problem` says why an address does not
    resolve any more; one without `uri` says that you may not know of it any more, and then the stream ends.
    """
    asked = asked_for(uri, workspace)
    await check_may(services, principal, asked)
    return StreamAnswer(Stream(services, asked))


def written(resolution: Resolution) -> bytes:
    """As it is answered."""
    return ResolutionAnswer.model_validate(resolution).model_dump_json().encode()


def _readable(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}
