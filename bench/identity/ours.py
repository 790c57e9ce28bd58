"""The gateway's own way from a request to a principal: the real verifier and the real pipeline, without a database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Never, cast

from app.adapters.clock import SystemClock
from app.adapters.oidc import TrustedIssuers
from app.domain.grants import Grant, Subject
from app.domain.identity import Verified
from app.domain.issuers import TrustedIssuer
from app.domain.roles import Role
from app.services.authentication import Authentication
from app.services.granting import Book, GrantBook
from app.services.recording import AuditTrail
from app.services.throttling import Throttle
from bench.identity.tokens import AUDIENCE

TIMES_SEEN = 10


class _SomeGrants:
    """Stands for the grants as they are once they were read."""

    def __init__(self) -> None:
        groups = ("scientists", "approvers", "everybody")
        self._book = Book([Grant(group, Role.VIEWER, Subject(group=group)) for group in groups])

    async def current(self) -> Book:
        return self._book


class _Fresh:
    def epoch(self) -> int:
        return 0


class _Nothing:
    """Stands for what a good token of an issuer has nothing to do with."""

    async def verify(self, _secret: str) -> Never:
        raise AssertionError("a token of an issuer was taken for one of ours")


class Ours:
    """What the gateway does for a token that it has not seen, and for one that it has."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._clock, self._grants = SystemClock(), _SomeGrants()
        trusted = TrustedIssuer("bench", url, frozenset({AUDIENCE}), algorithms=("RS256", "ES256", "EdDSA"))
        self._issuers = TrustedIssuers([trusted], self._clock)
        loop.run_until_complete(self._issuers.check_alive())

    def close(self) -> None:
        self._loop.run_until_complete(self._issuers.close())

    def verify(self, tokens: Sequence[str]) -> float:
        """Microseconds of processor for the signature and the claims of each token."""

        async def all_of_them() -> None:
            for token in tokens:
                await self._issuers.verify(token)

        return self._timed(all_of_them()) / len(tokens)

    def authenticate(self, tokens: Sequence[str]) -> tuple[float, float]:
        """Microseconds of processor for each request with a new token, and for each with one that was seen before."""
        authentication = self._authentication()
        requests = [_request(token) for token in tokens]

        async def all_of_them(times: int) -> None:
            for _ in range(times):
                for request in requests:
                    await authentication.authenticate(request)

        new = self._timed(all_of_them(1)) / len(requests)
        return new, self._timed(all_of_them(TIMES_SEEN)) / len(requests) / TIMES_SEEN

    def _timed(self, work: Any) -> float:  # noqa: ANN401  # a coroutine
        began = time.process_time()
        self._loop.run_until_complete(work)
        return (time.process_time() - began) * 1e6

    def _authentication(self) -> Authentication:
        return Authentication(
            issuers=self._issuers,
            tokens=_Nothing(),
            sessions=_Nothing(),
            book=cast("GrantBook", self._grants),
            freshness=_Fresh(),
            audit=cast("AuditTrail", None),
            refusals=cast("Throttle", None),
            clock=self._clock,
            public_url="http://gateway.example",
            cookie="session",
            noticed=_unnoticed,
        )


async def _unnoticed(verified: Verified) -> None:
    """A question to the database, which costs another process."""


@contextmanager
def ours(url: str) -> Iterator[Ours]:
    """The verifier with the issuer's keys at hand."""
    with asyncio.Runner() as runner:
        contender = Ours(url, runner.get_loop())
        try:
            yield contender
        finally:
            contender.close()


def _request(token: str) -> Mapping[str, Any]:
    """As MLflow's client sends it."""
    return {
        "type": "http",
        "method": "GET",
        "path": "/api/2.0/mlflow/experiments/get",
        "headers": [
            (b"host", b"gateway.example"),
            (b"user-agent", b"mlflow-python-client/3.17.2"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"accept", b"*/*"),
            (b"connection", b"keep-alive"),
            (b"authorization", b"Bearer " + token.encode()),
        ],
        "client": ("127.0.0.1", 1),
    }
