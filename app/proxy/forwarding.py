"""The way to MLflow and back: one HTTP client, streaming in both directions in constant memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp
import structlog
from multidict import CIMultiDict
from yarl import URL

from app.domain.errors import UpstreamUnavailable
from app.proxy.asgi import Inbound, Outbound
from app.proxy.headers import outward

_log = structlog.stdlib.get_logger(__name__)

_KEEP_ALIVE_S = 4
"""Less than the 5 s after which uvicorn, under MLflow, closes an idle connection: else a POST can meet a closing
one."""

Rewrite = Callable[[bytes], bytes]


class AnswerBroken(Exception):
    """MLflow's answer ended early, after its head was passed on. The connection to the caller must be cut."""


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What is asked of MLflow. ``target`` is an encoded path and query."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes | AsyncIterator[bytes] | None
    content_length: int | None = None
    """Of a streamed body, if known. Without it the body is chunked, which MLflow's Flask side reads as empty."""


class Upstream:
    """One MLflow server.

    Args:
        url: its address, without a trailing slash.
        timeout_s: how long it may take to accept the next part of a request, to begin an answer, or to send its next
        part. connections: how many connections to it may be open.
    """

    def __init__(self, url: str, *, timeout_s: float, connect_timeout_s: float = 5, connections: int = 256) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections. The next request opens new ones."""
        if self._session:
            await self._session.close()
            self._session = None

    async def forward(
        self, request: UpstreamRequest, inbound: Inbound, answer: Outbound, *, rewrite: Rewrite | None = None
    ) -> None:
        """Ask MLflow, and pass its answer on.

        Raises:
            UpstreamUnavailable: it cannot be reached, or does not begin an answer in time.
            AnswerBroken: its answer ended early.
        """
        response = await self._ask(request, inbound)
        try:
            await self._pass_on(response, answer, rewrite)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if answer.started:
                raise AnswerBroken(type(error).__name__) from None
            raise UpstreamUnavailable("MLflow broke off its answer.") from None
        finally:
            response.close()  # gives the connection back if the answer was read to its end, else cuts it

    async def _ask(self, request: UpstreamRequest, inbound: Inbound) -> aiohttp.ClientResponse:
        headers = CIMultiDict(request.headers)
        if request.content_length is not None:
            headers["Content-Length"] = str(request.content_length)
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                return await self._opened().request(
                    request.method,
                    URL(self.url + request.target, encoded=True),
                    headers=headers,
                    data=self._paced(request.body, deadline),
                    allow_redirects=False,
                )
        except TimeoutError:
            raise UpstreamUnavailable(f"MLflow did not answer within {self._timeout_s:g} s.") from None
        except (aiohttp.ClientError, OSError) as error:
            if inbound.disconnected:
                raise asyncio.CancelledError from None
            _log.warning("upstream_unreachable", upstream=self.url, error=type(error).__name__)
            raise UpstreamUnavailable("MLflow cannot be reached.") from None

    def _paced(
        self, body: bytes | AsyncIterator[bytes] | None, deadline: asyncio.Timeout
    ) -> bytes | AsyncIterator[bytes] | None:
        """The body; each part of it that MLflow took moves the deadline, so that a large upload may take long."""
        if body is None or isinstance(body, bytes):
            return body

        async def parts() -> AsyncIterator[bytes]:
            loop = asyncio.get_running_loop()
            async for chunk in body:
                yield chunk
                if not deadline.expired():
                    deadline.reschedule(loop.time() + self._timeout_s)

        return parts()

    async def _pass_on(self, response: aiohttp.ClientResponse, answer: Outbound, rewrite: Rewrite | None) -> None:
        headers = outward(response.raw_headers, self.url)
        if rewrite and response.status == 200:
            body = rewrite(await response.read())
            await answer.answer(200, [pair for pair in headers if pair[0] != b"content-length"], body)
            return
        await answer.start(response.status, headers)
        async for chunk in response.content.iter_any():
            await answer.write(chunk)
        await answer.finish()

    def _opened(self) -> aiohttp.ClientSession:
        """The session, opened in the loop that first asks."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=_KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._connect_timeout_s, sock_read=self._timeout_s
                ),
                trust_env=False,
            )
        return self._session
