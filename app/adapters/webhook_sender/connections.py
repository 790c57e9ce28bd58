"""Connections to receivers: pools that receivers do not share, and the check of each address that is connected to.

The check is where sockets are made, and again on the connection that is used: no name, form of an address, second
look-up or kept connection leads around it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from app.domain.errors import InvalidConfiguration
from app.domain.networks import Network, networks_of, refusal

LookUp = Callable[[str, int], Sequence[tuple[socket.AddressFamily, str]]]
"""The addresses of a host, for a port, with their families; may block. Raises ``OSError``."""

EVERYWHERE = ("0.0.0.0/0", "::/0")
"""What is never connected to is left out even then."""
MOST_POOLS = 512
MOST_CONNECTIONS = 1000
"""To one host. Whoever sends bounds what is under way to each receiver and to all. Several may share a host, and one
that hangs must leave connections to the others."""
KEEP_ALIVE_S = 4.0
"""Less than the five seconds after which common servers close an idle connection, just as it is used again."""
LOOK_UPS_AT_ONCE = 32
"""A name server that does not answer holds a thread for seconds; each receiver has one look-up under way at most."""


@dataclass(slots=True)
class Connecting:
    """What is known of the connection of one attempt, while it is made."""

    address: str | None = None
    is_new: bool = False
    refused: list[str] = field(default_factory=list)


connecting: ContextVar[Connecting] = ContextVar("connecting")
"""That of the attempt under way."""


class AddressRefused(OSError):
    """An address is one that this receiver must not have."""


@dataclass(slots=True)
class _Pool:
    session: aiohttp.ClientSession
    in_use: int = 0


class Pools:
    """A pool of connections per receiver: scheme, host, port, and the networks that it may be in.

    A receiver that is slow or away fills its own pool alone, and one that may be in a private network lends its
    connections to none that may not. With a proxy, receivers that are in no private network are behind it: it is what
    is connected to, and the operator said where it is.
    """

    def __init__(self, look_up: LookUp, ca_file: Path | None, *, connect_s: float, is_proxied: bool) -> None:
        self._is_proxied = is_proxied
        self._resolver = _Resolver(look_up)
        self._ca_file = ca_file
        self._tls: ssl.SSLContext | None = _tls(ca_file) if ca_file else None  # what is wrong with it is told at start
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        self._pools: OrderedDict[tuple[URL, tuple[str, ...]], _Pool] = OrderedDict()

    async def close(self) -> None:
        pools, self._pools = self._pools, OrderedDict()
        for pool in pools.values():
            await pool.session.close()
        self._resolver.stop()

    @asynccontextmanager
    async def session(self, url: URL, allowed_networks: tuple[str, ...]) -> AsyncGenerator[aiohttp.ClientSession]:
        """Raises ``ValueError``: ``allowed_networks`` names what is no network."""
        key = (url.origin(), allowed_networks)
        pool = self._pools.get(key)
        if pool is None:
            allowed = networks_of(allowed_networks or (EVERYWHERE if self._is_proxied else ()))
            pool = self._pools[key] = _Pool(self._new_session(allowed))
        self._pools.move_to_end(key)
        pool.in_use += 1
        try:
            if len(self._pools) > MOST_POOLS:
                await self._drop_one()
            yield pool.session
        finally:
            pool.in_use -= 1

    async def _drop_one(self) -> None:
        idle = next((key for key, pool in self._pools.items() if not pool.in_use), None)
        if idle is not None:
            await self._pools.pop(idle).session.close()

    def _new_session(self, allowed: tuple[Network, ...]) -> aiohttp.ClientSession:
        self._tls = self._tls or _tls(None)
        connector = _Connector(allowed, self._resolver, self._tls)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            trust_env=False,  # no proxy and no .netrc of this process's environment
            auto_decompress=False,  # a small answer could become a large one
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            read_bufsize=16_384,
            max_headers=64,
        )


class _Connector(aiohttp.TCPConnector):
    def __init__(self, allowed: tuple[Network, ...], resolver: AbstractResolver, tls: ssl.SSLContext) -> None:
        super().__init__(
            resolver=resolver,
            ssl=tls,
            limit=MOST_CONNECTIONS,
            keepalive_timeout=KEEP_ALIVE_S,
            happy_eyeballs_delay=None,  # one address after the other, so that it is known which one was tried
            socket_factory=self._socket,
        )
        self._allowed = allowed

    def _socket(self, candidate: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = candidate
        current = connecting.get()
        reason = refusal(str(address[0]), self._allowed)
        if reason is not None:
            current.refused.append(reason)
            raise AddressRefused(reason)
        current.address, current.is_new = str(address[0]), True
        return socket.socket(family, kind, protocol)

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # aiohttp's own signature
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        peer = connection.transport.get_extra_info("peername") if connection.transport is not None else None
        address = str(peer[0]) if peer else "an unknown address"
        if reason := refusal(address, self._allowed):
            connection.close()
            raise AddressRefused(reason)
        connecting.get().address = address
        return connection


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own: those of the event loop are few, and others need them."""

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up
        self._threads = ThreadPoolExecutor(LOOK_UPS_AT_ONCE, thread_name_prefix="webhook-names")

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002  # every family may be connected to
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host, port)
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": of,
                "proto": socket.IPPROTO_TCP,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for of, address in found
        ]

    async def close(self) -> None:
        """Of one pool's connector; the others go on."""

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def system_look_up(host: str, port: int) -> Sequence[tuple[socket.AddressFamily, str]]:
    """See ``LookUp``: what this system says, hosts file and search domains included."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in found]


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities, and those of a file.

    Raises:
        InvalidConfiguration: the file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except OSError as error:  # an SSLError is one
            reason = "it holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
            raise InvalidConfiguration(f"COUNTERSIGN_WEBHOOK_CA_FILE: {ca_file}: {reason}") from None
    return context
