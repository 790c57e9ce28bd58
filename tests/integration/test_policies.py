"""Policies written, refused, kept revision by revision and retired, on real PostgreSQL; by YAML and by API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.adapters.clock import SystemClock
from app.adapters.postgres.unit_of_work import Database
from app.adapters.strict_yaml import load_documents
from app.cli import cli
from app.domain.access import Principal, Role
from app.domain.differences import Difference
from app.domain.errors import Forbidden, InsufficientScope, InvalidInput, NotFound, PreconditionFailed
from app.domain.grants import Grant, Reach, Subject
from app.domain.identity import Scope
from app.domain.policies import policy_from_document
from app.services.configuration import Configuration
from app.services.policies import Policies, PolicyOutcome
from tests.configuring import configuration_of, policies_of
from tests.conftest import database_of
from tests.platform import Countersign
from tests.principals import principal

ROOT = principal("root", Role.ADMINISTRATOR)
RULES = [{"name": "one", "roles": ["approver"]}]
POLICY = {"kind": "Policy", "name": "p", "models": "*", "alias": "canary", "approvals": RULES}


def one_model(name: str) -> Principal:
    """Somebody who may read one model and nothing else."""
    return principal(
        "ann", grants=[Grant("g", Role.VIEWER, Subject(group="*"), Reach(model=name, workspace="default"))]
    )


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
def policies(database: Database) -> Policies:
    return policies_of(database)


@pytest.fixture
def configuration(database: Database) -> Configuration:
    return configuration_of(database)


@pytest.fixture(scope="module")
async def empty(postgres: Callable[[str], str], template_database: str) -> AsyncIterator[Database]:
    """A database for what is refused, so that nothing is ever in it."""
    with database_of(postgres, template_database) as url:
        database = Database(url)
        yield database
        await database.close()


@pytest.fixture
def untouched(empty: Database) -> Policies:
    return policies_of(empty)


@pytest.fixture
def nothing(empty: Database) -> Configuration:
    return configuration_of(empty)


async def entries(database: Database) -> list[Mapping[str, Any]]:
    async with database.unit_of_work() as work:
        return [entry.document for entry in await work.audit.page()]


async def put(policies: Policies, name: str = "p", **change: object) -> int:
    written = await policies.put(ROOT, name, {**POLICY, "name": name, **change})
    return written.revision.number


# Revisions.


async def test_every_change_is_a_revision_that_is_kept_and_recorded(policies: Policies, database: Database) -> None:
    made = await policies.put(ROOT, "p", POLICY)
    assert (made.outcome, made.revision.number, made.revision.created_by) == (PolicyOutcome.CREATED, 1, ROOT.id)
    same = await policies.put(ROOT, "p", {**POLICY, "expiry": {"after": "14d"}})
    assert (same.outcome, same.revision.number) == (PolicyOutcome.UNCHANGED, 1)
    changed = await policies.put(ROOT, "p", {**POLICY, "rejection": "majority"})
    assert (changed.outcome, changed.revision.number) == (PolicyOutcome.REVISED, 2)
    assert changed.change.differences == (Difference("rejection", None, "majority"),)
    found = await policies.revisions(ROOT, "p", limit=10)
    assert [revision.number for revision in found.items] == [2, 1]
    first = await policies.revision(ROOT, "p", 1)
    assert first.document["rejection"] == "any"
    assert [(entry["action"], entry["object"], entry["actor"]["id"]) for entry in await entries(database)] == [
        ("policy.revised", "p/1", ROOT.id),
        ("policy.revised", "p/2", ROOT.id),
    ]


async def test_revisions_come_in_pages_newest_first(policies: Policies) -> None:
    for after in ("1d", "2d", "3d"):
        await put(policies, expiry={"after": after})
    first = await policies.revisions(ROOT, "p", limit=2)
    assert ([each.number for each in first.items], first.last) == ([3, 2], 2)
    rest = await policies.revisions(ROOT, "p", before=first.last, limit=2)
    assert ([each.number for each in rest.items], rest.last) == ([1], None)
    with pytest.raises(NotFound):
        await policies.revision(ROOT, "p", 4)


async def test_a_dry_run_says_what_would_be_and_changes_nothing(policies: Policies, database: Database) -> None:
    planned = await policies.put(ROOT, "p", POLICY, dry_run=True)
    assert (planned.outcome, planned.revision.number) == (PolicyOutcome.CREATED, 1)
    with pytest.raises(NotFound):
        await policies.get(ROOT, "p")
    assert await entries(database) == []


async def test_a_retired_policy_protects_nothing_and_stays_readable(policies: Policies, database: Database) -> None:
    await put(policies)
    await policies.retire(ROOT, "p")
    assert await policies.listed(ROOT) == []
    assert not (await policies.chosen(ROOT, "m", "canary")).policy
    for gone in (policies.get(ROOT, "p"), policies.retire(ROOT, "p")):
        with pytest.raises(NotFound):
            await gone
    assert [each.is_retired for each in (await policies.revisions(ROOT, "p", limit=9)).items] == [True, False]
    assert await put(policies) == 3
    assert [entry["action"] for entry in await entries(database)][1] == "policy.retired"


async def test_what_protects_from_the_start_does_not_come_back_once_it_is_retired(policies: Policies) -> None:
    await policies.ensure_default()
    await policies.ensure_default()
    assert (await policies.get(ROOT, "production")).number == 1
    await policies.retire(ROOT, "production")
    await policies.ensure_default()
    assert await policies.listed(ROOT) == []


async def test_who_read_an_older_revision_changes_nothing(policies: Policies) -> None:
    await put(policies)
    with pytest.raises(PreconditionFailed):
        await policies.put(ROOT, "p", POLICY, if_none_match=True)
    changed = {**POLICY, "drift": "restore"}
    assert (await policies.put(ROOT, "p", changed, if_match='"1"')).revision.number == 2
    with pytest.raises(PreconditionFailed):
        await policies.put(ROOT, "p", POLICY, if_match='"1"')
    with pytest.raises(PreconditionFailed):
        await policies.retire(ROOT, "p", if_match='"1"')
    with pytest.raises(PreconditionFailed):
        await policies.put(ROOT, "new", {**POLICY, "name": "new"}, if_match="*")
    assert (await policies.get(ROOT, "p")).number == 2


async def test_of_two_halves_of_a_circle_at_once_one_is_refused(policies: Policies) -> None:
    outcomes = await asyncio.gather(
        put(policies, "a", alias="x", after=["y"]), put(policies, "b", alias="y", after=["x"]), return_exceptions=True
    )
    assert sorted(type(outcome) for outcome in outcomes if not isinstance(outcome, int)) == [InvalidInput]
    assert len(await policies.listed(ROOT)) == 1


async def test_changes_at_once_are_numbered_one_after_the_other(policies: Policies) -> None:
    numbers = await asyncio.gather(*(put(policies, expiry={"after": f"{days}d"}) for days in range(2, 6)))
    assert sorted(numbers) == [1, 2, 3, 4]


# Who.


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.ADMINISTRATOR])
async def test_who_does_not_administer_changes_no_policy(untouched: Policies, role: Role) -> None:
    caller = principal("caller", role)
    for attempt in (untouched.put(caller, "p", POLICY), untouched.retire(caller, "p")):
        with pytest.raises(Forbidden):
            await attempt


async def test_an_administrators_token_without_the_scope_changes_no_policy(untouched: Policies) -> None:
    narrow = principal("root", Role.ADMINISTRATOR, scopes=set(Scope) - {Scope.ADMIN})
    with pytest.raises(InsufficientScope):
        await untouched.put(narrow, "p", POLICY)


async def test_policies_of_one_model_are_for_who_may_read_it(policies: Policies) -> None:
    for name in ("seen", "hidden"):
        await put(policies, name, models=name)
    await put(policies, "all", alias="other")
    await put(policies, "elsewhere", models="seen", workspaces="another")
    await put(policies, "moved", models="hidden", alias="x")
    await put(policies, "moved", models="seen*", alias="x")
    ann = one_model("seen")
    assert [each.name for each in await policies.listed(ann)] == ["all", "moved", "seen"]
    assert [each.number for each in (await policies.revisions(ann, "moved", limit=9)).items] == [2]
    assert (await policies.chosen(ann, "seen", "canary")).policy
    for hidden in (
        policies.get(ann, "hidden"),
        policies.revisions(ann, "hidden", limit=1),
        policies.revision(ann, "moved", 1),
        policies.chosen(ann, "hidden", "canary"),
        policies.chosen(ann, "missing", "canary"),
        policies.chosen(ann, "seen", "canary", workspace="another"),
    ):
        with pytest.raises(NotFound):
            await hidden


# What is refused.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checks": [{"name": "c", "expression": "candidate.metrics.accuracy >="}]}, "checks[0].expression"),
        ({"checks": [{"name": "c", "expression": "candidate.nothing == 1"}]}, "checks[0].expression"),
        ({"checks": [{"name": "c", "expression": "1 == 1"}]}, "no fact"),
        ({"checks": [{"name": "c", "expression": "1 == 2"}]}, "never so"),
        ({"checks": [{"name": "c", "expression": "candidate.tags.risk == 'low' && 1 == 2"}]}, "never so"),
        (
            {
                "windows": [
                    {
                        "name": "w",
                        "effect": "deny",
                        "rule": "FREQ=WEEKLY;BYDAY=FR",
                        "starts": "2026-01-02T18:00",
                        "duration": "62h",
                        "timezone": "Europe/Atlantis",
                    }
                ]
            },
            "windows[0].timezone",
        ),
        ({"targets": ["none"]}, "targets[0]: there is no target none"),
        ({"after": ["canary"]}, "after[0]: nobody could satisfy it"),
        ({"companions": {"previous": "Canary"}}, "companions.previous"),
        ({"approvals": [{"name": "two", "count": 2, "people": ["i|x"]}]}, "approvals[0].count"),
        ({"models": "a\x00b"}, "models"),
        ({"tags": {"a": "\ud800"}}, "tags.a"),
        ({"kind": "Target"}, "name"),
        ({"name": "q"}, "name"),
        ({"retired": True}, "retired"),
    ],
)
async def test_what_could_never_be_satisfied_is_refused_with_the_reason(
    untouched: Policies, change: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await untouched.put(ROOT, "p", {**POLICY, **change})
    assert said in refused.value.message
    assert await untouched.listed(ROOT) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: Polic", "f, line 1, column 1: kind: expected Policy, Target, Endpoint or Grant"),
        ("- a", "f, line 1, column 1: expected an object with"),
        ("kind: Policy\nname: p\nmodels: m\nalias: a", "f, line 1, column 1: approvals: expected at least one"),
        ("kind: Policy\nname: p\nmodels: m\nalias: a\napprovals: [{name: r, roles: [king]}]", "f, line 5, column 31: "),
        ("kind: Policy\nname: p\nmodels: m\nalias: a\nretired: true", ""),
        ("kind: Target\nname: t\nurl: ftp://x\nsecretEnv: A\ncallbackSecretEnv: B", "f, line 3, column 1: url"),
        ('kind: Target\nname: "t\\0"\nurl: http://x', "f, line 2, column 1: name"),
        ("kind: Grant\nname: g\nrole: king\nsubject: {group: x}", "f, line 3, column 1: role"),
        ("kind: Grant\nname: g\nrole: viewer\nsubject: {group: x, person: y}", "f, line 4, column 1: subject"),
    ],
)
async def test_what_is_wrong_in_a_document_is_said_with_its_place(nothing: Configuration, text: str, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await nothing.apply(load_documents(text, file="f"))
    assert refused.value.message.startswith(said)
    assert len(refused.value.message.splitlines()) == 1


FILE = """\
kind: Policy
name: production
models: "*"
alias: production
approvals: [{name: risk, count: 2, people: ["i|ann"]}]
checks:
  - name: accurate
    expression: candidate.metrics.accuracy >= 0.9
  - name: broken
    expression: "candidate.nothing >"
---
kind: Policy
name: staging
models: "*"
alias: staging
autoApprove: true
after: [canary]
targets: [none]
---
kind: Policy
name: canary
models: "fraud-*"
alias: canary
approvals: [{name: one, roles: [approver]}]
after: [staging]
"""


async def test_everything_that_is_wrong_in_a_file_is_said_at_once_with_its_line(
    configuration: Configuration, policies: Policies
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await configuration.apply(load_documents(FILE, file="p.yaml"))
    lines = refused.value.message.splitlines()
    for line, (place, part) in zip(
        lines,
        [
            ("p.yaml, line 5, column 26: approvals[0].count: ", "2 people are needed, and 1 named"),
            ("p.yaml, line 10, column 5: checks[1].expression: ", ""),
            ("p.yaml, line 18, column 11: targets[0]: ", "there is no target none"),
            ("p.yaml, line 17, column 9: after[0]: ", "staging → canary → staging"),
            ("p.yaml, line 25, column 9: after[0]: ", "canary → staging → canary"),
        ],
        strict=True,
    ):
        assert line.startswith(place)
        assert part in line
    assert await policies.listed(ROOT) == []


async def test_a_window_that_is_over_does_not_refuse_a_file_that_changes_nothing(
    configuration: Configuration, database: Database
) -> None:
    over = {
        "name": "w",
        "effect": "deny",
        "rule": "FREQ=DAILY;COUNT=3",
        "starts": "2020-01-01T00:00",
        "duration": "1h",
        "timezone": "UTC",
    }
    with pytest.raises(InvalidInput, match="it is over"):
        await configuration.apply([{**POLICY, "windows": [over]}])
    async with database.unit_of_work() as work:
        in_force = policy_from_document({**POLICY, "windows": [over]}, revision=0)
        await work.policies.add(in_force, at=SystemClock().now(), by="operator")
        await work.commit()
    [unchanged] = await configuration.apply([{**POLICY, "windows": [over]}])
    assert unchanged.action == "unchanged (revision 1)"


async def test_a_file_retires_a_policy_in_so_many_words(configuration: Configuration, policies: Policies) -> None:
    retirement = {"kind": "Policy", "name": "p", "retired": True}
    with pytest.raises(InvalidInput, match="never was"):
        await configuration.apply([retirement])
    await configuration.apply([POLICY])
    await configuration.apply([], prune=True, force=True)
    assert len(await policies.listed(ROOT)) == 1
    [ended] = await configuration.apply([retirement])
    assert (ended.action, ended.after) == ("retired", None)
    assert ended.before
    [again] = await configuration.apply([retirement])
    assert (again.action, again.changes) == ("retired already (revision 2)", False)


@pytest.mark.parametrize("name", ["for", "a/b", "a\x00", "a\n"])
async def test_a_name_that_is_none_is_refused_before_it_is_looked_for(untouched: Policies, name: str) -> None:
    document = {**POLICY, "name": name}
    for attempt in (
        untouched.put(ROOT, name, document),
        untouched.retire(ROOT, name),
        untouched.get(ROOT, name),
        untouched.revision(ROOT, name, 1),
    ):
        with pytest.raises(InvalidInput):
            await attempt


# By HTTP, and on the operator's terminal.


def test_policies_are_written_read_and_retired_over_the_api(service: Countersign, model_name: str) -> None:
    address = f"/policies/{model_name}"
    document = {"models": model_name, "alias": "canary", "approvals": RULES}
    tried = service.call("administrator", "PUT", address, json=document, params={"dry_run": "true"})
    assert (tried.status_code, tried.json()["outcome"], tried.json()["dry_run"]) == (200, "created", True)
    assert service.call("administrator", "GET", address).status_code == 404
    made = service.call("administrator", "PUT", address, json=document)
    assert (made.status_code, made.headers["etag"]) == (201, '"1"')
    assert service.call("administrator", "PUT", address, json=document).json()["outcome"] == "unchanged"
    changed = service.call(
        "administrator", "PUT", address, json={**document, "drift": "restore"}, headers={"If-Match": '"1"'}
    )
    assert changed.json()["differences"] == [{"path": "drift", "before": None, "after": "restore"}]
    stale = service.call("administrator", "PUT", address, json=document, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    assert service.call("scientist", "PUT", address, json=document).status_code == 403
    read = service.call("viewer", "GET", address)
    assert (read.json()["revision"], read.headers["etag"]) == (2, '"2"')
    page = service.call("viewer", "GET", f"{address}/revisions", params={"limit": "1"}).json()
    rest = service.call("viewer", "GET", f"{address}/revisions", params={"cursor": page["next_cursor"]}).json()
    assert ([each["revision"] for each in page["items"] + rest["items"]], rest["next_cursor"]) == ([2, 1], None)
    assert service.call("viewer", "GET", f"{address}/revisions/1").json()["document"]["drift"] == "report"
    about = {"model": model_name, "alias": "CANARY"}
    chosen = service.call("viewer", "GET", "/policies/for", params=about).json()
    assert (chosen["protected"], chosen["policy"]) == (True, {"name": model_name, "revision": 2})
    assert service.call("administrator", "DELETE", address).status_code == 204
    assert service.call("viewer", "GET", "/policies/for", params=about).json()["protected"] is False
    wrong = service.call("administrator", "PUT", address, json={**document, "alias": 7, "models": "a/b", "x": 1})
    assert wrong.status_code == 400
    assert {each["field"] for each in wrong.json()["errors"]} == {"alias", "x"}


def test_an_operator_reads_policies_that_can_be_applied_again(database_url: str, tmp_path: Path) -> None:
    def run(*words: str) -> Result:
        return CliRunner(env={"COUNTERSIGN_DATABASE_URL": database_url}).invoke(cli, words)

    file = tmp_path / "p.yaml"
    file.write_text("{kind: Policy, name: p, models: '*', alias: canary, approvals: [{name: one, roles: [approver]}]}")
    assert run("apply", "-f", str(file), "--dry-run", "--exit-code").exit_code == 3
    assert run("apply", "-f", str(file)).stdout.startswith("policy p: created")
    shown = run("policies", "show", "p", "--revision", "1").stdout
    assert "# revision 1" in shown
    file.write_text(shown)
    assert run("apply", "-f", str(file)).stdout == "policy p: unchanged (revision 1)\n"
    assert run("policies").stdout == "p  revision 1  canary of *  by operator\n"
    file.write_text("{kind: Policy, name: p, retired: true}")
    assert run("apply", "-f", str(file)).stdout.startswith("policy p: retired")
    assert "(retired)" in run("policies").stdout
    assert json.loads(run("policies", "show", "p", "--json").stdout)["retired"]
    refused = run("policies", "show", "none")
    assert isinstance(refused.exception, NotFound)
