"""``/resolve/files``, ``urls``, ``credentials``, ``content``: the bytes, for tokens that name ``resolve``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.types import Message, Send

from app.domain.access import Permission
from app.domain.downloads import DEFAULT_S, LONGEST_S, MOST_URLS, SHORTEST_S, ListedFile, NoSuchPart
from app.domain.errors import CountersignError
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.resolutions import Resolution
from app.routers.access import CurrentPrincipal, GuardedRoute, needs
from app.routers.problems import problems_documented
from app.routers.schemas.shared import Answer, Request, Workspace
from app.routers.services import ServicesOf
from app.services.downloads import Asked, Listing

router = APIRouter(prefix="/resolve", tags=["resolution"], route_class=GuardedRoute, responses=problems_documented(412))

_log = structlog.stdlib.get_logger(__name__)
_AT_A_TIME = 500
"""Files of a list that are written before others get their turn."""
_NOT_KEPT = {"Cache-Control": "no-store"}
STUCK_S = 60.0
"""A reader that takes not even a piece, of a MiB at most, in so long is cut off: others wait for its place."""

Uri = Annotated[str, Query(max_length=1000, examples=["models:/iris@production"])]
Version = Annotated[
    str | None, Query(max_length=20, description="Answer only if the alias still means this version, else 412.")
]


class FileAnswer(Answer):
    """A file. `sha256` is null where neither a promotion nor the store knows it."""

    path: str
    size: int
    sha256: str | None


class VersionOfBytes(Answer):
    """Of which version; of a logged model (`model_id`), `model` and `version` are empty."""

    workspace: str
    model: str
    version: str
    alias: str | None
    uri: str
    digest: str | None
    promotion_id: str | None
    model_id: str | None


class FilesAnswer(VersionOfBytes):
    """`has_urls`: whether `POST /control/v1/resolve/urls` gives URLs for them."""

    has_urls: bool
    files: Sequence[FileAnswer]


class BytesWanted(Request):
    uri: str = Field(max_length=1000, examples=["models:/iris@production"])
    workspace: str = Field(default=DEFAULT_WORKSPACE, max_length=63)
    version: str | None = Field(
        default=None, max_length=20, description="Answer only if the alias still means this version, else 412."
    )
    expires_in: int = Field(default=DEFAULT_S, ge=SHORTEST_S, le=LONGEST_S, description="Seconds.")


class UrlsWanted(BytesWanted):
    files: list[str] | None = Field(
        default=None, max_length=MOST_URLS, description="Their paths; without it, all files of the version."
    )


class UrlAnswer(FileAnswer):
    url: str


class UrlsAnswer(VersionOfBytes):
    """Whoever has one of these URLs can read that file until `expires_at`."""

    expires_at: datetime
    files: Sequence[UrlAnswer]


class CredentialsAnswer(VersionOfBytes):
    """They read what is below `uri` and nothing else, until `expires_at`. `endpoint_url` is null for AWS itself."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expires_at: datetime
    endpoint_url: str | None
    region: str | None


@router.get("/files", response_model=FilesAnswer)
@needs(Permission.MODELS_RESOLVE, somewhere=True)
async def list_files(
    uri: Uri,
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Workspace = DEFAULT_WORKSPACE,
    version: Version = None,
) -> Response:
    """The files behind a `models:/` URI, 50,000 at most: those that were approved, else those that lie there.

    For a token that names the scope `resolve`, as everything below `/resolve/`.
    """
    listing = await services.downloads.files(Asked(principal, uri, workspace, version))
    return StreamingResponse(
        _written(listing), media_type="application/json", headers={"Cache-Control": "private, no-cache"}
    )


@router.post("/urls")
@needs(Permission.MODELS_RESOLVE, somewhere=True)
async def sign_urls(
    wanted: UrlsWanted, principal: CurrentPrincipal, services: ServicesOf, response: Response
) -> UrlsAnswer:
    """A URL for each file, which needs no token: of S3, and of the very version of the object where S3 keeps versions.

    What it gives is to be verified with `sha256`. At most 120 times a minute; each is in the audit log.
    """
    asked = Asked(principal, wanted.uri, wanted.workspace, wanted.version)
    resolution, files, signed = await services.downloads.urls(asked, wanted.files, lasts_s=wanted.expires_in)
    response.headers.update(_NOT_KEPT)
    return UrlsAnswer(
        **_of(resolution),
        expires_at=signed.expires_at,
        files=[UrlAnswer(**_file(file), url=signed.urls[file.path]) for file in files],
    )


@router.post("/credentials")
@needs(Permission.MODELS_RESOLVE, somewhere=True)
async def lend_credentials(
    wanted: BytesWanted, principal: CurrentPrincipal, services: ServicesOf, response: Response
) -> CredentialsAnswer:
    """Short-lived credentials for what reads S3 by itself. 900 seconds at least; each is in the audit log."""
    asked = Asked(principal, wanted.uri, wanted.workspace, wanted.version)
    resolution, lent = await services.downloads.credentials(asked, lasts_s=wanted.expires_in)
    response.headers.update(_NOT_KEPT)
    return CredentialsAnswer(
        **_of(resolution),
        access_key_id=lent.access_key_id,
        secret_access_key=lent.secret_access_key,
        session_token=lent.session_token,
        expires_at=lent.expires_at,
        endpoint_url=lent.endpoint_url,
        region=lent.region,
    )


_BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/content",
    response_class=Response,
    responses={
        200: {"description": "The file.", **_BYTES},
        206: {"description": "A part of it.", **_BYTES},
        **problems_documented(416),
    },
)
@needs(Permission.MODELS_RESOLVE, somewhere=True)
async def read_content(
    uri: Uri,
    path: Annotated[str, Query(max_length=1024, description="Of the file, as it is listed.", examples=["MLmodel"])],
    principal: CurrentPrincipal,
    services: ServicesOf,
    workspace: Annotated[str, Query(max_length=63, description="MLflow's.")] = DEFAULT_WORKSPACE,
    version: Version = None,
    part: Annotated[str | None, Header(alias="Range", description="One range of bytes.")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range", description="The ETag seen last.")] = None,
) -> Response:
    """One file, read through the gateway, wherever it lies. Its `ETag` is its SHA-256 where that is known.

    A whole file breaks off before its last bytes if it is not what was approved. A client verifies parts itself. Who
    takes less than a MiB in a minute is cut off.
    """
    asked = Asked(principal, uri, workspace, version)
    try:
        content = await services.downloads.content(asked, path, wanted=part, if_range=if_range)
    except NoSuchPart:
        raise HTTPException(416, "The range lies behind the end of the file") from None
    size, found = content.file.size, content.part
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": "attachment",
        "Content-Length": str(found.length if found else size),
        "ETag": f'"{content.etag}"',
    }
    if found:
        headers["Content-Range"] = found.content_range(size)
    return _Streamed(content.pieces, 206 if found else 200, headers, "application/octet-stream")


class _Streamed(StreamingResponse):
    """Closes what it reads from, however it ends. What fails on the way breaks the connection off before the end."""

    body_iterator: AsyncGenerator[bytes]

    async def stream_response(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        async with aclosing(self.body_iterator):
            try:
                await _send_in_time(send, start)
                async for piece in self.body_iterator:
                    await _send_in_time(send, {"type": "http.response.body", "body": piece, "more_body": True})
                await _send_in_time(send, {"type": "http.response.body", "body": b"", "more_body": False})
            except CountersignError as error:
                # Without an end, the server closes the connection: no client takes it for the whole.
                _log.warning("download_broken_off", detail=error.message)


async def _send_in_time(send: Send, message: Message) -> None:
    try:
        async with asyncio.timeout(STUCK_S):
            await send(message)
    except TimeoutError:
        raise _ReaderIsStuck("Its reader takes nothing.") from None


class _ReaderIsStuck(CountersignError):
    """It took nothing for ``STUCK_S``."""


def _of(resolution: Resolution) -> dict[str, Any]:
    return VersionOfBytes.model_validate(resolution).model_dump()


def _file(file: ListedFile) -> dict[str, Any]:
    return {"path": file.path, "size": file.size, "sha256": file.sha256}


def _written(listing: Listing) -> Iterator[str]:
    """A ``FilesAnswer``, piece by piece."""
    head: Mapping[str, object] = {**_of(listing.resolution), "has_urls": listing.has_urls}
    yield f'{json.dumps(head)[:-1]}, "files": ['
    for first in range(0, len(listing.files), _AT_A_TIME):
        files = ",".join(json.dumps(_file(file)) for file in listing.files[first : first + _AT_A_TIME])
        yield f",{files}" if first else files
    yield "]}"
