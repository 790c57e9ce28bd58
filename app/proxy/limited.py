"""Who is limited on which route, in which workspace a request is meant, and how such requests are answered."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from app.domain.access import Permission, Principal
from app.domain.canonical import serialise, serialise_query
from app.domain.contributions import Hand
from app.domain.errors import Forbidden, InvalidInput, NotFound
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.routes import BodyKind, Match, Route, RouteClass
from app.domain.routes.graphql import PERMISSIONS as OF_GRAPHQL
from app.domain.routes.resources import Rule, can_be_limited, rule_of
from app.ports import Sealer
from app.proxy.capturing import Captured
from app.proxy.exchange import Exchange
from app.proxy.filtering import Lists, without_hidden_versions
from app.proxy.headers import one
from app.proxy.judging import Judgement
from app.proxy.limiting import Asked, Limits
from app.services.attributing import MOVES_ALIASES, Attributing
from app.services.contributing import Contributing
from app.services.owning import CHANGES_OWNERS, Owning
from app.services.reach import Reach

WORKSPACE = b"x-mlflow-workspace"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61})[a-z0-9]")
"""A workspace's name, as MLflow takes it (2 to 63 characters)."""

_NOTED = CHANGES_OWNERS | MOVES_ALIASES
"""The messages of which is written down who had MLflow do it."""

Carry = Callable[[Exchange, Judgement], Awaitable[None]]
"""Asks MLflow, and writes its answer to the end of the exchange."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """How a route is judged for limited principals."""

    rule: Rule
    needed: frozenset[Permission]
    """Who holds all of these on everything is not limited."""


class Limited:
    """What is different for principals who may see some models and experiments only; and whose everything new is.

    Args:
        reach: knows of what something is.
        owning: is told when something was created.
        contributing: is told who created what a version rests on.
        attributing: is told who moved an alias.
        sealer: seals the tokens of our pages.
        routes: all that the proxy serves.
        has_workspaces: whether the MLflow server has workspaces.
    """

    def __init__(
        self,
        reach: Reach,
        owning: Owning,
        contributing: Contributing,
        attributing: Attributing,
        sealer: Sealer,
        *,
        routes: Iterable[Route],
        has_workspaces: bool = False,
    ) -> None:
        self._reach = reach
        self._owning = owning
        self._contributing = contributing
        self._attributing = attributing
        self._unfinished: set[asyncio.Task[Captured]] = set()
        self._lists = Lists(sealer)
        self._has_workspaces = has_workspaces
        self._judged: Mapping[tuple[str, str], _Judged] = {
            (route.method, route.template): judged
            for route in routes
            if can_be_limited(route) and (judged := _judged(route)).rule != Rule()
        }

    def settle_workspace(self, exchange: Exchange, route: Route, principal: Principal) -> None:
        """Note in which workspace a request is meant.

        Raises:
            InvalidInput: it names more than one, or none that there can be. NotFound: the principal has nothing there.
        """
        if not self._has_workspaces or route.permission is None or route.route_class is RouteClass.READ_WORKSPACE:
            return
        sent = one(exchange.headers, WORKSPACE)
        asked = sent.decode("latin-1").strip() if sent is not None else ""
        if asked and not _NAME.fullmatch(asked):
            raise InvalidInput("X-MLFLOW-WORKSPACE", "expected 2 to 63 of `a-z 0-9 -`, a letter or digit at both ends")
        if not asked:
            asked = DEFAULT_WORKSPACE
            others = self._reach.named_workspaces(principal, route.permission)
            if len(others) == 1 and not self._reach.enters(principal, route.permission, asked):
                (asked,) = others
        if not self._reach.enters(principal, route.permission, asked):
            raise NotFound(f"Workspace '{asked}' not found")
        exchange.workspace = exchange.workspace_header = asked

    def limits_of(self, exchange: Exchange, route: Route, principal: Principal) -> Limits | None:
        """How the principal is limited on a route; none if it is not.

        Raises:
            Forbidden: nobody who is limited may use it.
        """
        judged = self._judged.get((route.method, route.template))
        if judged is None or judged.needed <= principal.access.everywhere:
            return None
        if judged.rule.refusal is not None and route.body is not BodyKind.GRAPHQL:
            raise Forbidden(f"This needs a grant on everything. {judged.rule.refusal}", permission=route.permission)
        return Limits(self._reach, route, judged.rule, principal, exchange.workspace)

    async def carry(
        self,
        exchange: Exchange,
        route: Route,
        judgement: Judgement,
        limits: Limits | None,
        carry: Carry,
        creates: Hand | None = None,
    ) -> None:
        """Have MLflow asked, and the caller answered what it may know of the answer.

        Args:
            exchange: the request.
            route: what it matched.
            judgement: what was understood of it.
            limits: of the principal, if it is limited.
            carry: asks MLflow.
            creates: what has an author when MLflow has answered well.
        """
        if limits is not None and limits.rule.shows_versions and judgement.reading is None:
            judgement.reading = partial(without_hidden_versions, limits)
        is_noted = creates is not None or (route.message is not None and route.message.name in _NOTED)
        is_list = limits is not None and limits.rule.list_of is not None and not judgement.phantoms
        if not is_noted and not is_list and not judgement.phantoms and judgement.reading is None:
            await carry(exchange, judgement)
            return
        ask = partial(self._ask, exchange, route, judgement, limits, carry)
        if is_noted:
            captured = await self._to_its_end(self._noted(exchange, route, judgement, ask, creates))
        else:
            captured = await ask()
        await exchange.answer.answer(captured.status, captured.headers, captured.body)

    async def _ask(
        self, exchange: Exchange, route: Route, judgement: Judgement, limits: Limits | None, carry: Carry
    ) -> Captured:
        """MLflow's answer, as the caller may know it."""

        async def ask(judgement: Judgement) -> Captured:
            captured = Captured()
            judgement.is_read = True
            await carry(replace(exchange, answer=captured), judgement)
            return captured

        if limits is not None and limits.rule.list_of is not None and not judgement.phantoms:
            assert judgement.understood is not None  # a limited principal's request is

            async def ask_for(asked: Asked) -> Captured:
                query = serialise_query([(name, value) for name, value in asked.query])
                path = Match(route, asked.params).path()
                body = serialise(asked.fields) if asked.fields is not None else None
                return await ask(Judgement(f"{path}?{query}" if query else path, body))

            captured = await self._lists.answer(limits, judgement.understood, ask_for)
        else:
            captured = await ask(judgement)
        if judgement.reading is not None and captured.status == 200:
            captured.hold(await judgement.reading(captured.body))
        if judgement.phantoms:
            captured.hold(judgement.phantoms.restore(captured.body))
        return captured

    async def _noted(
        self,
        exchange: Exchange,
        route: Route,
        judgement: Judgement,
        ask: Callable[[], Awaitable[Captured]],
        creates: Hand | None,
    ) -> Captured:
        """MLflow's answer, when it is written down whose what it created is."""
        principal = exchange.principal
        assert principal is not None  # nobody who is unknown may create anything
        fields = judgement.judged.fields if judgement.judged else {}
        asked = await self._contributing.asks(principal, creates, fields) if creates else None
        captured = await ask()
        if captured.status == 200:
            if creates:
                await self._contributing.created(principal, creates, captured.body, asked, exchange.workspace)
            if route.message and route.message.name in CHANGES_OWNERS:
                await self._owning.note(principal, route.message.name, fields, captured.body, exchange.workspace)
            if route.message and route.message.name in MOVES_ALIASES:
                await self._attributing.note(principal, route.message.name, fields, exchange.workspace)
            if route.message and route.message.name == "RenameRegisteredModel":
                await self._contributing.renamed(fields)
        return captured

    async def _to_its_end(self, noted: Coroutine[None, None, Captured]) -> Captured:
        """What was begun is ended and written down though the caller has gone: nobody sheds a hand by hanging up."""
        task = asyncio.create_task(noted)
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        return await asyncio.shield(task)


def _judged(route: Route) -> _Judged:
    rule = rule_of(route)
    assert route.permission is not None  # of what can be limited
    of_body = OF_GRAPHQL if route.body is BodyKind.GRAPHQL else frozenset()
    return _Judged(rule, rule.permissions | of_body | {route.permission})
