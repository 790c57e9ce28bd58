"""Grants given and taken away: by whom, on what condition, and what is recorded, on real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.adapters.clock import SystemClock
from app.adapters.postgres.unit_of_work import Database
from app.cli import cli
from app.domain.access import Permission, Principal, Role
from app.domain.errors import (
    CountersignError,
    Forbidden,
    InsufficientScope,
    InvalidConfiguration,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    PreconditionFailed,
    SelfGrant,
    WouldLockOut,
)
from app.domain.grants import Grant, Subject, grants_of_roles, model
from app.domain.identity import Credential, CredentialKind, Scope, Verified
from app.services.configuration import Configuration
from app.services.explaining import Explaining, Question
from app.services.granting import GrantBook
from app.services.grants import GrantFilter, Grants
from app.services.principals import Principals
from tests.configuring import configuration_of, policies_of
from tests.principals import principal

SETTINGS = grants_of_roles(
    {
        Role.ADMINISTRATOR: ["ops"],
        Role.CONTRIBUTOR: ["scientists"],
        Role.AUDITOR: ["auditors"],
        Role.APPROVER: ["leads"],
    }
)


def who(subject: str, *groups: str, scopes: set[Scope] | None = None, grants: tuple[Grant, ...] = ()) -> Principal:
    return principal(subject, groups=groups, grants=[*SETTINGS, *grants], scopes=scopes)


ROOT = who("root", "ops")
SECOND = who("second", "ops")
ANN = who("ann", "scientists")
AUDITOR = who("audit", "auditors")
NOBODY = who("nobody")


def document(name: str = "g", role: str = "viewer", **fields: object) -> dict[str, object]:
    return {"name": name, "role": role, "subject": {"group": "guests"}, **fields}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


async def experiment_of(workspace: str, name: str) -> str | None:
    return {("default", "churn"): "7"}.get((workspace, name))


@pytest.fixture
def grants(database: Database) -> Grants:
    return Grants(database.unit_of_work, SystemClock(), settings=SETTINGS, experiment_of=experiment_of)


@pytest.fixture
def configuration(database: Database) -> Configuration:
    return configuration_of(database, SETTINGS)


async def entries(database: Database) -> list[Mapping[str, Any]]:
    async with database.unit_of_work() as work:
        return [entry.document for entry in await work.audit.page()]


async def own(database: Database, kind: str, name: str, owner: Principal) -> None:
    async with database.unit_of_work() as work:
        await work.owners.put(kind, "default", name, owner.id, at=SystemClock().now())
        await work.commit()


# Administrators.


async def test_a_grant_is_made_changed_and_removed_and_each_is_recorded(grants: Grants, database: Database) -> None:
    made, is_new = await grants.put(ROOT, document())
    assert is_new
    assert (made.revision, made.updated_by) == (1, ROOT.id)
    again, is_new = await grants.put(ROOT, document())
    assert (is_new, again.revision) == (False, 1)
    changed, is_new = await grants.put(ROOT, document(role="contributor"))
    assert (is_new, changed.revision) == (False, 2)
    assert (await grants.get(AUDITOR, "g")).grant.role is Role.CONTRIBUTOR
    await grants.remove(ROOT, "g")
    with pytest.raises(NotFound):
        await grants.get(ROOT, "g")
    recorded = await entries(database)
    assert [entry["action"] for entry in recorded] == ["grant.created", "grant.changed", "grant.removed"]
    assert recorded[1]["details"]["before"]["role"] == "viewer"
    assert recorded[1]["details"]["after"]["role"] == "contributor"
    assert {entry["actor"]["id"] for entry in recorded} == {ROOT.id}


@pytest.mark.parametrize("caller", [ANN, AUDITOR, NOBODY, who("lead", "leads")])
async def test_who_does_not_administer_changes_nothing(grants: Grants, database: Database, caller: Principal) -> None:
    await grants.put(ROOT, document())
    for change in (document("new"), document(role="contributor"), document("h", on={"model": "iris"})):
        with pytest.raises(Forbidden):
            await grants.put(caller, change)
    with pytest.raises(Forbidden if caller is AUDITOR else NotFound):
        await grants.remove(caller, "g")
    assert len(await entries(database)) == 1


@pytest.mark.parametrize("scopes", [set(), {Scope.APPROVE}, set(Scope) - {Scope.ADMIN}])
async def test_an_administrators_token_without_the_scope_changes_nothing(grants: Grants, scopes: set[Scope]) -> None:
    await grants.put(ROOT, document())
    narrow = who("root", "ops", scopes=scopes)
    with pytest.raises(InsufficientScope):
        await grants.put(narrow, document("new"))
    with pytest.raises((InsufficientScope, NotFound)):
        await grants.remove(narrow, "g")


async def test_what_the_gateway_remembers_of_an_administrator_is_not_believed(grants: Grants) -> None:
    believed = who("late", grants=(Grant("old", Role.ADMINISTRATOR, Subject(group="*")),))
    with pytest.raises(Forbidden):
        await grants.put(believed, document())


async def test_the_operators_grants_are_shown_and_changed_by_nobody_from_inside(grants: Grants) -> None:
    listed = await grants.page(AUDITOR, GrantFilter(), after="", limit=100)
    names = [each.grant.name for each in listed]
    assert names == sorted(names)
    assert {each.origin for each in listed} == {"settings"}
    with pytest.raises(Forbidden):
        await grants.remove(ROOT, names[0])
    with pytest.raises(InvalidInput):
        await grants.put(ROOT, document(names[0]))


async def test_nobody_gives_themselves_what_administering_is_not(grants: Grants, database: Database) -> None:
    root = principal("root", groups={"ops"}, claims={"team": ("ml",)}, grants=SETTINGS)
    subjects: list[dict[str, object]] = [
        {"person": ROOT.id},
        {"group": "ops"},
        {"group": "*"},
        {"issuer": ROOT.issuer, "claims": {"team": "ml*"}},
    ]
    for subject in subjects:
        for role in ("approver", "requester"):
            with pytest.raises(SelfGrant):
                await grants.put(root, document(role=role, subject=subject))
    assert await entries(database) == []
    await grants.put(root, document(role="contributor", subject={"group": "ops"}))
    with pytest.raises(SelfGrant):  # nor by a detour
        await grants.put(root, document(role="requester", subject={"group": "ops"}))


async def test_a_token_that_says_less_of_an_administrator_does_not_help_them(
    grants: Grants, database: Database
) -> None:
    signed_in = principal("root", groups={"ops", "leads-to-be"}, grants=SETTINGS)
    async with database.unit_of_work() as work:
        await work.principals.vouch(signed_in.identity, at=SystemClock().now())
        await work.commit()
    with pytest.raises(SelfGrant):
        await grants.put(ROOT, document(role="approver", subject={"group": "leads-to-be"}))


async def test_another_administrator_gives_it(grants: Grants) -> None:
    made, _ = await grants.put(SECOND, document(role="approver", subject={"person": ROOT.id}))
    assert made.grant.subject.person == ROOT.id


async def test_nobody_takes_back_the_denial_that_keeps_themselves_from_approving(
    grants: Grants, configuration: Configuration
) -> None:
    denial = {"kind": "Grant", **document(role="approver", subject={"group": "ops"}, effect="deny")}
    await configuration.apply([denial])
    with pytest.raises(SelfGrant):
        await grants.remove(ROOT, "g")
    with pytest.raises(SelfGrant):
        await grants.put(ROOT, {**denial, "on": {"model": "iris"}})


@pytest.mark.parametrize(
    "locks_out",
    [
        document(role="administrator", subject={"group": "ops"}, effect="deny"),
        document(role="administrator", subject={"group": "*"}, effect="deny"),
        document(role="viewer", subject={"person": ROOT.id}, effect="deny"),
        document(role="viewer", subject={"group": "*"}, effect="deny"),
    ],
)
async def test_an_administrator_cannot_lock_themselves_out(grants: Grants, locks_out: dict[str, object]) -> None:
    with pytest.raises(WouldLockOut):
        await grants.put(ROOT, locks_out)


async def test_the_last_administrator_stays_though_two_remove_each_other_at_once(database: Database) -> None:
    grants = Grants(database.unit_of_work, SystemClock())
    both = [Grant(f"admin-{name}", Role.ADMINISTRATOR, Subject(person=principal(name).id)) for name in ("a", "b")]
    documents: list[object] = [
        {"kind": "Grant", "name": g.name, "role": "administrator", "subject": {"person": g.subject.person}}
        for g in both
    ]
    await configuration_of(database).apply(documents)
    a, b = principal("a", grants=both), principal("b", grants=both)
    outcomes = await asyncio.gather(grants.remove(a, "admin-b"), grants.remove(b, "admin-a"), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Forbidden", "NoneType"]
    assert not await grants.nobody_administers()
    [left] = await grants.page(a if outcomes[0] is None else b, GrantFilter(), after="", limit=10)
    with pytest.raises(WouldLockOut):
        await grants.remove(a if outcomes[0] is None else b, left.grant.name)


# Conditions.


async def test_of_two_who_change_the_same_revision_one_is_told(grants: Grants) -> None:
    made, _ = await grants.put(ROOT, document())
    assert made.stored
    etag = made.stored.etag
    outcomes = await asyncio.gather(
        grants.put(ROOT, document(role="contributor"), if_match=etag),
        grants.put(SECOND, document(role="deployer"), if_match=etag),
        return_exceptions=True,
    )
    assert [isinstance(outcome, PreconditionFailed) for outcome in outcomes].count(True) == 1
    assert (await grants.get(ROOT, "g")).revision == 2


async def test_of_two_who_make_the_same_grant_one_is_told(grants: Grants) -> None:
    outcomes = await asyncio.gather(
        grants.put(ROOT, document(), if_none_match=True),
        grants.put(SECOND, document(role="contributor"), if_none_match=True),
        return_exceptions=True,
    )
    assert [isinstance(outcome, PreconditionFailed) for outcome in outcomes].count(True) == 1


async def test_a_grant_that_was_removed_and_made_again_is_another(grants: Grants) -> None:
    made, _ = await grants.put(ROOT, document())
    assert made.stored
    await grants.remove(ROOT, "g", if_match=made.stored.etag)
    await grants.put(ROOT, document())
    with pytest.raises(PreconditionFailed):
        await grants.remove(ROOT, "g", if_match=made.stored.etag)
    with pytest.raises(PreconditionFailed):
        await grants.put(ROOT, document("h"), if_match="*")
    await grants.remove(ROOT, "g", if_match="*")


# Owners.


async def test_who_owns_a_model_shares_exactly_that_one(grants: Grants, database: Database) -> None:
    await own(database, "model", "iris", ANN)
    shared, _ = await grants.put(ANN, document(on={"model": "iris"}))
    assert shared.grant.on.workspace == "default"  # the one that is owned, and none of that name elsewhere
    assert (await grants.get(ANN, "g")).grant == shared.grant
    assert [each.grant.name for each in await grants.page(ANN, GrantFilter(), after="", limit=10)] == ["g"]
    await grants.put(ANN, document(role="requester", on={"model": "iris"}))
    with pytest.raises(NotFound):
        await grants.get(NOBODY, "g")
    with pytest.raises(NotFound):
        await grants.remove(who("bob", "scientists"), "g")
    await grants.remove(ANN, "g")


BEYOND = [
    document(on={"model": "other"}),
    document(on={"model": "iri*"}),
    document(on={"model": "iris", "workspace": "team-b"}),
    document(on={"model": "iris", "workspace": "*"}),
    document(on={"model": "iris", "alias": "production"}),
    document(on={"workspace": "default"}),
    document(on={"experiment": "iris"}),
    document(on={"alias": "production"}),
    document(),
    document(role="approver", on={"model": "iris"}),
    document(role="deployer", on={"model": "iris"}),
    document(role="serving", on={"model": "iris"}),
    document(role="administrator"),
    document(effect="deny", on={"model": "iris"}),
    document(role="requester", subject={"person": ANN.id}, on={"model": "iris"}),
    document(role="requester", subject={"group": "*"}, on={"model": "iris"}),
]


async def test_an_owner_gives_nothing_beyond_that(grants: Grants, database: Database) -> None:
    await own(database, "model", "iris", ANN)
    for beyond in BEYOND:
        with pytest.raises(Forbidden):
            await grants.put(ANN, beyond)
    assert await entries(database) == []


async def test_an_owner_does_not_change_what_others_wrote_for_more(grants: Grants, database: Database) -> None:
    await own(database, "model", "iris", ANN)
    await grants.put(ROOT, document(on={"model": "iris", "workspace": "default"}, effect="deny"))
    await grants.put(ROOT, document("wide", on={"model": "*"}))
    for name in ("g", "wide"):
        with pytest.raises(Forbidden):
            await grants.put(ANN, document(name, on={"model": "iris"}))
        with pytest.raises(NotFound):
            await grants.remove(ANN, name)


async def test_who_owns_an_experiment_shares_it_by_name(grants: Grants, database: Database) -> None:
    await own(database, "experiment", "7", ANN)
    await grants.put(ANN, document(on={"experiment": "churn"}))
    assert (await grants.get(ANN, "g")).grant.on.experiment == "churn"
    with pytest.raises(Forbidden):
        await grants.put(ANN, document("h", on={"experiment": "7"}))
    await grants.remove(ANN, "g")


async def test_an_owner_who_lost_the_model_or_contributes_no_more_shares_nothing(
    grants: Grants, database: Database
) -> None:
    await own(database, "model", "iris", ANN)
    await own(database, "model", "mine", NOBODY)
    with pytest.raises(Forbidden):
        await grants.put(NOBODY, document(on={"model": "mine"}))
    await own(database, "model", "iris", ROOT)
    with pytest.raises(Forbidden):
        await grants.put(ANN, document(on={"model": "iris"}))
    narrow = who("ann", "scientists", scopes={Scope.REGISTRY})
    await own(database, "model", "iris", ANN)
    with pytest.raises(InsufficientScope):
        await grants.put(narrow, document(on={"model": "iris"}))


# Lists.


async def test_a_list_is_filtered_and_paged_without_losing_any(grants: Grants, configuration: Configuration) -> None:
    written: list[object] = [
        {"kind": "Grant", **document(f"g-{n:03}", subject={"group": f"team-{n % 3}"}, on={"model": f"team-{n}-*"})}
        for n in range(25)
    ]
    await configuration.apply(written)
    seen: list[str] = []
    while page := await grants.page(ROOT, GrantFilter(role=Role.VIEWER), after=seen[-1] if seen else "", limit=7):
        seen += [each.grant.name for each in page]
    assert seen == [f"g-{n:03}" for n in range(25)]

    async def names(wanted: GrantFilter) -> list[str]:
        return [each.grant.name for each in await grants.page(ROOT, wanted, after="", limit=200)]

    assert len(await names(GrantFilter(group="team-1"))) == 8
    assert "g-007" in await names(GrantFilter(model="team-7-x"))
    assert "g-008" not in await names(GrantFilter(model="team-7-x"))
    assert not [name for name in await names(GrantFilter(experiment="e")) if name.startswith("g-")]
    assert await names(GrantFilter(person="https://x|y")) == []


# Applying.


GRANT = {"kind": "Grant", "name": "leads", "role": "approver", "subject": {"group": "leads"}, "on": {"alias": "prod"}}


async def test_applying_shows_what_was_and_what_is_and_again_changes_nothing(
    configuration: Configuration, database: Database
) -> None:
    [planned] = await configuration.apply([GRANT], dry_run=True)
    assert (planned.action, planned.before, planned.changes) == ("created", None, True)
    assert await entries(database) == []
    await configuration.apply([GRANT])
    [changed] = await configuration.apply([{**GRANT, "role": "viewer"}])
    assert changed.before
    assert changed.after
    assert (changed.before["role"], changed.after["role"]) == ("approver", "viewer")
    [same] = await configuration.apply([{**GRANT, "role": "viewer"}])
    assert (same.action, same.changes) == ("unchanged", False)
    assert [entry["action"] for entry in await entries(database)] == ["grant.created", "grant.changed"]


async def test_applying_is_all_or_nothing(configuration: Configuration, database: Database) -> None:
    broken: list[list[object]] = [
        [GRANT, {**GRANT, "name": "x", "role": "king"}],
        [GRANT, {**GRANT, "role": "viewer"}],
        [GRANT, {"kind": "Policy", "name": "p", "models": "*", "alias": "a", "targets": ["none"], "approvals": []}],
        [GRANT, 7],
        [{**GRANT, 7: "x", "y": "z"}],
    ]
    for documents in broken:
        with pytest.raises(InvalidInput):
            await configuration.apply(documents)
    assert await entries(database) == []


async def test_pruning_removes_what_is_not_named_and_never_the_settings(
    configuration: Configuration, grants: Grants
) -> None:
    await configuration.apply([GRANT, {**GRANT, "name": "old"}])
    changes = await configuration.apply([GRANT], prune=True)
    assert [(change.name, change.action) for change in changes] == [("leads", "unchanged"), ("old", "removed")]
    names = [each.grant.name for each in await grants.page(ROOT, GrantFilter(), after="", limit=100)]
    assert names == ["leads", *sorted(grant.name for grant in SETTINGS)]


async def test_applying_leaves_somebody_who_administers_unless_forced(database: Database) -> None:
    configuration = configuration_of(database)
    await configuration.apply([GRANT], prune=True)  # nobody administered before
    assert await Grants(database.unit_of_work, SystemClock()).nobody_administers()
    admin = {"kind": "Grant", "name": "admins", "role": "administrator", "subject": {"group": "ops"}}
    await configuration.apply([admin])
    denial = {**admin, "name": "no-admins", "effect": "deny"}
    with pytest.raises(WouldLockOut):
        await configuration.apply([denial])
    with pytest.raises(WouldLockOut):
        await configuration.apply([], prune=True)
    with_settings = configuration_of(database, SETTINGS)
    assert [change.action for change in await with_settings.apply([], prune=True)] == ["removed", "removed"]
    await configuration.apply([admin])
    await configuration.apply([], prune=True, force=True)


# Disabling.


async def test_who_is_disabled_is_not_let_in_and_changes_nothing(database: Database, grants: Grants) -> None:
    principals = Principals(database.unit_of_work, SystemClock())
    with pytest.raises(WouldLockOut):
        await principals.disable(ROOT, ROOT.id)
    with pytest.raises(InvalidInput):
        await principals.disable(ROOT, "nobody")
    with pytest.raises(Forbidden):
        await principals.disable(ANN, ROOT.id)
    disabled = await principals.disable(ROOT, SECOND.id, reason="left")
    assert disabled.disabled_by == ROOT.id
    with pytest.raises(Forbidden):
        await grants.put(SECOND, document())
    with pytest.raises(Forbidden):
        await principals.disable(SECOND, ROOT.id)
    book = GrantBook(database.unit_of_work, _Unknown(), SETTINGS)
    verified = Verified(SECOND.identity, Credential(CredentialKind.PROVIDER), 0)
    with pytest.raises(NotAuthenticated):
        (await book.current()).principal(verified)
    await principals.enable(ROOT, SECOND.id)
    assert (await book.current()).principal(verified).id == SECOND.id
    assert [entry["action"] for entry in await entries(database)] == ["principal.disabled", "principal.enabled"]


async def test_of_two_who_disable_each_other_at_once_one_stays(database: Database) -> None:
    principals = Principals(database.unit_of_work, SystemClock())
    outcomes = await asyncio.gather(
        principals.disable(ROOT, SECOND.id), principals.disable(SECOND, ROOT.id), return_exceptions=True
    )
    assert sorted(isinstance(outcome, CountersignError) for outcome in outcomes) == [False, True]


class _Unknown:
    """Nothing is known to be fresh, so that everything is read again."""

    def epoch(self) -> int | None:
        return None


# The book.


async def test_the_book_is_compiled_again_only_when_grants_changed(database: Database, grants: Grants) -> None:
    book = GrantBook(database.unit_of_work, _Unknown(), SETTINGS)
    first = (await book.current()).access_of(ANN.identity)
    assert (await book.current()).access_of(ANN.identity) is first
    await grants.put(ROOT, document(subject={"group": "scientists"}, role="auditor"))
    second = (await book.current()).access_of(ANN.identity)
    assert second.may(Permission.AUDIT_READ, model("m")) > first.may(Permission.AUDIT_READ, model("m"))
    await grants.remove(ROOT, "g")
    await grants.put(ROOT, document(subject={"group": "scientists"}))
    third = (await book.current()).access_of(ANN.identity)
    assert not third.may(Permission.AUDIT_READ, model("m"))


# Why.


async def test_why_is_answered_for_oneself_and_for_others_only_to_who_reads_grants(database: Database) -> None:
    explaining = Explaining(database.unit_of_work, SETTINGS)
    question = Question(permission=Permission.GRANTS_ADMINISTER)
    mine = await explaining.check(ANN, question)
    assert (mine.allowed, mine.explanation.who_could_change) == (False, ("group ops",))
    with pytest.raises(Forbidden):
        await explaining.check(ANN, question, principal_id=ROOT.id)
    unseen = await explaining.check(AUDITOR, question, principal_id=ROOT.id)
    assert (unseen.is_known, unseen.allowed) == (False, False)
    async with database.unit_of_work() as work:
        await work.principals.vouch(ROOT.identity, at=SystemClock().now())
        await work.commit()
    assert (await explaining.check(AUDITOR, question, principal_id=ROOT.id)).allowed


async def test_why_may_i_not_approve_says_what_the_policy_asks_for(database: Database) -> None:
    await policies_of(database).ensure_default()
    explaining = Explaining(database.unit_of_work, SETTINGS)
    question = Question(permission=Permission.PROMOTIONS_DECIDE, model="iris", alias="production")
    lead = await explaining.check(who("lead", "leads"), question)
    assert lead.allowed
    assert lead.decision
    ann = await explaining.check(ANN, question)
    assert not ann.allowed
    assert ann.explanation.would_be_granted_by == (Role.APPROVER,)
    assert "1 of role approver" in ann.reason
    by_role = await explaining.check(who("lead", "leads"), Question(role=Role.APPROVER, model="iris"))
    assert by_role.allowed
    limited = await explaining.check(who("lead", "leads", scopes={Scope.TRACK}), question)
    assert limited.explanation.missing_scopes == (Scope.APPROVE,)


async def test_the_owner_is_named_to_those_alone_who_may_read_the_model(database: Database) -> None:
    await own(database, "model", "iris", ANN)
    explaining = Explaining(database.unit_of_work, SETTINGS)
    question = Question(permission=Permission.REGISTRY_READ, model="iris")
    assert (await explaining.check(NOBODY, question)).explanation.who_could_change == ("group ops",)
    decide = Question(permission=Permission.PROMOTIONS_DECIDE, model="iris", alias="production")
    assert (await explaining.check(NOBODY, decide)).decision is None  # nor whether a policy names the model
    assert ANN.id in (await explaining.check(AUDITOR, question)).explanation.who_could_change[1]


async def test_a_question_about_nothing_is_refused(database: Database) -> None:
    for question, field in (
        (Question(), "permission"),
        (Question(permission=Permission.AUDIT_READ, role=Role.VIEWER), "permission"),
        (Question(permission=Permission.AUDIT_READ, alias="production"), "alias"),
        (Question(permission=Permission.AUDIT_READ, model="m", experiment="e"), "experiment"),
    ):
        with pytest.raises(InvalidInput) as refused:
            await Explaining(database.unit_of_work).check(ROOT, question)
        assert refused.value.details["field"] == field


# The command line.


def countersign(database_url: str, *command: str, **environment: str) -> Result:
    roles = json.dumps({"administrator": ["ops"]})
    given = {"COUNTERSIGN_DATABASE_URL": database_url, "COUNTERSIGN_ROLES": roles, **environment}
    return CliRunner().invoke(cli, command, env=given)


def test_the_operator_applies_several_files_and_sees_a_diff(database_url: str, tmp_path: Path) -> None:
    for name, role in (("a", "viewer"), ("b", "approver")):
        (tmp_path / f"{name}.yaml").write_text(
            f"kind: Grant\nname: {name}\nrole: {role}\nsubject: {{group: g}}\non: {{model: 'fraud-*'}}\n"
        )
    files = ["-f", str(tmp_path / "a.yaml"), "-f", str(tmp_path / "b.yaml")]
    planned = countersign(database_url, "apply", *files, "--dry-run", "--exit-code")
    assert planned.exit_code == 3
    assert "grant a: would be created\n" in planned.stdout
    assert "  +role: approver\n" in planned.stdout
    assert "\x1b" not in planned.stdout
    assert countersign(database_url, "apply", *files).exit_code == 0
    (tmp_path / "a.yaml").write_text("kind: Grant\nname: a\nrole: contributor\nsubject: {group: g}\n")
    pruned = countersign(database_url, "apply", "-f", str(tmp_path / "a.yaml"), "--prune")
    assert pruned.exit_code == 0, pruned.output
    for line in ("grant a: changed", "  -role: viewer", "  +role: contributor", "grant b: removed", "  -name: b"):
        assert line in pruned.stdout
    wrong = countersign(database_url, "apply", *files, COUNTERSIGN_ROLES="[]")
    assert isinstance(wrong.exception, InvalidConfiguration)


def test_the_operator_asks_why(database_url: str) -> None:
    ask = ("explain-access", "--group", "ops")
    allowed = countersign(database_url, *ask, "--permission", "grants:administer")
    assert allowed.exit_code == 0, allowed.output
    assert "settings:administrator:ops" in allowed.stdout
    denied = countersign(
        database_url, *ask, "--permission", "promotions:decide", "--model", "m", "--alias", "production", "--json"
    )
    assert denied.exit_code == 1, denied.output
    answer = json.loads(denied.stdout)
    assert answer["allowed"] is False
    assert answer["would_be_granted_by"] == ["approver"]
    listed = countersign(database_url, *ask)
    assert "audit:read" in listed.stdout
    assert countersign(database_url, "explain-access").exit_code == 2
