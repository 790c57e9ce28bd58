"""Whatever people, workers and strangers do at once, in any order: each alias has one history, and it is a legal one.

Hypothesis makes up stories. What must hold is worked out here anew, from the audit log, the database and MLflow, and
not by the code that decides. ``COUNTERSIGN_STORIES=500`` tells other ones, and more of them, than the usual.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from app.adapters.postgres.principals import KnownPrincipal
from app.bootstrap.worker import WorkerServices, open_worker
from app.domain.access import Principal
from app.domain.audit import Verifier
from app.domain.digests import FileDigest, measured
from app.domain.errors import CountersignError
from app.domain.identity import Credential, CredentialKind
from app.domain.promotions import IN_FLIGHT, MOVES, AliasKey, Filter, Kind, Outcome, Promotion, State
from app.services.promotions import Wanted
from app.services.reconciling import Reconciling
from tests.conftest import database_of
from tests.failing import KilledError, failing
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer

STORIES = int(os.environ.get("COUNTERSIGN_STORIES", "0"))
GROUPS = {
    "ada": ["scientists"],
    "fay": ["scientists", "approvers", "ml", "risk"],
    "bob": ["approvers", "ml"],
    "cem": ["approvers", "risk"],
    "eve": ["approvers", "ml", "risk"],
}
APPROVALS = [{"name": "ml", "groups": ["ml"]}, {"name": "risk", "groups": ["risk"]}]
CHECK = {"name": "risk is known", "expression": 'candidate.tags["risk"] in ["low", "high"]'}
POLICIES: Sequence[Mapping[str, Any]] = (
    {"approvals": [{"name": "a second person", "roles": ["approver"]}]},
    {"approvals": APPROVALS, "checks": [CHECK], "drift": "restore"},
    {"approvals": APPROVALS, "rollback": {"approvals": [{"name": "fast", "roles": ["approver"]}]}},
    {"approvals": [], "autoApprove": True, "checks": [CHECK], "supersede": "own"},
)
COMPANIONS = {"previous": "previous", "promoted": {"stage": "live"}, "archived": {"stage": "archived"}}
Act = tuple[str, int, int]
"""What, and two numbers that say of whom and which."""
OFTEN = ["ask", "approve", "approve", "work", "work"]
SELDOM = ["reject", "withdraw", "work_all", "roll_back", "break_glass", "review", "clock", "tag", "overwrite"]
SELDOM += ["move", "revise", "leave", "disable", "sweep", "reconcile", "crash", "delete", "recreate"]
MOMENTS = st.lists(
    st.tuples(st.sampled_from([*OFTEN * 3, *SELDOM]), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=4
)
"""Acts at one time."""


@dataclass
class Log:
    """The audit log as far as it was read: it must be one chain, from the first entry on."""

    court: Court
    verifier: Verifier = field(default_factory=Verifier)
    seen: int = 0
    of: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)

    async def read(self) -> None:
        async with self.court.database.unit_of_work() as work:
            while page := await work.audit.page(after=self.seen, limit=1000):
                self.verifier.feed(page)
                self.seen += len(page)
                for entry in page:
                    self.of.setdefault(str(entry.document["object"]), []).append(entry.document)
        assert self.verifier.result.is_intact, self.verifier.result


@dataclass
class World:
    """What is there at the end of a moment."""

    promotions: dict[str, Promotion]
    people: dict[str, KnownPrincipal]


@dataclass
class Story:
    """One model, and all that happens to its production alias."""

    court: Court
    others: WorkerServices
    """A second worker."""
    log: Log
    model: str
    groups: dict[str, list[str]] = field(default_factory=lambda: {who: [*groups] for who, groups in GROUPS.items()})
    disturbed: bool = False
    """The alias was moved past the gateway, and no promotion was applied since."""
    before: World = field(default_factory=lambda: World({}, {}))
    one_revision: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def key(self) -> AliasKey:
        return AliasKey("default", self.model, "production")

    # What may happen.

    def person(self, which: int) -> Principal:
        who = [*self.groups][which % len(self.groups)]
        return self.court.person(who, *self.groups[who])

    def promotion(self, which: int) -> Promotion | None:
        """The newest ones first."""
        known = sorted(self.before.promotions.values(), key=lambda each: each.created_at, reverse=True)
        return known[which % min(3, len(known))] if known else None

    async def ask(self, who: int, version: int) -> None:
        await self.court.ask(self.model, str(version % 3 + 1), by=self.person(who % 2))

    async def approve(self, who: int, which: int, outcome: Outcome = Outcome.APPROVE) -> None:
        if asked := self.promotion(which // 2):
            await self.court.promotions.decide(self.person(who), asked.id, outcome)

    async def reject(self, who: int, which: int) -> None:
        await self.approve(who, which, Outcome.REJECT)

    async def withdraw(self, who: int, which: int) -> None:
        if asked := self.promotion(which // 2):
            await self.court.promotions.withdraw(self.person(who % 2), asked.id)

    async def work(self, worker: int, which: int) -> None:
        if asked := self.promotion(which):
            await [self.court.worker, self.others][worker % 2].advancing.advance(asked.id)

    async def work_all(self, worker: int, _: int) -> None:
        for which in range(3):
            await self.work(worker, which)

    async def crash(self, changes: int, which: int) -> None:
        """The second worker dies after so many changes in MLflow."""
        if asked := self.promotion(which):
            with failing(self.others.advancing, fails_after=changes):
                await self.others.advancing.advance(asked.id)

    async def roll_back(self, who: int, _: int) -> None:
        await self.court.promotions.roll_back(self.person(who), model=self.model, alias="production")

    async def break_glass(self, _: int, version: int) -> None:
        rae = self.court.person("rae", "responders")
        rae = replace(rae, credential=Credential(CredentialKind.SESSION, authenticated_at=self.court.clock.now()))
        await self.court.promotions.break_glass(rae, Wanted(self.key, str(version % 3 + 1), "it is down"))

    async def review(self, who: int, _: int) -> None:
        async with self.court.database.unit_of_work() as work:
            opened = await work.reviews.first_open(self.key)
        if opened:
            await self.court.gateway.services.reviews.close(self.person(who), opened.promotion_id, comment="fine")

    async def clock(self, jump: int, _: int) -> None:
        self.court.clock.ahead += timedelta(hours=(-30, -1, 1, 1, 30, 24 * 8)[jump])

    async def tag(self, value: int, version: int) -> None:
        self.court.tag(self.model, str(version % 3 + 1), risk=["low", "high", "unknown"][value % 3])

    async def overwrite(self, content: int, version: int) -> None:
        (self.folder(version % 3 + 1) / "MLmodel").write_text(f"other {content}")

    async def move(self, how: int, version: int) -> None:
        self.disturbed = True
        values = {"name": self.model, "alias": "production"}
        if how == 0:
            self.court.mlflow.call("DELETE", "registered-models/alias", values)
        else:
            self.court.mlflow.call("POST", "registered-models/alias", values | {"version": str(version % 3 + 1)})

    async def delete(self, _: int, __: int) -> None:
        self.disturbed = True
        self.court.mlflow.call("DELETE", "model-versions/delete", {"name": self.model, "version": "3"})

    async def recreate(self, _: int, __: int) -> None:
        """Another model of the same name, with versions of the same numbers."""
        self.disturbed = True
        self.court.mlflow.call("DELETE", "registered-models/delete", {"name": self.model})
        self.court.mlflow.register(self.model, versions=3)
        for version in ("1", "2", "3"):
            self.court.tag(self.model, version, risk="low")

    async def revise(self, which: int, _: int) -> None:
        async with self.one_revision:  # `countersign apply` takes a lock of its own
            await self.court.policy(models=self.model, companions=COMPANIONS, **POLICIES[which % len(POLICIES)])

    async def leave(self, who: int, which: int) -> None:
        """Leave the groups, or come back."""
        name = [*self.groups][who % len(self.groups)]
        self.groups[name] = [*GROUPS[name]] if which % 2 else ["approvers"]
        await self.vouch(name)

    async def vouch(self, name: str) -> None:
        async with self.court.database.unit_of_work() as work:
            await work.principals.vouch(self.court.person(name, *self.groups[name]).identity, at=self.court.clock.now())
            await work.commit()

    async def disable(self, who: int, which: int) -> None:
        at = self.court.clock.now() if which % 2 else None
        async with self.court.database.unit_of_work() as work:
            await work.principals.set_disabled(self.person(who).id, at=at, by="an administrator" if at else None)
            await work.commit()

    async def sweep(self, _: int, __: int) -> None:
        await self.court.worker.sweeping.sweep()

    async def reconcile(self, _: int, __: int) -> None:
        await self.reconciling.reconcile()

    @property
    def reconciling(self) -> Reconciling:
        registry = self.court.worker.reconciling._registry
        court = self.court
        return Reconciling(
            court.database.unit_of_work, registry, court.clock, court.promotions, pause_s=0, settled=timedelta()
        )

    def folder(self, version: int) -> Path:
        return self.court.mlflow.folder_of(self.model, str(version))

    async def begin(self) -> None:
        self.court.clock.ahead = timedelta()
        for name in GROUPS:
            await self.vouch(name)
            await self.disable([*GROUPS].index(name), 0)
        for version in ("1", "2", "3"):
            self.court.tag(self.model, version, risk="low")
        self.before = await self.look()

    async def happen(self, moment: Sequence[Act]) -> None:
        """All of it at once; whatever is refused is refused. Then look at what came of it."""

        async def one(act: Act) -> None:
            what, who, which = act
            with suppress(CountersignError, KilledError, httpx.HTTPStatusError):
                await getattr(self, what)(who, which)

        await asyncio.gather(*(one(act) for act in moment))
        await self.check({what for what, _, _ in moment})

    # What must hold.

    async def look(self) -> World:
        async with self.court.database.unit_of_work() as work:
            promotions = await work.promotions.page(Filter(model=self.model), limit=500)
            people = [await work.principals.get(self.court.person(name).id) for name in GROUPS]
        return World({each.id: each for each in promotions}, {each.identity.id: each for each in people if each})

    async def check(self, acts: set[str]) -> None:
        before, now = self.before, await self.look()
        self.before = now
        await self.log.read()
        begun, applied = [], []
        for promotion in now.promotions.values():
            self.check_told(promotion)
            earlier = before.promotions.get(promotion.id)
            if has_begun(promotion, self.log) and not (earlier and has_begun(earlier, None)):
                begun.append(promotion)
            if promotion.applied_at and not (earlier and earlier.applied_at):
                applied.append(promotion)
        assert sum(each.state in IN_FLIGHT for each in now.promotions.values()) <= 1
        for promotion in begun:
            self.check_was_allowed(promotion, before.people, now.people)
            if "tag" not in acts and promotion.kind is Kind.PROMOTION and promotion.policy.checks:
                tags = self.court.tags(self.model, promotion.to_version)
                assert acts & {"delete", "recreate"} or tags["risk"] in {"low", "high"}, tags
        for promotion in applied:
            if not acts & {"overwrite", "delete", "recreate"}:
                assert promotion.digest == digest_of(self.folder(int(promotion.to_version)))
        if applied and not acts & {"move", "delete", "recreate"}:
            self.disturbed = False
        await self.check_holder(now)

    def check_told(self, promotion: Promotion) -> None:
        """The log tells how it came to the state that it is in, and every step is a legal one."""
        told = [each["details"]["state"] for each in self.log.of[promotion.id] if "state" in each["details"]]
        assert told[0] in {State.PENDING, State.APPROVED}
        for one, next_one in itertools.pairwise(map(State, told)):
            assert one is next_one or next_one in MOVES[one], told
        assert told[-1] == promotion.state, (told, promotion)

    @staticmethod
    def check_was_allowed(
        promotion: Promotion, before: Mapping[str, KnownPrincipal], now: Mapping[str, KnownPrincipal]
    ) -> None:
        """Different people who may have said yes to it, in its last round: one for each place of each rule."""
        yes, no = (
            {
                each.principal_id: each
                for each in promotion.decisions
                if each.round == promotion.round and each.outcome is outcome
            }
            for outcome in Outcome
        )
        places = [rule for rule in promotion.rules for _ in range(rule.count)]
        assert not no
        assert promotion.requested_by not in yes or promotion.kind is not Kind.PROMOTION

        def counts(who: str, rule: Any) -> bool:
            seen = [world[who] for world in (before, now) if who in world]
            if all(each.disabled_at for each in seen) and seen:
                return False
            groups = set().union(*(each.identity.groups for each in seen)) if seen else yes[who].groups
            return bool(rule.groups & groups) or (
                "approver" in rule.roles and bool({"approvers", "ml", "risk"} & groups)
            )

        assert any(
            all(counts(who, rule) for who, rule in zip(some, places, strict=True))
            for some in itertools.permutations(yes, len(places))
        ), (promotion.id, promotion.kind, yes, places)

    async def check_holder(self, now: World) -> None:
        """MLflow, ledger and history tell of the same holder, unless somebody went past the gateway."""
        async with self.court.database.unit_of_work() as work:
            ledger = await work.aliases.get(self.key)
            past = await work.history.page(self.key, limit=500)
            previous = await work.history.last(replace(self.key, alias="previous"))
        assert [each.since for each in past] == sorted((each.since for each in past), reverse=True)
        applied = [
            (entry["sequence"], each)
            for each in now.promotions.values()
            for entry in self.log.of[each.id]
            if entry["action"] == "promotion.applied"
        ]
        last = max(applied, default=(0, None), key=lambda each: each[0])[1]
        assert (ledger.promotion_id if ledger else None) == (last.id if last else None)
        if self.disturbed or any(each.state is State.APPLYING for each in now.promotions.values()):
            return
        holder = last.to_version if last else None
        assert self.court.mlflow.holder(self.model) == holder
        assert (past[0].version if past else None) == holder
        if last:
            assert self.court.tags(self.model, last.to_version)["stage"] == "live"
        if last and last.kind is not Kind.RESTORE and last.from_version not in {None, last.to_version}:
            assert previous is not None
            assert self.court.mlflow.holder(self.model, "previous") == previous.version == last.from_version

    def told(self) -> str:
        """What the log says, for who looks for the reason of a failure."""
        entries = sorted(
            (entry for promotion in self.before.promotions for entry in self.log.of[promotion]),
            key=lambda each: each["sequence"],
        )
        return "\n".join(
            f"{each['object']} {each['actor']['name']} {each['action']} "
            f"{each['details'].get('from_version')}→{each['details'].get('to_version')} "
            f"{each['details'].get('reason', '')}"
            for each in entries
        )

    async def end(self) -> None:
        """When the workers are left alone, nothing is half done."""
        for _ in range(2):
            for each in [*self.before.promotions.values()]:
                await self.court.worker.advancing.advance(each.id)
            await self.check({"work"})
        assert not [each for each in self.before.promotions.values() if each.state is State.APPLYING]


def has_begun(promotion: Promotion, log: Log | None) -> bool:
    """Whether its alias was to be moved."""
    if log is None:
        return promotion.state not in {State.PENDING, State.APPROVED}
    return any(entry["action"] == "promotion.applying" for entry in log.of[promotion.id])


def digest_of(folder: Path) -> str:
    files = [each for each in folder.rglob("*") if each.is_file()]
    return measured(
        FileDigest(str(each.relative_to(folder)), len(content), hashlib.sha256(content).hexdigest())
        for each in files
        for content in [each.read_bytes()]
    ).digest


Teller = Callable[[int, Sequence[Sequence[Act]]], Awaitable[None]]
"""Has a story of a new model happen, under one of ``POLICIES``, moment by moment."""


@pytest.fixture(scope="module")
async def tell(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Teller]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court, open_worker(court.settings, court.clock) as others:
            log = Log(court)

            async def told(policy: int, moments: Sequence[Sequence[Act]]) -> None:
                story = Story(court, others, log, court.model(versions=3))
                await story.revise(policy, 0)
                await story.begin()
                try:
                    for moment in moments:
                        await story.happen(moment)
                    await story.end()
                except BaseException as error:
                    error.add_note(f"policy={policy}, moments={moments}")
                    error.add_note(story.told())
                    raise

            yield told


REQUEST: Act = ("ask", 0, 0)
APPLIED: Sequence[Sequence[Act]] = ([REQUEST], [("approve", 2, 0)], [("work", 0, 0)])
SECOND: Sequence[Sequence[Act]] = ([("ask", 0, 1)], [("approve", 2, 0)])


@settings(
    max_examples=STORIES or 2,
    derandomize=not STORIES,
    phases=[Phase.explicit, Phase.generate],  # a story takes a second: to shorten one would take an hour
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(policy=st.integers(0, len(POLICIES) - 1), moments=st.lists(MOMENTS, min_size=1, max_size=16 if STORIES else 8))
@example(policy=0, moments=[[REQUEST], [("approve", 2, 0), ("withdraw", 0, 0), ("reject", 3, 0)], [("work", 0, 0)]])
@example(policy=3, moments=[[("ask", 0, 0), ("ask", 0, 1), ("ask", 0, 2)], [("work_all", 0, 0), ("work_all", 1, 0)]])
@example(
    policy=0,
    moments=[
        *[*APPLIED, *SECOND, [("work", 0, 0), ("work", 1, 0)], [("ask", 0, 2)], [("roll_back", 2, 0)]],
        [("approve", 2, 2), ("work", 0, 0), ("work", 1, 1), ("work", 0, 1)],
    ],
)
@example(policy=0, moments=[*APPLIED, *SECOND, [("crash", 2, 0)], [("roll_back", 2, 0), ("break_glass", 0, 2)]])
async def test_every_story_has_one_legal_history(tell: Teller, policy: int, moments: Sequence[Sequence[Act]]) -> None:
    await tell(policy, moments)
