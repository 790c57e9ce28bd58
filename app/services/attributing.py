"""Writing down who moved an alias that no policy protects, when MLflow has done what the door let through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog

from app.domain.access import Principal
from app.domain.errors import CountersignError
from app.domain.grants import fold
from app.domain.history import Held
from app.domain.promotions import AliasKey
from app.ports import Clock, ModelRegistry, RegisteredModel
from app.services.recording import UnitOfWorkFactory, alias_topic

_log = structlog.stdlib.get_logger(__name__)

MOVES_ALIASES = frozenset(
    {
        "SetRegisteredModelAlias",
        "DeleteRegisteredModelAlias",
        "DeleteModelVersion",
        "DeleteRegisteredModel",
        "RenameRegisteredModel",
    }
)
"""The messages after which an alias has another holder, or none. What is protected never gets so far: the guard of each
of them refuses, or makes a promotion of it."""


class Attributing:
    def __init__(self, unit_of_work: UnitOfWorkFactory, registry: ModelRegistry, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._clock = clock

    async def note(self, principal: Principal, message: str, fields: Mapping[str, object], workspace: str) -> None:
        """Write down what MLflow has done. It is done: a failure is logged, and changes nothing for the caller.

        Then the reconciler finds the alias moved, and does not know by whom.

        Args:
            principal: who had it done.
            message: one of ``MOVES_ALIASES``.
            fields: what MLflow was asked.
            workspace: where.
        """
        try:
            if message == "SetRegisteredModelAlias":
                moved = [await self._set(fields, workspace)]
            else:
                moved = await self._let_go(message, fields, workspace)
            await self._write(principal, moved)
        except (CountersignError, KeyError) as error:
            _log.error("alias_not_attributed", message=message, error=type(error).__name__, exc_info=error)

    async def _set(self, fields: Mapping[str, object], workspace: str) -> Held:
        name, alias = str(fields["name"]), str(fields["alias"])
        model = await self._registry.get_model(name, workspace)
        key = AliasKey(workspace, model.name, _as_mlflow_has_it(model, alias))
        return self._held(key, str(fields["version"]), model.created_at)

    async def _let_go(self, message: str, fields: Mapping[str, object], workspace: str) -> list[Held]:
        """Whoever held one of these aliases holds it no more; under another name, where the model was renamed."""
        async with self._unit_of_work() as work:
            held = await work.history.held_of(workspace, str(fields["name"]))
        if message == "DeleteRegisteredModelAlias":
            held = [each for each in held if each.key.alias == str(fields["alias"])]
        elif message == "DeleteModelVersion":
            held = [each for each in held if each.version == str(fields["version"])]
        gone = [self._held(each.key, None, each.model_created_at) for each in held]
        if message != "RenameRegisteredModel":
            return gone
        new_name = str(fields["new_name"])
        return gone + [
            self._held(AliasKey(workspace, new_name, each.key.alias), each.version, each.model_created_at)
            for each in held
        ]

    def _held(self, key: AliasKey, version: str | None, model_created_at: int) -> Held:
        return Held(key, version, since=self._clock.now(), cause="direct", model_created_at=model_created_at)

    async def _write(self, principal: Principal, moved: Iterable[Held]) -> None:
        async with self._unit_of_work() as work:
            for held in sorted(moved, key=lambda each: each.key):
                await work.promotions.lock_alias(held.key)
                await work.history.add(held.by(principal.id, principal.name))
                # No policy protects it: a promotion of the time when one did does not stand behind its holder any more.
                await work.aliases.remove(held.key)
                work.announce(alias_topic(held.key))
                work.forget_resolutions(workspace=held.key.workspace, model=held.key.model)
            await work.commit()


def _as_mlflow_has_it(model: RegisteredModel, alias: str) -> str:
    """Some databases take ``Champion`` and ``champion`` for one alias."""
    if alias in model.aliases:
        return alias
    return next((each for each in model.aliases if fold(each) == fold(alias)), alias)
