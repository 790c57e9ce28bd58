"""Asks a target: a GET that is signed as calls are, over connections that are checked as theirs are."""

from __future__ import annotations

import asyncio
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path

import aiohttp
import structlog
from yarl import URL

from app.adapters.clock import SystemClock
from app.adapters.webhook_sender.connections import (
    AddressRefused,
    Connecting,
    LookUp,
    Pools,
    connecting,
    system_look_up,
)
from app.adapters.webhook_sender.failures import in_words
from app.adapters.webhook_sender.sender import USER_AGENT, Limits
from app.adapters.webhook_signatures import signatures
from app.domain.networks import mistake_of
from app.ports import Answered, Clock, Question

MOST_BYTES = 256 * 1024

_SIGNATURE = ("webhook-id", "webhook-timestamp", "webhook-signature")

_log = structlog.stdlib.get_logger(__name__)


class Asker:
    """See ``app.ports.TargetAsker``. Standard Webhooks signs a body, and a GET has none: ``GET <path>`` is signed.

    Args:
        clock: for the time of the signature.
        look_up: as of ``WebhookSender``, like the following.
        ca_file: certificates of further authorities, in PEM.
        proxy: the ``http://`` URL of a proxy for targets that are allowed no private network.
        limits: of one question.
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
        self._proxy = URL(proxy) if proxy else None
        self._pools = Pools(look_up, ca_file, connect_s=(limits or Limits()).connect_s, is_proxied=proxy is not None)

    async def close(self) -> None:
        await self._pools.close()

    async def ask(self, question: Question) -> Answered:
        connection = Connecting()
        host = "the target"
        token = connecting.set(connection)
        try:
            base = URL(question.url)
            url = (base / question.name).with_query(base.query)
            host = url.host or host
            proxy = None if question.allowed_networks else self._proxy
            if proxy is not None and (reason := mistake_of(host)):
                connection.refused.append(reason)
                raise AddressRefused(reason)  # noqa: TRY301  # as from the connector, which does not see it then
            headers = _headers(question, url, self._clock.now())
            async with asyncio.timeout(question.timeout_s):
                return await self._exchange(question, url, proxy, headers)
        except TimeoutError:
            return Answered(None, error=f"no answer from {host} within {question.timeout_s:g} s")
        except (aiohttp.ClientError, OSError) as failure:
            return Answered(None, error=in_words(failure, host, connection))
        except ValueError as failure:
            # A secret, told without a word of it; or what a URL or a network should be and is not.
            return Answered(None, error=f"not asked: {failure}")
        except Exception as failure:  # noqa: BLE001  # what a target sends must not end the one who asks
            _log.warning("question_broke", failure=type(failure).__name__)
            return Answered(None, error=in_words(failure, host, connection))
        finally:
            connecting.reset(token)

    async def _exchange(self, question: Question, url: URL, proxy: URL | None, headers: dict[str, str]) -> Answered:
        async with (
            self._pools.session(url, question.allowed_networks) as session,
            session.get(url, headers=headers, allow_redirects=False, proxy=proxy) as response,
        ):
            body = b""
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MOST_BYTES:
                    response.close()
                    return Answered(response.status, error=f"its answer is larger than {MOST_BYTES // 1024} KiB")
            return Answered(
                response.status,
                body,
                response.headers.get("content-type", ""),
                headers={name: response.headers[name] for name in _SIGNATURE if name in response.headers},
                # With a proxy, the address is its own: who is behind it is not known.
                is_undisturbed=is_undisturbed(url.scheme, None if proxy else connecting.get().address),
            )


def is_undisturbed(scheme: str, address: str | None) -> bool:
    """Whether nobody could have stood between us and who answered, at this address; none: it is not known."""
    return scheme == "https" or (address is not None and ip_address(address.partition("%")[0]).is_loopback)


def _headers(question: Question, url: URL, at: datetime) -> dict[str, str]:
    seconds = int(at.timestamp())
    return {
        "accept": "application/json",
        "user-agent": USER_AGENT,
        "accept-encoding": "identity",
        "webhook-id": question.message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": signatures(question.secrets, question.message_id, seconds, f"GET {url.raw_path}"),
    }
