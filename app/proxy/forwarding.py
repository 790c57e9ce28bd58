"""The way to MLflow and back: one HTTP client, streaming in both directions in constant memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from http.cookies import SimpleCookie
from typing import Protocol, runtime_checkable

import aiohttp
import structlog
from multidict import CIMultiDict
from yarl import URL

from app.domain.errors import CountersignError, UpstreamNotReached, UpstreamUnavailable
from app.proxy.asgi import Inbound, Outbound
from app.proxy.headers import outward

_log = structlog.stdlib.get_logger(__name__)

_KEEP_ALIVE_S = 4
"""Less than the 5 s after which uvicorn, under MLflow, closes an idle connection: else a POST can meet a closing
one."""

_NOT_US = "Countersign"
"""How MLflow with our plugin says that it does not take a request for ours (``deploy/mlflow``)."""

_PROBED_BYTES = 1024

Rewrite = Callable[[bytes], bytes]


class _NoCookies(aiohttp.DummyCookieJar):
    """As its parent, without a new empty jar for each request."""

    _none: SimpleCookie = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> SimpleCookie:  # noqa: ARG002 - the interface's
        return self._none


@runtime_checkable
class Chunks(Protocol):
    """A body that can be read from its beginning."""

    @property
    def failure(self) -> CountersignError | None:
        """Why it ended early. The HTTP client hides what a body raises."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """Its parts."""
        ...


class AnswerBroken(Exception):
    """MLflow's answer ended early, after its head was passed on. The connection to the caller must be cut."""


@dataclass(slots=True)
class UpstreamRequest:
    """What is asked of MLflow. ``target`` is an encoded path and query."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes | Chunks | None
    timeout_s: float
    """How long MLflow may take to accept the next part of the body, to begin its answer, or to send its next part."""
    content_length: int | None = None
    """Of a streamed body, if known. Without it the body is chunked, which MLflow's Flask side reads as empty."""
    rewrite: Rewrite | None = None
    """Changes the body of a good answer."""
    protective: Sequence[tuple[bytes, bytes]] = ()
    """Headers of the answer, in the place of MLflow's."""


class Upstream:
    """One MLflow server.

    Args:
        url: its address, without a trailing slash.
        connect_timeout_s: how long a new connection may take.
    """

    def __init__(self, url: str, *, connect_timeout_s: float = 5) -> None:
        self.url = url.rstrip("/")
        self._connect_timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close all connections. The next request opens new ones."""
        if self._session:
            await self._session.close()
            self._session = self._loop = None

    async def forward(
        self, request: UpstreamRequest, inbound: Inbound, answer: Outbound, *, began: Callable[[], None]
    ) -> None:
        """Ask MLflow, and pass its answer on. ``began`` is called when its head is there.

        Raises:
            UpstreamNotReached: no connection can be made. UpstreamUnavailable: it does not begin an answer in time.
            AnswerBroken: its answer ended early. CountersignError: why the caller's body did.
        """
        response = None
        try:
            # One deadline for whatever MLflow has to do next; each thing that it did moves it.
            async with asyncio.Timeout(self._now() + request.timeout_s) as deadline:
                response = await self._ask(request, inbound, deadline)
                began()
                self._check_trust(response)
                if request.rewrite and response.status == 200:
                    await _rewrite(response, answer, self._headers(response, request), request.rewrite, deadline)
                    return
                if not response.content.is_eof():
                    await _stream(response, answer, self._headers(response, request), request.timeout_s, deadline)
                    return
            await answer.start(response.status, self._headers(response, request))
            await answer.finish(response.content.read_nowait())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if answer.started:
                raise AnswerBroken(type(error).__name__) from None
            if isinstance(error, TimeoutError):
                raise UpstreamUnavailable(f"MLflow did not answer within {request.timeout_s:g} s.") from None
            raise UpstreamUnavailable("MLflow broke off its answer.") from None
        finally:
            if response is not None:
                response.close()  # gives the connection back if the answer was read to its end, else cuts it

    async def probe(self, target: str, *, headers: Sequence[tuple[str, str]], timeout_s: float) -> tuple[int, str]:
        """The status of a GET, and the first of its text.

        Raises:
            UpstreamUnavailable: there is none within ``timeout_s``.
        """
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._opened().get(URL(self.url + target, encoded=True), headers=CIMultiDict(headers)) as response,
            ):
                return response.status, (await response.content.read(_PROBED_BYTES)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnavailable(f"MLflow does not answer ({type(error).__name__}).") from None

    async def _ask(
        self, request: UpstreamRequest, inbound: Inbound, deadline: asyncio.Timeout
    ) -> aiohttp.ClientResponse:
        headers = CIMultiDict(request.headers)
        if request.content_length is not None:
            headers["Content-Length"] = str(request.content_length)
        try:
            return await self._opened().request(
                request.method,
                URL(self.url + request.target, encoded=True),
                headers=headers,
                data=_paced(request.body, deadline, request.timeout_s),
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            _log.warning("upstream_not_reached", upstream=self.url, error=type(error).__name__)
            raise UpstreamNotReached("MLflow cannot be reached.") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(request.body, Chunks) and (failure := request.body.failure):
                raise failure from None
            if inbound.disconnected:
                raise asyncio.CancelledError from None
            _log.warning("upstream_broke_off", upstream=self.url, error=type(error).__name__)
            raise UpstreamUnavailable("MLflow broke off.") from None

    def _check_trust(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 401 and response.headers.get("WWW-Authenticate") == _NOT_US:
            _log.error("upstream_refuses_assertion", upstream=self.url)
            raise UpstreamUnavailable("MLflow does not take our word: is COUNTERSIGN_ASSERTION_SECRET the same there?")

    def _headers(self, response: aiohttp.ClientResponse, request: UpstreamRequest) -> list[tuple[bytes, bytes]]:
        return outward(response.raw_headers, self.url, request.protective)

    def _now(self) -> float:
        """The time of the loop, which is asked for once: on Python 3.11 that is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop.time()

    def _opened(self) -> aiohttp.ClientSession:
        """The session, opened in the loop that first asks."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # How many may be open is the business of admission.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
                cookie_jar=_NoCookies(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=self._connect_timeout,
                trust_env=False,
            )
        return self._session


def _paced(
    body: bytes | Chunks | None, deadline: asyncio.Timeout, timeout_s: float
) -> bytes | AsyncIterator[bytes] | None:
    """The body; each part of it that MLflow took moves the deadline, so that a large upload may take long."""
    if body is None or isinstance(body, bytes):
        return body

    async def parts() -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        async for chunk in body.chunks():
            yield chunk
            if not deadline.expired():
                deadline.reschedule(loop.time() + timeout_s)

    return parts()


async def _rewrite(
    response: aiohttp.ClientResponse,
    answer: Outbound,
    headers: list[tuple[bytes, bytes]],
    rewrite: Rewrite,
    deadline: asyncio.Timeout,
) -> None:
    body = rewrite(await response.read())
    deadline.reschedule(None)
    await answer.answer(200, [pair for pair in headers if pair[0] != b"content-length"], body)


async def _stream(
    response: aiohttp.ClientResponse,
    answer: Outbound,
    headers: list[tuple[bytes, bytes]],
    timeout_s: float,
    deadline: asyncio.Timeout,
) -> None:
    """Pass an answer on while it arrives. The time that the caller takes is not counted."""
    loop = asyncio.get_running_loop()
    deadline.reschedule(None)
    await answer.start(response.status, headers)
    deadline.reschedule(loop.time() + timeout_s)
    while chunk := await response.content.readany():
        deadline.reschedule(None)
        if response.content.at_eof():
            await answer.finish(chunk)
            return
        await answer.write(chunk)
        deadline.reschedule(loop.time() + timeout_s)
    await answer.finish()
