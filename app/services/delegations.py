"""Standing in for somebody who is away: giving that, taking it back, and whose word a decision then is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from app.adapters.postgres.principals import KnownPrincipal
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, PrincipalKind, may, require, within_scopes
from app.domain.audit import Entry
from app.domain.delegations import Delegation, Person, delegation
from app.domain.errors import Conflict, Forbidden, InsufficientScope, InvalidInput, NotFound, SelfGrant
from app.domain.grants import Resource
from app.domain.identity import CredentialKind, Scope
from app.domain.promotions import Promotion
from app.domain.roles import scopes_with
from app.ports import Clock
from app.services.cases import Authority, Cases
from app.services.identifiers import id_of
from app.services.recording import UnitOfWorkFactory, actor_of

__all__ = ["Delegation", "Delegations", "stood_in_for"]

MOST = 20
"""Delegations of one person that have not ended."""


class Delegations:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def create(
        self,
        principal: Principal,
        *,
        to: str,
        ends_at: datetime,
        starts_at: datetime | None = None,
        models: str = "*",
        reason: str = "",
        giver: str | None = None,
        idempotency_key: str | None = None,
    ) -> tuple[Delegation, bool]:
        """Let somebody stand in for the principal, or as an administrator for somebody else who is away.

        Args:
            principal: who asks.
            to: who stands in: an id, or the exact name of somebody who has signed in here.
            ends_at: until when.
            starts_at: from when; none: from now.
            models: a pattern of the models.
            reason: why.
            giver: for whom, as ``to``; none: for the principal.
            idempotency_key: the same one is the same delegation.

        Returns:
            The delegation, and whether it is new.

        Raises:
            Forbidden, InsufficientScope: the principal decides on nothing, or does not administer.
            SelfGrant: an administrator cannot make themselves stand in for others.
            InvalidInput: nobody is known by what ``to`` says, or see ``app.domain.delegations``.
            Conflict: there are too many, or the key was sent with something else.
        """
        if principal.kind is not PrincipalKind.PERSON:
            raise Forbidden(f"{principal.name} is a service, and only people stand in for each other.")
        async with self._unit_of_work() as work:
            now = self._clock.now()
            if giver in {None, principal.id}:
                _check_decides(principal)
                from_ = Person(principal.id, principal.name)
            else:
                require(principal, Permission.IDENTITIES_ADMINISTER)
                from_ = await _person(work, "delegator", str(giver))
            taker = await _person(work, "to", to)
            if taker.id == principal.id and from_.id != principal.id:
                raise SelfGrant("You cannot make yourself stand in for others; another administrator can.")
            made = delegation(
                id_of("dlg", key=idempotency_key, of=(principal.id,)),
                giver=from_,
                taker=taker,
                models=models,
                starts_at=starts_at,
                ends_at=ends_at,
                reason=reason,
                at=now,
                by=principal.id,
            )
            earlier = await work.delegations.get(made.id)
            if earlier is not None:
                return _same(earlier, made), False
            if await work.delegations.count_of(from_.id, at=now) >= MOST:
                raise Conflict(f"{from_.name} has {MOST} delegations that have not ended; revoke some.")
            if not await work.delegations.add(made):
                raise Conflict("This was asked for twice at once; ask again.")
            if from_.id == principal.id and principal.credential.kind is CredentialKind.PROVIDER:
                # Who stands in decides with what their provider says of them.
                await work.principals.learn(principal.identity, said_at=principal.credential.issued_at or now)
            details = {"from": from_.id, "to": taker.id, "models": models, "ends_at": ends_at.isoformat()}
            work.record(Entry(now, actor_of(principal), "delegation.created", made.id, {**details, "comment": reason}))
            await work.commit()
        return made, True

    async def page(
        self,
        principal: Principal,
        *,
        everybody: bool = False,
        active: bool = False,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> Sequence[Delegation]:
        """Newest first: those from and to the principal, or as an administrator everybody's. Raises ``Forbidden``."""
        if everybody:
            require(principal, Permission.IDENTITIES_ADMINISTER)
        async with self._unit_of_work() as work:
            return await work.delegations.page(
                of=None if everybody else principal.id,
                before=before,
                limit=limit,
                active_at=self._clock.now() if active else None,
            )

    async def revoke(self, principal: Principal, delegation_id: str) -> None:
        """End one, from either side or as an administrator. Doing so again changes nothing.

        Raises:
            NotFound: there is none, or the principal has nothing to do with it.
            InsufficientScope: this token is not for deciding.
        """
        async with self._unit_of_work() as work:
            found = await work.delegations.get(delegation_id, for_update=True)
            administers = may(principal, Permission.IDENTITIES_ADMINISTER)
            if found is None or not (administers or principal.id in {found.from_id, found.to_id}):
                raise NotFound(f"There is no delegation {delegation_id[:100]}.", delegation=delegation_id[:100])
            if not administers:
                _check_scope(principal)
            now = self._clock.now()
            if await work.delegations.revoke(delegation_id, at=now):
                details = {"from": found.from_id, "to": found.to_id}
                work.record(Entry(now, actor_of(principal), "delegation.revoked", delegation_id, details))
                await work.commit()


async def stood_in_for(
    work: UnitOfWork,
    cases: Cases,
    principal: Principal,
    promotion: Promotion,
    resource: Resource,
    *,
    named: str | None,
    at: datetime,
) -> Authority | None:
    """Whose word a decision of ``principal`` is, if not their own.

    Args:
        work: the transaction.
        cases: what others may.
        principal: who decides.
        promotion: on what.
        resource: its alias, as the principal stands to it.
        named: id or name of whom they say they stand in for. None: they decide for themselves if they can, else for
            the one who delegated to them and can.
        at: the present.

    Raises:
        Forbidden: nobody of that name delegated it to the principal, or who did may not decide, or is disabled, or a
            grant denies the principal to decide.
        InsufficientScope: this token is not for deciding.
        InvalidInput: there are several whom it could be.
    """
    if named == principal.id:
        return None
    if named is None and _decides_alone(principal, promotion, resource):
        return None
    givers: Mapping[str, str] = {}
    is_denied = bool(principal.access.denying(Permission.PROMOTIONS_DECIDE, resource))
    if principal.kind is PrincipalKind.PERSON and not is_denied:
        active = await work.delegations.active(principal.id, at=at)
        givers = {each.from_id: each.from_name for each in active if each.covers(promotion.model)}
    if named is None:
        found = await _only_one(work, cases, promotion, givers)
    else:
        found = await _named(work, cases, promotion, givers, named)
    if found:
        _check_scope(principal)
    return found


async def _named(
    work: UnitOfWork, cases: Cases, promotion: Promotion, givers: Mapping[str, str], named: str
) -> Authority:
    meant = [giver for giver, name in givers.items() if named in {giver, name}]
    if not meant:
        raise Forbidden(f"Nobody called {named[:200]} has delegated decisions on {promotion.model} to you now.")
    if len(meant) > 1:
        raise InvalidInput("on_behalf_of", "expected an id: several people of this name have delegated to you")
    giver = await cases.authority(work, promotion, meant[0])
    if giver is None or giver.is_disabled:
        raise Forbidden(f"An administrator has disabled the account of {givers[meant[0]]}.")
    if not giver.may_decide:
        raise Forbidden(f"{giver.identity.name} may not decide on promotions to {promotion.key}.")
    return giver


async def _only_one(
    work: UnitOfWork, cases: Cases, promotion: Promotion, givers: Mapping[str, str]
) -> Authority | None:
    """The one giver who could decide; of several, the one who has not yet."""
    known = [found for giver in givers if (found := await cases.authority(work, promotion, giver))]
    able = [each for each in known if each.may_decide and not each.is_disabled and each.is_named(promotion)]
    if not able:
        return None
    barred = await cases.barred(work, promotion, [each.identity for each in able])
    fitting = [each for each in able if each.identity.id not in barred]
    said = {who for each in promotion.standing_decisions for who in (each.principal_id, each.authority)}
    left = [each for each in fitting if each.identity.id not in said]
    if len(fitting) > 1 and len(left) != 1:
        names = " or ".join(sorted(each.identity.id for each in fitting))
        raise InvalidInput("on_behalf_of", f"expected whom you stand in for: {names}")
    return next(iter(left if len(fitting) > 1 else fitting), None)


def _decides_alone(principal: Principal, promotion: Promotion, resource: Resource) -> bool:
    roles = frozenset(role.value for role in principal.access.roles_on(resource))
    is_service = principal.kind is PrincipalKind.SERVICE
    return principal.access.may(Permission.PROMOTIONS_DECIDE, resource) and any(
        rule.names(principal_id=principal.id, roles=roles, groups=principal.groups, is_service=is_service)
        for rule in promotion.rules
    )


def _check_decides(principal: Principal) -> None:
    """Who decides on nothing has nothing to delegate."""
    if Permission.PROMOTIONS_DECIDE not in principal.access.somewhere:
        require(principal, Permission.PROMOTIONS_DECIDE)
    _check_scope(principal)


def _check_scope(principal: Principal) -> None:
    permission = Permission.PROMOTIONS_DECIDE
    if permission not in within_scopes(principal.scopes):
        raise InsufficientScope(
            f"{permission} needs a token with the scope {Scope.APPROVE}.",
            scope=" ".join(scopes_with(permission)),
            permission=permission.value,
        )


async def _person(work: UnitOfWork, field: str, said: str) -> Person:
    """Somebody who is known here, by id or exact name."""
    by_id = await work.principals.get(said)
    found: Sequence[KnownPrincipal] = [by_id] if by_id else await work.principals.named(said)
    if len(found) != 1:
        many = (
            "several people have this name; say the id" if found else "nobody of this id or name has signed in here yet"
        )
        raise InvalidInput(field, f"expected `<issuer>|<subject>` or a name: {many}")
    known = found[0]
    identity = known.identity
    return Person(identity.id, identity.name, identity.kind, is_disabled=known.disabled_at is not None)


def _same(earlier: Delegation, made: Delegation) -> Delegation:
    """The earlier one, if it says the same."""
    if (earlier.from_id, earlier.to_id, earlier.models, earlier.ends_at, earlier.reason) != (
        made.from_id,
        made.to_id,
        made.models,
        made.ends_at,
        made.reason,
    ):
        raise Conflict("This Idempotency-Key was sent with something else.")
    return earlier
