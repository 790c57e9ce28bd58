"""Asks a Prometheus for numbers: one instant query, to an address that is checked as it is connected to.

https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import structlog
from yarl import URL

from app.adapters.webhook_sender.connections import Connecting, LookUp, Pools, connecting, system_look_up
from app.adapters.webhook_sender.failures import in_words
from app.adapters.webhook_sender.records import clean
from app.domain.deployments import MetricsSource
from app.domain.errors import InvalidConfiguration
from app.domain.gates import Reading
from app.domain.networks import MASK
from app.ports import SecretStore

USER_AGENT = f"countersign-gates/{importlib.metadata.version('countersign')}"
ANSWER_IN_S = 10.0
MOST_BYTES = 1_048_576
LONGEST_REASON = 300
_CONNECT_S = 5.0
_SHORTEST_SECRET = 8
"""Characters. What is shorter is a word of ours as well."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_BY_STATUS: Mapping[int, str] = {
    401: "it wants another token",
    403: "it wants another token",
    404: "there is no /api/v1/query at this address: is `prometheusUrl` right?",
    405: "it takes no POST at this address: is `prometheusUrl` right?",
}
_NO_ANSWER = "that is no answer of a Prometheus"
_NO_NUMBERS: Mapping[str, str] = {
    "matrix": "the query gives a range: take a rate or a sum of it",
    "string": "the query gives a text",
}

_log = structlog.stdlib.get_logger(__name__)


class _Unusable(Exception):
    """There is no number in the answer, and why."""


class Prometheus:
    """See ``app.ports.Metrics``.

    What a number means is for others to say; here, whatever is not a complete answer is a problem: an error, a warning
    (of a source that could not be read, the rest would be taken for everything), histograms, more than ``MOST_BYTES``.
    No time is sent: samples are stamped by Prometheus' own clock, from which ours may differ.

    Args:
        secrets: where tokens are.
        ca_file: certificates of further authorities, in PEM.
        look_up: how addresses are found.
        answer_in_s: seconds within which the whole answer must be there.
    """

    def __init__(
        self,
        secrets: SecretStore,
        *,
        ca_file: Path | None = None,
        look_up: LookUp = system_look_up,
        answer_in_s: float = ANSWER_IN_S,
    ) -> None:
        self._secrets = secrets
        self._answer_in_s = answer_in_s
        self._pools = Pools(look_up, ca_file, connect_s=_CONNECT_S, is_proxied=False)

    async def close(self) -> None:
        await self._pools.close()

    async def read(self, source: MetricsSource, query: str) -> Reading:
        connection, token = Connecting(), ""
        host = "Prometheus"
        tracked = connecting.set(connection)
        try:
            token = self._token(source)
            url = URL(source.url.rstrip("/") + "/api/v1/query")
            host = url.host or host
            async with asyncio.timeout(self._answer_in_s):
                status, body = await self._ask(url, source.allowed_networks, query, token)
            return Reading(_values(status, body))
        except TimeoutError as failure:
            slow = f"no answer from {host} within {self._answer_in_s:g} s"
            return _problem(in_words(failure, host, connection) if _is_of_connecting(failure) else slow, token)
        except (_Unusable, InvalidConfiguration) as failure:
            return _problem(str(failure), token)
        except (aiohttp.ClientError, OSError) as failure:
            return _problem(in_words(failure, host, connection), token)
        except ValueError:
            return _problem("the URL cannot be called", token)
        except Exception as failure:  # noqa: BLE001  # what a Prometheus sends must not end a rollout
            _log.warning("metrics_broke", failure=type(failure).__name__, host=host)
            return _problem(in_words(failure, host, connection), token)
        finally:
            connecting.reset(tracked)

    def _token(self, source: MetricsSource) -> str:
        token = self._secrets.read(source.token) if source.token else ""
        if token and not _TOKEN.fullmatch(token):  # RFC 6750 section 2.1
            raise InvalidConfiguration(f"The secret {source.token} is no bearer token.")
        return token

    async def _ask(self, url: URL, networks: tuple[str, ...], query: str, token: str) -> tuple[int, bytes]:
        headers = {"user-agent": USER_AGENT, "accept": "application/json", "accept-encoding": "identity"}
        headers["content-type"] = "application/x-www-form-urlencoded"
        if token:
            headers["authorization"] = f"Bearer {token}"
        form = urlencode({"query": query, "timeout": f"{self._answer_in_s:g}s"}).encode()
        async with (
            self._pools.session(url, networks) as session,
            session.post(url, data=form, headers=headers, allow_redirects=False) as response,
        ):
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MOST_BYTES:
                    response.close()
                    raise _Unusable("its answer is too large: aggregate the query, as with sum()")
            return response.status, bytes(body)


def _values(status: int, body: bytes) -> tuple[float, ...]:
    """The numbers of an answer. Raises ``_Unusable``."""
    answer = _parsed(status, body)
    if answer["status"] == "error" or status != 200:
        raise _Unusable(f"it answered {status}: {_text(answer.get('error')) or 'an error without a reason'}")
    if warnings := answer.get("warnings"):
        raise _Unusable(f"it warns: {_text(warnings[0]) if isinstance(warnings, list) else 'of something'}")
    data = answer.get("data")
    kind, result = (str(data.get("resultType")), data.get("result")) if isinstance(data, dict) else ("", None)
    if kind in _NO_NUMBERS:
        raise _Unusable(_NO_NUMBERS[kind])
    samples = [{"value": result}] if kind == "scalar" else result
    if kind not in ("scalar", "vector") or not isinstance(samples, list):
        raise _Unusable(_NO_ANSWER)
    return tuple(map(_value, samples))


def _parsed(status: int, body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and answer.get("status") in ("success", "error"):
        return answer
    if 300 <= status < 400:
        raise _Unusable(f"it answered {status}: redirects are not followed")
    raise _Unusable(f"it answered {status}: {_BY_STATUS.get(status, _NO_ANSWER)}")


def _value(sample: object) -> float:
    if isinstance(sample, dict) and "histogram" in sample:
        raise _Unusable("the query gives a histogram: take a quantile or a count of it")
    try:
        _, value = sample["value"]  # type: ignore[index]  # whatever it is
        return float(value)
    except (KeyError, TypeError, ValueError):
        raise _Unusable(_NO_ANSWER) from None


def _text(value: object) -> str:
    return " ".join(clean(str(value)).split()) if value else ""


def _is_of_connecting(failure: TimeoutError) -> bool:
    return isinstance(failure, aiohttp.ServerTimeoutError)


def _problem(reason: str, token: str) -> Reading:
    """Without the token, which a proxy might repeat; what is left is cut, since a part of it could not be found."""
    is_secret = len(token) >= _SHORTEST_SECRET
    return Reading(problem=f"Prometheus: {(reason.replace(token, MASK) if is_secret else reason)[:LONGEST_REASON]}")
