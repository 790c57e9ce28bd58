"""Applies the YAML that people review: policies and targets. Applying the same again changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import OPERATOR, Entry
from app.domain.deployments import Target
from app.domain.errors import InvalidInput
from app.domain.policies import DEFAULT_POLICY, Policy, document_of, policy_from_document
from app.ports import Clock
from app.services.recording import UnitOfWorkFactory


@dataclass(frozen=True, slots=True)
class Change:
    """What applying a document did, or would do."""

    kind: str
    name: str
    action: str

    def __str__(self) -> str:
        return f"{self.kind.lower()} {self.name}: {self.action}"


class Configuration:
    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def ensure_default_policy(self) -> None:
        """Protect a fresh installation. Does nothing when there is any policy."""
        async with self._unit_of_work() as work:
            if not await work.policies.in_force():
                await self._put_policy(work, DEFAULT_POLICY)
                await work.commit()

    async def policies(self) -> Sequence[Policy]:
        async with self._unit_of_work() as work:
            return await work.policies.in_force()

    async def apply(self, documents: Sequence[object], *, dry_run: bool = False) -> list[Change]:
        """Bring policies and targets to what the documents say, all of them or none.

        Raises:
            InvalidInput: names the document and the field, and what was expected.
        """
        parsed = [_parse(index, document) for index, document in enumerate(documents, start=1)]
        async with self._unit_of_work() as work:
            changes = [await self._put_target(work, item) for item in parsed if isinstance(item, Target)]
            for policy in (item for item in parsed if isinstance(item, Policy)):
                if missing := await work.targets.missing(policy.targets):
                    raise InvalidInput(f"policy {policy.name}: targets", f"there is no target {', '.join(missing)}")
                changes.append(await self._put_policy(work, policy))
            if not dry_run:
                await work.commit()
        return changes

    async def _put_policy(self, work: UnitOfWork, policy: Policy) -> Change:
        present = {item.name: item for item in await work.policies.in_force()}.get(policy.name)
        if present and replace(present, revision=policy.revision) == policy:
            return Change("Policy", policy.name, f"unchanged (revision {present.revision})")
        now = self._clock.now()
        added = await work.policies.add(policy, at=now, by=OPERATOR.name)
        work.record(
            Entry(now, OPERATOR, "policy.revised", f"{added.name}/{added.revision}", {"document": document_of(added)})
        )
        return Change("Policy", added.name, f"revision {added.revision}" if present else "created")

    async def _put_target(self, work: UnitOfWork, target: Target) -> Change:
        present = {item.name: item for item in await work.targets.all()}.get(target.name)
        if present == target:
            return Change("Target", target.name, "unchanged")
        now = self._clock.now()
        await work.targets.put(target, at=now)
        work.record(Entry(now, OPERATOR, "target.changed", target.name, {"url": target.url}))
        return Change("Target", target.name, "changed" if present else "created")


def _parse(index: int, document: object) -> Policy | Target:
    if not isinstance(document, Mapping):
        raise InvalidInput(f"document {index}", "expected an object with `kind: Policy` or `kind: Target`")
    try:
        match document.get("kind"):
            case "Policy":
                return policy_from_document(document, revision=0)
            case "Target":
                return _target(document)
    except InvalidInput as error:
        where = f"document {index} ({document.get('name', 'unnamed')}), {error.details['field']}"
        raise InvalidInput(where, error.message.partition(": ")[2]) from None
    raise InvalidInput(f"document {index}: kind", "expected Policy or Target")


def _target(document: Mapping[str, object]) -> Target:
    known = {"kind", "name", "url", "secretFile", "secretEnv", "callbackSecretFile", "callbackSecretEnv"}
    known |= {"allowPrivateNetwork", "deadlineSeconds"}
    if unknown := sorted(set(document) - known):
        raise InvalidInput(unknown[0], f"unknown field; expected one of {', '.join(sorted(known))}")
    name, url = document.get("name"), document.get("url")
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise InvalidInput("name", "expected a text without `/`")
    if not isinstance(url, str) or urlsplit(url).scheme not in {"http", "https"} or urlsplit(url).username:
        raise InvalidInput("url", "expected an http:// or https:// URL without credentials")
    private = document.get("allowPrivateNetwork", False)
    if not isinstance(private, bool):
        raise InvalidInput("allowPrivateNetwork", "expected true or false")
    deadline = document.get("deadlineSeconds", 900)
    if not isinstance(deadline, int) or isinstance(deadline, bool) or not 1 <= deadline <= 86_400:
        raise InvalidInput("deadlineSeconds", "expected a whole number from 1 to 86400")
    return Target(
        name=name,
        url=url,
        secret=_secret(document, "secret"),
        callback_secret=_secret(document, "callbackSecret"),
        allow_private_network=private,
        deadline_s=deadline,
    )


def _secret(document: Mapping[str, object], field: str) -> str:
    given = {kind: document.get(f"{field}{kind}") for kind in ("File", "Env")}
    named = [(kind, value) for kind, value in given.items() if isinstance(value, str) and value]
    if len(named) != 1:
        raise InvalidInput(f"{field}File", f"expected {field}File or {field}Env, exactly one; the secret itself never")
    kind, value = named[0]
    return f"{kind.lower()}:{value}"
