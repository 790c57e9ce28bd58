"""One attempt of one message, whatever the receiver does: each ends in a record of what happened."""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
import structlog
from yarl import URL

from app.adapters.clock import SystemClock
from app.adapters.webhook_sender import records
from app.adapters.webhook_sender.connections import (
    AddressRefused,
    Connecting,
    LookUp,
    Pools,
    connecting,
    system_look_up,
)
from app.adapters.webhook_sender.failures import in_words
from app.adapters.webhook_signatures import signatures
from app.domain.deliveries import Attempt, Call
from app.domain.networks import mistake_of
from app.ports import Clock

USER_AGENT = f"countersign-webhooks/{importlib.metadata.version('countersign')}"
CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
LONGEST_RETRY_AFTER_S = 7 * 24 * 3600.0
_STALE = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attempt may take, beside the receiver's own time-out.

    ``connect_s`` are seconds for one address, TLS included; ``body_s`` are those for the body of an answer, of which
    ``body_bytes`` are read: then the connection is closed.
    """

    connect_s: float = 5.0
    body_s: float = 2.0
    body_bytes: int = 65_536


@dataclass(slots=True)
class _Answer:
    """As much of the answer as there is."""

    status: int | None = None
    error: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    retry_after_s: float | None = None


class WebhookSender:
    """See ``app.ports.WebhookSender``.

    A message counts as delivered when a status line of 2xx and the headers have arrived: the receiver has decided by
    then, and to send it all again because of the end of a body would tell it nothing new. ``error`` says so.

    Args:
        look_up: how addresses are found; the system's way, if none is given.
        ca_file: certificates of further authorities, in PEM.
        proxy: the ``http://`` URL of a proxy for receivers that are allowed no private network. It sees their names and
            connects to them, so that it must judge their addresses; ours are told only those that are written out.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        look_up: LookUp = system_look_up,
        ca_file: Path | None = None,
        proxy: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._limits = limits or Limits()
        self._proxy = URL(proxy) if proxy else None
        self._pools = Pools(look_up, ca_file, connect_s=self._limits.connect_s, is_proxied=proxy is not None)

    async def close(self) -> None:
        await self._pools.close()

    async def send(self, call: Call) -> tuple[Attempt, float | None]:
        started, began = self._clock.now(), time.perf_counter()
        connection, answer = Connecting(), _Answer()
        headers: dict[str, str] = {}
        host = "the receiver"
        token = connecting.set(connection)
        try:
            headers = _headers(call, started)
            url = URL(call.url)
            host = url.host or host
            proxy = None if call.allowed_networks else self._proxy
            if proxy is not None and (reason := mistake_of(host)):
                connection.refused.append(reason)
                raise AddressRefused(reason)  # noqa: TRY301  # as from the connector, which does not see it then
            async with asyncio.timeout(call.timeout_s):
                await self._send(call, url, proxy, headers, answer)
        except TimeoutError as failure:
            # Of the connector, or ours: of the whole attempt.
            answer.error = (
                in_words(failure, host, connection)
                if isinstance(failure, aiohttp.ServerTimeoutError)
                else _too_slow(answer, host, connection, call.timeout_s)
            )
        except (aiohttp.ClientError, OSError) as failure:
            answer.error = in_words(failure, host, connection)
        except ValueError as failure:
            # A secret, told without a word of it; or what a URL or a network should be and is not.
            answer.error = f"not signed: {failure}" if not headers else "the URL cannot be called"
        except Exception as failure:  # noqa: BLE001  # what a receiver sends must not end the one who sends
            _log.warning("webhook_attempt_broke", failure=type(failure).__name__, message_id=call.message_id)
            answer.error = in_words(failure, host, connection)
        finally:
            connecting.reset(token)
        duration = round((time.perf_counter() - began) * 1000)
        attempt = Attempt(
            call.number,
            started,
            duration,
            answer.status,
            answer.error,
            answer.body,
            connection.address,
            records.of_request(headers),
            answer.headers,
        )
        return attempt, answer.retry_after_s

    async def _send(self, call: Call, url: URL, proxy: URL | None, headers: dict[str, str], answer: _Answer) -> None:
        async with self._pools.session(url, call.allowed_networks) as session:
            try:
                await self._exchange(session, call, url, proxy, headers, answer)
            except _STALE as failure:
                # A kept connection that the receiver closed just then says nothing about the receiver.
                is_kept = not connecting.get().is_new and not isinstance(failure, aiohttp.ClientConnectorError)
                if not is_kept or answer.status is not None:
                    raise
                await self._exchange(session, call, url, proxy, headers, answer)

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        call: Call,
        url: URL,
        proxy: URL | None,
        headers: dict[str, str],
        answer: _Answer,
    ) -> None:
        body = call.body.encode()
        async with session.post(url, data=body, headers=headers, allow_redirects=False, proxy=proxy) as response:
            answer.status = response.status
            answer.headers = records.of_response(response.headers.items())
            if wanted := response.headers.get("retry-after"):
                answer.retry_after_s = _seconds(wanted, self._clock.now())
            if 300 <= response.status < 400:
                answer.error = "redirects are not followed"
            await self._read(response, answer)

    async def _read(self, response: aiohttp.ClientResponse, answer: _Answer) -> None:
        kept, read = b"", 0
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for piece in response.content.iter_any():
                    read += len(piece)
                    kept += piece[: records.KEPT_BYTES - len(kept)]
                    if read >= self._limits.body_bytes:
                        break
        except TimeoutError:
            answer.error = answer.error or f"the answer's body took longer than {self._limits.body_s:g} s"
        except (aiohttp.ClientError, OSError):
            answer.error = answer.error or "the answer's body broke off"
        if not response.content.at_eof():
            response.close()  # the rest is not waited for, and the connection not used again
        answer.body = records.of_body(kept, response.headers.get("content-encoding", "").lower())


def _headers(call: Call, at: datetime) -> dict[str, str]:
    seconds = int(at.timestamp())
    return {
        "content-type": CONTENT_TYPE,
        "user-agent": USER_AGENT,
        "accept-encoding": "identity",
        "webhook-id": call.message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signatures(call.secrets, call.message_id, seconds, call.body),
    }


def _too_slow(answer: _Answer, host: str, connection: Connecting, limit_s: float) -> str:
    if answer.status is not None:
        return answer.error or f"the answer was not complete within {limit_s:g} s"
    what = "no answer" if connection.address else "no connection"
    return f"{what} from {host} within {limit_s:g} s"


def _seconds(retry_after: str, now: datetime) -> float | None:
    """Of ``Retry-After``: a number of seconds, or a date (RFC 9110 section 10.2.3); none if it is neither."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:20]), LONGEST_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_S)
