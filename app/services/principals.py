"""Who is known here, and who is not let in any more."""

from __future__ import annotations

from collections.abc import Sequence

from app.adapters.postgres.principals import KnownPrincipal
from app.domain.access import Permission, Principal, require
from app.domain.audit import Entry
from app.domain.errors import Forbidden, NotFound, WouldLockOut
from app.domain.identity import Verified, unseen
from app.ports import Clock
from app.services.recording import UnitOfWorkFactory, actor_of

__all__ = ["KnownPrincipal", "Noticing", "Principals"]


class Principals:
    """See the module. Who calls must hold ``identities:administer``; the routers ask for it."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def page(self, *, after: str, limit: int, search: str = "") -> Sequence[KnownPrincipal]:
        """By id, those after ``after``, whose id or name holds ``search``."""
        async with self._unit_of_work() as work:
            return await work.principals.page(after=after, limit=limit, search=search)

    async def get(self, principal_id: str) -> KnownPrincipal:
        """Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            known = await work.principals.get(principal_id)
        if known is None:
            raise _unknown(principal_id)
        return known

    async def disable(self, principal: Principal, principal_id: str, *, reason: str = "") -> KnownPrincipal:
        """Let somebody in no more: neither their sessions, nor their tokens, nor those of their provider.

        Raises:
            InvalidInput: it is no id of a principal.
            WouldLockOut: it is the principal itself.
        """
        if principal_id == principal.id:
            raise WouldLockOut("You cannot disable yourself; ask another administrator.")
        return await self._set(principal, principal_id, disabled=True, reason=reason)

    async def enable(self, principal: Principal, principal_id: str, *, reason: str = "") -> KnownPrincipal:
        """Let somebody in again. Raises ``NotFound``."""
        return await self._set(principal, principal_id, disabled=False, reason=reason)

    async def _set(self, principal: Principal, principal_id: str, *, disabled: bool, reason: str) -> KnownPrincipal:
        require(principal, Permission.IDENTITIES_ADMINISTER)
        async with self._unit_of_work() as work:
            # Two who disable each other at once: the second waits here, and is not let through any more.
            await work.grants.lock()
            caller = await work.principals.get(principal.id)
            if caller is not None and caller.disabled_at is not None:
                raise Forbidden("This account was disabled by an administrator.")
            known = await work.principals.get(principal_id)
            if known is None and disabled:
                # Whoever sends the tokens of a provider alone was never written down.
                await work.principals.vouch(unseen(principal_id), at=self._clock.now())
                known = await work.principals.get(principal_id)
            if known is None:
                raise _unknown(principal_id)
            if (known.disabled_at is not None) == disabled:
                return known
            now = self._clock.now()
            by = principal.id if disabled else None
            await work.principals.set_disabled(principal_id, at=now if disabled else None, by=by)
            action = "principal.disabled" if disabled else "principal.enabled"
            details = {"name": known.identity.name, "reason": reason}
            work.record(Entry(now, actor_of(principal), action, principal_id, details))
            work.forget_callers()
            changed = await work.principals.get(principal_id)
            assert changed is not None  # it was there, and this transaction does not delete
            await work.commit()
        return changed


def _unknown(principal_id: str) -> NotFound:
    return NotFound(
        f"Nobody of the id {principal_id[:300]} was seen yet; ids are `<issuer>|<subject>`.",
        principal=principal_id[:300],
    )


class Noticing:
    """Notices that somebody whose word may count somewhere came with a newer token that says something else of them."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def __call__(self, verified: Verified) -> None:
        said_at = verified.credential.issued_at
        if said_at is None:
            return
        async with self._unit_of_work() as work:
            if await work.principals.is_outdated(verified.identity, said_at=said_at):
                await work.principals.learn(verified.identity, said_at=said_at)
                await work.commit()
