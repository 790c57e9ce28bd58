"""What is understood of a request before MLflow is asked: its query, its judged body, the question for its guard.

MLflow is sent what was understood, written afresh: it sees what was judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
from app.proxy.headers import check_json

_RENAMED = {"run_uuid": "run_id", "artifact_path": "path"}
"""Parameters of MLflow that a guard is asked with by another name."""

_ARTIFACT_GUARDS = {Guard.ARTIFACT_WRITE, Guard.ARTIFACT_DELETE, Guard.RUN_ARTIFACT_WRITE}


Query = tuple[tuple[str, str], ...]


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


async def judge(exchange: Exchange, match: Match, *, json_limit: int) -> Judgement:
    """Read of a request what decides whether it may pass.

    Raises:
        InvalidInput, RouteRefused: it has two meanings, or none. ClientDisconnected: it ended early.
    """
    route = match.route
    query, written = _query(exchange.scope["query_string"])
    path = match.path()
    if route.message:
        fields = await _message(exchange, query, route.message, match.params, json_limit)
        judged = Judged(route.method, path, route.message.name, fields)
        return Judgement(path, serialise(fields), _asked(route.guard, fields), judged)
    if route.body is BodyKind.GRAPHQL:
        raw = await _json(exchange, query, json_limit)
        # A document that is met for the first time may be large, and parsing it slow.
        judging = judge_graphql(raw) if len(raw) <= LONGEST_REMEMBERED else await asyncio.to_thread(judge_graphql, raw)
        return Judgement(path, judging[0], permissions=judging[1])
    if route.body is BodyKind.TRACE:
        document = parse_document(await _json(exchange, query, json_limit))
        check_trace(document)
        return Judgement(path, serialise(document))
    if route.body is BodyKind.NONE and exchange.has_body:
        raise InvalidInput("body", f"expected none with {route.method}")
    target = f"{path}?{written}" if written else path
    if route.guard is None:
        return Judgement(target)
    parameters = judged_parameters(query, route.judged_query)
    return Judgement(target, asked=_asked(route.guard, {**match.params, **parameters}))


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
    if guard in _ARTIFACT_GUARDS:
        canonical_artifact_path(fields["path"])
    return fields
