"""Endpoints and targets: who is told, written by administrators or the operator, enabled, disabled, given new keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, require
from app.domain.audit import Actor, Entry
from app.domain.deliveries import Receiver, ReceiverKind
from app.domain.differences import Change
from app.domain.endpoint_documents import (
    endpoint_document,
    endpoint_from_document,
    is_within,
    masked_document,
    read_endpoint_name,
)
from app.domain.endpoints import (
    DISABLED_BY_DOCUMENT,
    Endpoint,
    ReceiverState,
    Signing,
    StoredEndpoint,
    rotated,
    with_keys,
)
from app.domain.errors import Conflict, Forbidden, InvalidConfiguration, InvalidInput, PreconditionFailed
from app.domain.events import OF_NO_MODEL, EventType
from app.domain.sources import check_texts
from app.domain.targets import StoredTarget
from app.domain.webhook_keys import Derived
from app.ports import Clock, SecretStore
from app.services.identifiers import id_of, new_id
from app.services.recording import UnitOfWorkFactory, actor_of, emit

LONGEST_OVERLAP = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Key:
    """A key with which an endpoint's messages are signed.

    ``public`` is the ``whpk_…`` with which receivers verify (ed25519). ``secret`` is what a receiver must be given
    (HMAC), and is shown once, to who made it; then it is none.
    """

    number: int
    signing: Signing
    until: datetime | None = None
    public: str | None = None
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class WrittenEndpoint:
    """What became of an endpoint that was written, and the key that it was given, if it was."""

    stored: StoredEndpoint
    change: Change
    key: Key | None = None

    @property
    def is_new(self) -> bool:
        return self.change.action == "created"


class Endpoints:
    """See the module.

    Args:
        unit_of_work: our database.
        clock: the present.
        secrets: has the keys that are derived.
        networks: the private networks that administrators may allow an endpoint (``COUNTERSIGN_WEBHOOK_NETWORKS``);
            the operator's documents are not bound by it.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        secrets: SecretStore,
        networks: Iterable[str] = (),
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._secrets = secrets
        self._networks = tuple(networks)

    # Endpoints.

    async def page(self, *, after: str = "", limit: int = 50) -> Sequence[StoredEndpoint]:
        """By name, those after ``after``."""
        async with self._unit_of_work() as work:
            return await work.endpoints.page(after=after, limit=limit)

    async def get(self, name: str) -> StoredEndpoint:
        """Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            return await work.endpoints.get(name)

    async def put(
        self,
        principal: Principal,
        name: str,
        document: Mapping[str, object],
        *,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> WrittenEndpoint:
        """Write an endpoint, new or in the place of the one of its name.

        Args:
            principal: an administrator.
            name: the endpoint's; a document that names another one is refused.
            document: ``kind: Endpoint``. Secrets that files and variables of the gateway hold cannot be named: who
                may write an endpoint is not who may read those.
            if_match: the ETag that it must have now.
            if_none_match: whether there must be none of this name.

        Raises:
            InvalidInput: names each wrong field, and what was expected.
            Forbidden: it is the operator's own, whose secrets files or variables hold.
            PreconditionFailed: it was changed meanwhile.
            Conflict: keys cannot be derived here.
        """
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        wanted = self._read(name, document)
        async with self._unit_of_work() as work:
            await work.endpoints.lock()
            present = await work.endpoints.find(name, for_update=True)
            _check_precondition(name, present, if_match=if_match, if_none_match=if_none_match)
            if present is not None and present.endpoint.signing is None:
                raise _operators_own(name)
            change = await write_endpoint(
                work, wanted, actor=actor_of(principal), by=principal.id, at=self._clock.now()
            )
            stored = await work.endpoints.get(name)
            is_given = present is None or present.endpoint.secrets[0] != stored.endpoint.secrets[0]
            key = self._new_key(stored.endpoint) if is_given else None
            await work.commit()
        return WrittenEndpoint(stored, change, key)

    async def remove(self, principal: Principal, name: str, *, if_match: str | None = None) -> None:
        """Remove an endpoint. What waits for it is not sent any more; what was sent stays in the log.

        Raises:
            NotFound: there is none.
            PreconditionFailed: it was changed meanwhile.
        """
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        async with self._unit_of_work() as work:
            await work.endpoints.lock()
            present = await work.endpoints.get(name, for_update=True)
            _check_precondition(name, present, if_match=if_match, if_none_match=False)
            now = self._clock.now()
            await work.deliveries.abandon(Receiver(ReceiverKind.ENDPOINT, name), at=now)
            await work.endpoints.remove(name)
            before = masked_document(present.endpoint)
            work.record(Entry(now, actor_of(principal), "endpoint.removed", name, {"before": before}))
            await work.commit()

    async def enable(self, principal: Principal, name: str) -> StoredEndpoint:
        """Have it hear what happens from now on. One that is active stays so. Raises ``NotFound``."""
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        async with self._unit_of_work() as work:
            await work.endpoints.lock()
            present = await work.endpoints.get(name, for_update=True)
            if present.state is ReceiverState.DISABLED:
                now = self._clock.now()
                if present.endpoint.disabled:
                    # Its document would say else: who applies that again sees that it differs.
                    enabled = replace(present.endpoint, disabled=False)
                    await work.endpoints.put(enabled, at=now, by=principal.id)
                await _enable(work, present, actor_of(principal), at=now)
                await work.commit()
            return await work.endpoints.get(name)

    async def disable(self, principal: Principal, name: str, *, reason: str = "") -> StoredEndpoint:
        """Send it nothing any more, nor what waits for it. Raises ``NotFound``."""
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        async with self._unit_of_work() as work:
            await work.endpoints.lock()
            present = await work.endpoints.get(name, for_update=True)
            if present.state is ReceiverState.ACTIVE:
                why = f"disabled by {principal.name}" + (f": {reason}" if reason else "")
                await _disable(work, name, why, actor_of(principal), at=self._clock.now())
                await work.commit()
            return await work.endpoints.get(name)

    async def rotate(
        self,
        principal: Principal,
        name: str,
        *,
        overlap: timedelta,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> WrittenEndpoint:
        """Give it a new key. The one before signs too until the overlap is over, so that receivers can follow.

        Args:
            principal: an administrator.
            name: the endpoint's.
            overlap: zero if the keys until now are in wrong hands: then only the new one signs, at once.
            if_match: the ETag that it must have now.
            idempotency_key: the same one is the same key.

        Raises:
            NotFound: there is none.
            Forbidden: its secrets are the operator's, who writes them anew.
            Conflict: an earlier rotation is not over: receivers may have nothing yet but the key that would go.
            PreconditionFailed: it was changed meanwhile.
        """
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise InvalidInput("overlap_s", f"expected from 0 to {int(LONGEST_OVERLAP.total_seconds())} seconds")
        async with self._unit_of_work() as work:
            await work.endpoints.lock()
            present = await work.endpoints.get(name, for_update=True)
            before, now = present.endpoint, self._clock.now()
            if before.signing is None:
                raise _operators_own(name)
            newest = Derived.parse(before.secrets[0])
            key_id = id_of("key", key=idempotency_key, of=(principal.id, name, str(present.created_at)))
            if newest.id == key_id:
                unchanged = endpoint_document(before)
                return WrittenEndpoint(
                    present, Change("Endpoint", name, "unchanged", unchanged, unchanged), self._new_key(before)
                )
            _check_precondition(name, present, if_match=if_match, if_none_match=False)
            if overlap and len(before.secrets_at(now)) > 1:
                raise Conflict(
                    f"The key before the newest signs until {before.previous_until:%Y-%m-%d %H:%M:%S} UTC: receivers "
                    "may have no other yet. Wait for that; or with an overlap of 0 only a new key signs, from now on.",
                    endpoint=name,
                )
            after = rotated(before, key_id=key_id, previous_until=now + overlap)
            await work.endpoints.put(after, at=now, by=principal.id)
            key = self._new_key(after)
            details = {"number": key.number, "signing": key.signing.value, "overlap_s": int(overlap.total_seconds())}
            work.record(Entry(now, actor_of(principal), "endpoint.rotated", name, details))
            stored = await work.endpoints.get(name)
            await work.commit()
        document = endpoint_document(after)
        return WrittenEndpoint(stored, Change("Endpoint", name, "rotated", document, document), key)

    async def keys(self, name: str) -> Sequence[Key]:
        """The keys that sign now, the newest first, without what is secret. None are told of secrets in files.

        Raises:
            NotFound: there is no such endpoint.
            Conflict: keys cannot be derived here.
        """
        endpoint = (await self.get(name)).endpoint
        if endpoint.signing is None:
            return []
        found = [self._key(endpoint, reference) for reference in endpoint.secrets_at(self._clock.now())]
        return [replace(key, secret=None) for key in found]

    def _read(self, name: str, document: Mapping[str, object]) -> Endpoint:
        check_texts(document)
        read_endpoint_name("name", name)
        if document.get("kind", "Endpoint") != "Endpoint" or document.get("name", name) != name:
            raise InvalidInput("name", "expected `kind: Endpoint` and the name in the address, or none")
        problems = [
            (field, "what files and variables of the gateway hold is named by `countersign apply` alone")
            for field in document
            if field.endswith(("File", "Env"))
        ]
        if document.get("channel", "webhook") != "webhook":
            problems.append(("channel", "expected webhook; the others hold a secret: `countersign apply` names it"))
        if problems:
            raise InvalidInput.of_all(problems)
        wanted = endpoint_from_document({**document, "name": name})
        beyond = [each for each in wanted.allowed_networks if not is_within(each, self._networks)]
        if beyond:
            may = f"of {', '.join(self._networks)}" if self._networks else "that `countersign apply` names"
            raise InvalidInput(
                "allowNetworks", f"expected networks {may}: {', '.join(beyond)} is not in COUNTERSIGN_WEBHOOK_NETWORKS"
            )
        return wanted

    def _new_key(self, endpoint: Endpoint) -> Key:
        return self._key(endpoint, endpoint.secrets[0])

    def _key(self, endpoint: Endpoint, reference: str) -> Key:
        """One of an endpoint whose keys are derived. Raises ``Conflict``."""
        named, signing = Derived.parse(reference), endpoint.signing
        assert signing is not None  # the caller asked
        is_secret = signing is Signing.HMAC
        try:
            secret = self._secrets.read(reference) if is_secret else None
            public = None if is_secret else self._secrets.public_key(reference)
        except InvalidConfiguration as error:
            raise Conflict(f"This gateway cannot derive keys. {error.message}", endpoint=endpoint.name) from None
        until = None if reference == endpoint.secrets[0] else endpoint.previous_until
        return Key(named.number, signing, until, public, secret)

    # Targets.

    async def targets(self, *, after: str = "", limit: int = 50) -> Sequence[StoredTarget]:
        """By name, those after ``after``."""
        async with self._unit_of_work() as work:
            return await work.targets.page(after=after, limit=limit)

    async def target(self, name: str) -> StoredTarget:
        """Raises ``NotFound``."""
        async with self._unit_of_work() as work:
            return await work.targets.stored(name)

    async def enable_target(self, principal: Principal, name: str) -> StoredTarget:
        """Call a deployer again that was disabled because it said that it is gone. Raises ``NotFound``."""
        require(principal, Permission.ENDPOINTS_ADMINISTER)
        async with self._unit_of_work() as work:
            present = await work.targets.stored(name, for_update=True)
            if present.state is ReceiverState.DISABLED:
                await work.targets.set_state(name, ReceiverState.ACTIVE, reason=None)
                details = {"reason": present.state_reason or ""}
                work.record(Entry(self._clock.now(), actor_of(principal), "target.enabled", name, details))
                await work.commit()
            return await work.targets.stored(name)


async def write_endpoint(work: UnitOfWork, wanted: Endpoint, *, actor: Actor, by: str, at: datetime) -> Change:
    """Bring an endpoint to what its document says. Part of the caller's transaction, which has the lock."""
    stored = await work.endpoints.find(wanted.name, for_update=True)
    present = stored.endpoint if stored else None
    after = with_keys(wanted, present, key_id=new_id("key"))
    document, before = endpoint_document(after), endpoint_document(present) if present else None
    if present == after:
        return Change("Endpoint", wanted.name, "unchanged", before, document)
    await work.endpoints.put(after, at=at, by=by)
    details: dict[str, object] = {"before": masked_document(present)} if present else {}
    details["after"] = masked_document(after)
    action = "created" if present is None else "changed"
    work.record(Entry(at, actor, f"endpoint.{action}", wanted.name, details))
    if stored and after.disabled and stored.state is ReceiverState.ACTIVE:
        await _disable(work, wanted.name, DISABLED_BY_DOCUMENT, actor, at=at)
    if stored and stored.endpoint.disabled and not after.disabled and stored.state is ReceiverState.DISABLED:
        await _enable(work, stored, actor, at=at)
    elif present and (present.url, present.secrets) != (after.url, after.secrets):
        # What waits because of how it was before has waited long enough.
        await work.delivery_lanes.hasten(Receiver(ReceiverKind.ENDPOINT, wanted.name), now=at)
    return Change("Endpoint", wanted.name, action, before, document)


async def _enable(work: UnitOfWork, stored: StoredEndpoint, actor: Actor, *, at: datetime) -> None:
    name = stored.endpoint.name
    await work.endpoints.enable(name)
    # Of what was being sent while it was disabled something may be left, which waits for its next attempt.
    await work.delivery_lanes.hasten(Receiver(ReceiverKind.ENDPOINT, name), now=at)
    _tell(work, EventType.ENDPOINT_ENABLED, name, actor, stored.state_reason or "", at=at)


async def _disable(work: UnitOfWork, name: str, reason: str, actor: Actor, *, at: datetime) -> None:
    await work.endpoints.set_state(name, ReceiverState.DISABLED, reason=reason)
    await work.deliveries.abandon(Receiver(ReceiverKind.ENDPOINT, name), at=at)
    _tell(work, EventType.ENDPOINT_DISABLED, name, actor, reason, at=at)


def _tell(work: UnitOfWork, type_: EventType, name: str, actor: Actor, reason: str, *, at: datetime) -> None:
    """Put into the audit log that an endpoint is sent messages or not any more, and make it an event."""
    work.record(Entry(at, actor, type_.value, name, {"reason": reason}))
    known = {"endpoint": name, "by": actor.name, "reason": reason or None}
    emit(work, type_, subject=name, key=OF_NO_MODEL, at=at, known=known)


def _operators_own(name: str) -> Forbidden:
    return Forbidden(
        f"Endpoint {name} is the operator's own: files or variables hold its secrets, and `countersign apply` writes "
        "it. It can be enabled, disabled and removed here.",
        endpoint=name,
    )


def _check_precondition(
    name: str, present: StoredEndpoint | None, *, if_match: str | None, if_none_match: bool
) -> None:
    """RFC 9110 sections 13.1.1 and 13.1.2."""
    if if_none_match and present is not None:
        raise PreconditionFailed(f"There is an endpoint {name} already.", endpoint=name)
    if if_match is None:
        return
    wanted = {each.strip() for each in if_match.split(",")}
    if present is None or (present.etag not in wanted and wanted != {"*"}):
        raise PreconditionFailed(f"Endpoint {name} was changed or removed meanwhile; read it again.", endpoint=name)
