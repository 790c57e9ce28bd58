"""What is understood of a request before MLflow is asked: its query, its judged body, the question for its guard.

MLflow is sent what was understood, written afresh: it sees what was judged.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from app.domain.access import Permission
from app.domain.canonical import (
    JsonObject,
    canonical_artifact_path,
    canonical_query,
    judged_parameters,
    parse_document,
    parse_message,
    require,
    serialise,
    serialise_query,
)
from app.domain.errors import InvalidInput
from app.domain.routes import BodyKind, Guard, Match, Message
from app.domain.traces import check_trace
from app.ports import Judged
from app.proxy.exchange import Exchange
from app.proxy.graphql import LONGEST_REMEMBERED, judge_graphql
from app.proxy.graphql_limits import limit_graphql
from app.proxy.headers import check_json
from app.proxy.limiting import Asked, Limits, Phantoms

_RENAMED = {"run_uuid": "run_id", "artifact_path": "path"}
"""Parameters of MLflow that a guard is asked with by another name."""

_ARTIFACT_GUARDS = {Guard.ARTIFACT_WRITE, Guard.ARTIFACT_DELETE, Guard.RUN_ARTIFACT_WRITE}


Query = tuple[tuple[str, str], ...]
Reading = Callable[[bytes], Awaitable[bytes]]


_PASSED_ON = frozenset({BodyKind.NONE, BodyKind.STREAM})

LIMITED_BODY = 16 * 1024 * 1024
"""Bytes of a body that is read because a limited principal sends it."""
_LARGE = 256 * 1024
"""Bytes of a body that is parsed beside the loop."""


@dataclass(slots=True)
class Judgement:
    """What MLflow shall be asked, and what must be true before."""

    target: str
    """The encoded path and query."""
    body: bytes | None = None
    """A body written afresh, if the caller's was judged."""
    asked: Mapping[str, str] | None = None
    """The fields that the guard is asked with."""
    judged: Judged | None = None
    """What MLflow's side shall check that it understands too."""
    permissions: frozenset[Permission] = frozenset()
    """What is needed beside the route's own permission."""
    phantoms: Phantoms | None = None
    """What the caller called the words that stand for what it may not read."""
    understood: Asked | None = None
    """The request of a limited principal, as MLflow shall be asked."""
    is_read: bool = False
    """Whether the answer is read here, and so must not be compressed."""
    reading: Reading | None = None
    """What the caller is shown of a good answer."""


async def judge(exchange: Exchange, match: Match, *, json_limit: int, limits: Limits | None = None) -> Judgement:
    """Read of a request what decides whether it may pass.

    Raises:
        InvalidInput, RouteRefused: it has two meanings, or none. ClientDisconnected: it ended early.
        Forbidden: a limited principal may read what it names, and not do this with it.
    """
    route = match.route
    query, written = _query(exchange.scope["query_string"])
    if route.body is BodyKind.GRAPHQL:
        return await _graphql(exchange, match, query, json_limit, limits)
    if limits is None and route.guard is None and not exchange.has_body and route.body in _PASSED_ON:
        return Judgement(f"{match.path()}?{written}" if written else match.path())
    fields = await _fields(exchange, match, query, json_limit, is_limited=limits is not None)
    params, phantoms, understood = match.params, None, None
    if limits is not None:
        understood = Asked(dict(params), [list(pair) for pair in query], fields)
        phantoms = await limits.apply(understood)
        params, query = understood.params, tuple((name, value) for name, value in understood.query)
        written = serialise_query(query)
    path = Match(route, params).path() if phantoms else match.path()
    target = f"{path}?{written}" if written else path
    judgement = Judgement(target, phantoms=phantoms, understood=understood)
    if fields is not None:
        judgement.body = serialise(fields)
    if route.message:
        assert fields is not None  # a message was read
        judgement.asked = _asked(route.guard, fields)
        judgement.judged = Judged(route.method, path, route.message.name, fields)
    elif route.guard is not None:
        judgement.asked = _asked(route.guard, {**params, **judged_parameters(query, route.judged_query)})
    return judgement


async def _fields(
    exchange: Exchange, match: Match, query: Query, json_limit: int, *, is_limited: bool
) -> JsonObject | None:
    """The document in the body, if it is read."""
    route = match.route
    if route.message:
        return await _message(exchange, query, route.message, match.params, json_limit)
    if route.body is BodyKind.TRACE:
        document = parse_document(await _json(exchange, query, json_limit))
        check_trace(document)
        return document
    if route.body is BodyKind.NONE and exchange.has_body:
        raise InvalidInput("body", f"expected none with {route.method}")
    if not is_limited or route.body is not BodyKind.STREAM or route.guard is not None:
        return None
    raw = await _json(exchange, query, LIMITED_BODY)
    return parse_document(raw) if len(raw) <= _LARGE else await asyncio.to_thread(parse_document, raw)


async def _graphql(exchange: Exchange, match: Match, query: Query, json_limit: int, limits: Limits | None) -> Judgement:
    raw = await _json(exchange, query, json_limit)
    # A document that is met for the first time may be large, and parsing it slow.
    judging = judge_graphql(raw) if len(raw) <= LONGEST_REMEMBERED else await asyncio.to_thread(judge_graphql, raw)
    judgement = Judgement(match.path(), judging[0], permissions=judging[1])
    if limits is not None:
        limited = await limit_graphql(judging[0], limits)
        judgement.body, judgement.phantoms, judgement.reading = limited.body, limited.phantoms, limited.reading
    return judgement


async def _message(
    exchange: Exchange, query: Query, message: Message, params: Mapping[str, str], limit: int
) -> JsonObject:
    """The fields of a judged body, with those that the path gives."""
    fields = parse_message(await _json(exchange, query, limit), message)
    for name, value in params.items():
        if fields.setdefault(name, value) != value:
            raise InvalidInput(name, "expected the same in path and body")
    require(fields, message)
    return fields


async def _json(exchange: Exchange, query: Query, limit: int) -> bytes:
    """A body that is plainly JSON; empty if there is none."""
    if query:
        raise InvalidInput("query", "expected none; everything is sent in the body")
    if exchange.has_body:
        check_json(exchange.headers)
    return await exchange.inbound.read(limit)


def _query(raw: bytes) -> tuple[Query, str]:
    """The parameters, and the query that means them."""
    if not raw:
        return (), ""
    return _query_again(raw) if len(raw) <= _LONGEST_REMEMBERED_QUERY else _read_query(raw)


def _read_query(raw: bytes) -> tuple[Query, str]:
    query = tuple(canonical_query(raw))
    return query, serialise_query(query)


_LONGEST_REMEMBERED_QUERY = 512
_query_again = lru_cache(maxsize=4096)(_read_query)
"""Programs ask for the same alias again and again."""


def _asked(guard: Guard | None, judged: Mapping[str, object]) -> dict[str, str]:
    fields = {_RENAMED.get(name, name): value for name, value in judged.items() if isinstance(value, str)}
    if guard is Guard.MODEL_CREATE:
        tags = judged.get("tags", [])
        assert isinstance(tags, list)  # as its message says
        fields["tags"] = json.dumps([tag.get("key", "") for tag in tags])
    if guard in _ARTIFACT_GUARDS:
        canonical_artifact_path(fields["path"])
    return fields
