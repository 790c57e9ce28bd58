"""Who holds grants on some models only: what is not theirs is on our own API as if it did not exist."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.platform import Countersign, MlflowServer, until

NEVER = "prm_00000000000000000000000000"


@dataclass(frozen=True)
class Somebody:
    """A person of a group of their own, so that no other test's grants speak of them."""

    service: Countersign
    group: str

    @property
    def id(self) -> str:
        return f"{self.service.issuer.url}|{self.group}"

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        token = self.service.issuer.token(self.group, groups=[self.group])
        headers = {"Authorization": f"Bearer {token}"} | options.pop("headers", {})
        url = f"{self.service.url}/control/v1{path}"
        return httpx.request(method, url, headers=headers, timeout=60, trust_env=False, **options)

    def grants(self) -> set[str]:
        return {each["name"] for each in self.call("GET", "/me").json()["grants"]}

    def is_given(self, role: str, effect: str = "allow", **on: str) -> str:
        """A grant, as soon as it is in force."""
        name = f"{self.group}-{uuid.uuid4().hex[:8]}"
        body = {"role": role, "subject": {"group": self.group}, "on": on, "effect": effect}
        answer = self.service.call("administrator", "PUT", f"/grants/{name}", json=body)
        assert answer.status_code == 201, answer.text
        until(lambda: name in self.grants(), "the grant being in force")
        return name


@pytest.fixture
def somebody(service: Countersign) -> Somebody:
    return Somebody(service, f"g{uuid.uuid4().hex[:10]}")


@dataclass(frozen=True)
class Two:
    """One model that is seen, one that is not, and one that there is not."""

    seen: str
    hidden: str
    missing: str


@pytest.fixture(scope="module")
def two(mlflow_server: MlflowServer) -> Two:
    tag = uuid.uuid4().hex[:10]
    names = Two(f"seen-{tag}", f"hidden-{tag}", f"never-{tag}")
    mlflow_server.register(names.seen, versions=3)
    mlflow_server.register(names.hidden, versions=3)
    return names


@pytest.fixture
def database(service: Countersign) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(service.environment["COUNTERSIGN_DATABASE_URL"], autocommit=True) as connection:
        yield connection


def same(hidden: httpx.Response, missing: httpx.Response, *names: tuple[str, str]) -> bool:
    """Whether two answers are the same but for the names that the caller sent."""
    text = hidden.text
    for one, other in names:
        text = text.replace(one, other)
    told = ("content-type", "etag", "www-authenticate", "cache-control")
    return (hidden.status_code, text, [hidden.headers.get(each) for each in told]) == (
        missing.status_code,
        missing.text,
        [missing.headers.get(each) for each in told],
    )


# Promotions.


def test_a_list_holds_what_one_may_read_page_by_page_and_no_more(
    service: Countersign, two: Two, somebody: Somebody
) -> None:
    mine = []
    for version in ("1", "2", "3"):
        mine.append(service.ask(two.seen, version)["id"])
        service.ask(two.hidden, version)
    assert somebody.call("GET", "/promotions").status_code == 403
    somebody.is_given("viewer", model=two.seen)
    found, cursor = [], None
    while True:
        page = somebody.call("GET", "/promotions", params={"limit": 1} | ({"cursor": cursor} if cursor else {})).json()
        found += [item["id"] for item in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
        assert base64.urlsafe_b64decode(cursor + "==").decode().count(found[-1]) == 1
    assert found == mine[::-1]
    assert somebody.call("GET", "/promotions", params={"model": two.hidden}).json()["items"] == []
    somebody.is_given("viewer", effect="deny", model=two.seen.upper())
    assert somebody.call("GET", "/promotions").json()["items"] == []


def test_a_promotion_that_one_may_not_read_is_one_that_there_is_not(
    service: Countersign, two: Two, somebody: Somebody
) -> None:
    hidden = service.ask(two.hidden, "1")["id"]
    somebody.is_given("viewer", model=two.seen)
    somebody.is_given("requester", model=two.seen)
    somebody.is_given("approver", model=two.seen)
    for method, verb in (
        ("GET", ""),
        ("GET", "?wait=1"),
        *(("POST", f"/{v}") for v in ("approve", "reject", "withdraw")),
    ):
        answer = somebody.call(method, f"/promotions/{hidden}{verb}")
        assert answer.status_code == 404
        assert same(answer, somebody.call(method, f"/promotions/{NEVER}{verb}"), (hidden, NEVER))
    assert service.call("viewer", "GET", f"/promotions/{hidden}").json()["state"] == "pending"


def test_who_is_denied_while_they_wait_is_not_answered(service: Countersign, two: Two, somebody: Somebody) -> None:
    promotion = service.ask(two.seen, "1")["id"]
    name = somebody.is_given("viewer", model=two.seen)
    somebody.is_given("viewer", model="other")
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(somebody.call, "GET", f"/promotions/{promotion}?wait=2")
        until(lambda: service.call("administrator", "DELETE", f"/grants/{name}").status_code == 204, "its removal")
        assert waiting.result().status_code == 404


def test_an_approver_of_one_alias_of_one_model_decides_there_alone(
    service: Countersign, two: Two, somebody: Somebody, tmp_path: Path
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"kind: Policy\nname: {two.seen}\nmodels: {two.seen}\nalias: champion\n"
        "approvals: [{name: one, count: 1, roles: [approver]}]\n"
    )
    service.run("apply", "-f", str(policy))
    somebody.is_given("approver", model=two.seen, alias="champion")
    production = service.ask(two.seen, "1")["id"]
    champion = service.ask(two.seen, "2", alias="champion")["id"]
    hidden = service.ask(two.hidden, "1")["id"]
    assert somebody.call("GET", f"/promotions/{production}").status_code == 404
    assert somebody.call("POST", f"/promotions/{production}/approve").status_code == 404
    assert somebody.call("POST", f"/promotions/{hidden}/approve").status_code == 404
    why = {"permission": "promotions:decide", "promotion": champion}
    assert somebody.call("GET", "/permissions/check", params=why).json()["allowed"] is True
    approved = somebody.call("POST", f"/promotions/{champion}/approve")
    assert approved.status_code == 200, approved.text
    service.follow(champion, "applied")


def test_a_viewer_of_the_model_is_told_why_they_do_not_decide(
    service: Countersign, two: Two, somebody: Somebody
) -> None:
    somebody.is_given("viewer", model=two.seen)
    promotion = service.ask(two.seen, "3")["id"]
    refused = somebody.call("POST", f"/promotions/{promotion}/approve")
    assert refused.status_code == 403
    assert "approver" in refused.json()["detail"]
    assert service.audit(f"POST /control/v1/promotions/{promotion}/approve") == ["access.denied"]


def test_a_requester_of_one_model_asks_for_that_one_alone(two: Two, somebody: Somebody) -> None:
    somebody.is_given("requester", model=two.seen, alias="production")
    wanted = {"alias": "production", "version": "2"}
    hidden = somebody.call("POST", "/promotions", json={"model": two.hidden, **wanted})
    missing = somebody.call("POST", "/promotions", json={"model": two.missing, **wanted})
    assert hidden.status_code == 403
    assert same(hidden, missing, (two.hidden, two.missing))
    assert somebody.call("POST", "/promotions", json={"model": two.seen, **wanted, "alias": "x"}).status_code == 403
    mine = somebody.call("POST", "/promotions", json={"model": two.seen, **wanted})
    assert mine.status_code == 201, mine.text
    own = somebody.call("POST", f"/promotions/{mine.json()['id']}/approve")
    assert own.json()["type"].endswith(":self-approval")
    assert somebody.call("POST", f"/promotions/{mine.json()['id']}/withdraw").status_code == 200


# Aliases and bytes.


def test_neither_holder_nor_history_nor_bytes_of_a_hidden_model_are_told_from_none(
    service: Countersign, two: Two, somebody: Somebody
) -> None:
    for model in (two.seen, two.hidden):
        promotion = service.ask(model, "1")["id"]
        service.approve(promotion)
        service.follow(promotion, "applied")
    somebody.is_given("viewer", model=two.seen)
    paths = [
        "/models/{}/aliases/production",
        "/models/{}/aliases/none",
        "/models/{}/aliases/production/history",
        "/models/{}/aliases/production?at=2999-01-01T00:00:00Z",
        "/resolve?uri=models:/{}@production",
        "/resolve?uri=models:/{}@production&wait=1",
        "/resolve?uri=models:/{}/1",
        "/resolve?uri=models:/{}/99",
    ]
    for path in paths:
        hidden = somebody.call("GET", path.format(two.hidden))
        missing = somebody.call("GET", path.format(two.missing))
        assert same(hidden, missing, (two.hidden, two.missing)), path
        if "none" not in path and "99" not in path:
            assert somebody.call("GET", path.format(two.seen)).status_code == 200, path
    rollback = "/models/{}/aliases/production/rollback"
    somebody.is_given("approver", model=two.seen)
    assert same(
        somebody.call("POST", rollback.format(two.hidden)),
        somebody.call("POST", rollback.format(two.missing)),
        (two.hidden, two.missing),
    )
    assert somebody.call("POST", rollback.format(two.hidden)).status_code == 403


def test_who_serves_one_alias_learns_where_its_bytes_are_and_no_others(
    service: Countersign, two: Two, somebody: Somebody
) -> None:
    promotion = service.ask(two.seen, "1")["id"]
    service.approve(promotion)
    service.follow(promotion, "applied")
    somebody.is_given("serving", model=two.seen, alias="production")
    assert somebody.call("GET", f"/resolve?uri=models:/{two.seen}@production").status_code == 200
    assert somebody.call("GET", f"/resolve?uri=models:/{two.seen}/2").status_code == 404
    assert somebody.call("GET", f"/resolve?uri=models:/{two.seen}@champion").status_code == 404
    assert somebody.call("GET", f"/models/{two.seen}/aliases/production").status_code == 403


# Deployments and policies.


def deployed(database: psycopg.Connection[Any], model: str, promotion: str, secret: Path) -> str:
    name = f"dpl_{uuid.uuid4().hex}"
    secret.write_text("whsec_" + base64.b64encode(b"0" * 24).decode())
    database.execute(
        "INSERT INTO targets (name, url, secrets, callback_secrets, allowed_networks, deadline_s, updated_at) "
        "VALUES ('limited', 'http://x', %(files)s, %(files)s, ARRAY['private'], 900, now()) ON CONFLICT DO NOTHING",
        {"files": [f"file:{secret}"]},
    )
    database.execute(
        "INSERT INTO deployments (id, target, model, generation, version, uri, digest, promotion_id, phase, reason, "
        "message, observed_generation, sequence, requested_at, updated_at) "
        "VALUES (%s, 'limited', %s, 1, '1', 'file:///x/', 'sha256:x', %s, 'Requested', '', '', 0, 0, now(), now())",
        (name, model, promotion),
    )
    return name


def test_deployments_are_those_of_models_that_one_may_read_and_deployers_report_with_a_token(
    service: Countersign, two: Two, somebody: Somebody, database: psycopg.Connection[Any], tmp_path: Path
) -> None:
    seen = deployed(database, two.seen, service.ask(two.seen, "2")["id"], tmp_path / "secret")
    hidden = deployed(database, two.hidden, service.ask(two.hidden, "2")["id"], tmp_path / "secret")
    somebody.is_given("viewer", model=two.seen)
    assert [item["id"] for item in somebody.call("GET", "/deployments").json()["items"]] == [seen]
    assert somebody.call("GET", f"/deployments/{seen}").status_code == 200
    missing = somebody.call("GET", "/deployments/dpl_0")
    assert same(somebody.call("GET", f"/deployments/{hidden}"), missing, (hidden, "dpl_0"))

    def report(deployment: str, who: Somebody | None = somebody) -> httpx.Response:
        data = {"deployment_id": deployment, "generation": 1, "observed_generation": 1, "sequence": 1}
        event = {
            "specversion": "1.0",
            "id": "evt_1",
            "type": "countersign.deployment.status.v1",
            "data": {**data, "phase": "Accepted"},
        }
        path = f"/deployments/{deployment}/status"
        return who.call("POST", path, json=event) if who else service.call(None, "POST", path, json=event)

    assert report(seen).status_code == 403
    assert same(report(hidden), report("dpl_0"), (hidden, "dpl_0"))
    assert report(seen, None).status_code == 401
    somebody.is_given("deployer", model=two.seen)
    assert report(seen).json() == {"result": "taken", "phase": "Accepted"}
    assert report(hidden).status_code == 404
    theirs = "SELECT id FROM deployments WHERE target = 'limited'"
    database.execute(f"DELETE FROM deployment_generations WHERE deployment_id IN ({theirs})")
    database.execute("DELETE FROM deployments WHERE target = 'limited'")
    database.execute("DELETE FROM targets WHERE name = 'limited'")


def test_a_policy_of_one_model_is_shown_to_who_may_read_that_model(
    service: Countersign, two: Two, somebody: Somebody, tmp_path: Path
) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(
        "---\n".join(
            f"kind: Policy\nname: only-{model}\nmodels: {model}\nalias: shadow\n"
            "approvals: [{name: one, count: 1, roles: [approver]}]\n"
            for model in (two.seen, two.hidden)
        )
    )
    service.run("apply", "-f", str(file))
    somebody.is_given("viewer", model=two.seen)
    names = {policy["name"] for policy in somebody.call("GET", "/policies").json()}
    assert f"only-{two.seen}" in names
    assert f"only-{two.hidden}" not in names
    assert "production" in names


# Scopes.


def test_a_narrow_token_of_an_approver_does_not_approve(service: Countersign, two: Two) -> None:
    made = service.call(
        "approver", "POST", "/tokens", json={"name": f"ci-{two.seen}", "scopes": ["track"], "expires_in_days": 1}
    )
    assert made.status_code == 201, made.text
    headers = {"Authorization": f"Bearer {made.json()['token']}"}
    promotion = service.ask(two.seen, "2")["id"]
    refused = service.call(None, "POST", f"/promotions/{promotion}/approve", headers=headers)
    assert refused.status_code == 403
    assert refused.json()["type"].endswith(":insufficient-scope")
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]
    me = service.call(None, "GET", "/me", headers=headers).json()
    assert (me["credential"], me["scopes"]) == ("personal", ["track"])
    assert "promotions:decide" not in me["permissions"]
    why = service.call(
        None, "GET", "/permissions/check", headers=headers, params={"permission": "promotions:decide"}
    ).json()
    assert why["scope_limits"] == ["approve"]
    assert service.call(None, "PUT", "/grants/x", headers=headers, json={}).status_code in {400, 403}


# Grants over HTTP.


def test_a_grant_over_http_has_a_revision_that_a_change_may_rest_on(service: Countersign, somebody: Somebody) -> None:
    path, body = f"/grants/{somebody.group}", {"role": "viewer", "subject": {"group": somebody.group}}
    call = service.call
    made = call("administrator", "PUT", path, json=body, headers={"If-None-Match": "*"})
    assert made.status_code == 201
    assert call("administrator", "PUT", path, json=body, headers={"If-None-Match": "*"}).status_code == 412
    etag = made.headers["ETag"]
    changed = call("administrator", "PUT", path, json={**body, "role": "contributor"}, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()["revision"]) == (200, 2)
    stale = call("administrator", "DELETE", path, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["type"]) == (412, "urn:countersign:problem:precondition-failed")
    listed = call("administrator", "GET", "/grants", params={"group": somebody.group}).json()["items"]
    assert [each["name"] for each in listed] == [somebody.group]
    assert call("administrator", "DELETE", path, headers={"If-Match": changed.headers["ETag"]}).status_code == 204
    assert call("administrator", "GET", path).status_code == 404
    assert service.audit(somebody.group) == ["grant.created", "grant.changed", "grant.removed"]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"role": "viewer"},
        {"role": "viewer", "subject": []},
        {"role": "viewer", "subject": {"group": ["a"]}},
        {"role": "viewer", "subject": {"group": {"$ne": ""}}},
        {"role": ["viewer"], "subject": {"group": "a"}},
        {"role": "viewer", "subject": {"group": "a\x00"}},
        {"role": "viewer", "subject": {"group": "a"}, "on": {"model": True}},
        {"role": "viewer", "subject": {"group": "a"}, "on": [], "effect": "allow"},
        {"role": "viewer", "subject": {"group": "a"}, "effect": "DENY"},
        {"role": "viewer", "subject": {"issuer": "https://i", "claims": {"a": ["x"]}}},
        {"role": "viewer", "subject": {"group": "a"}, "name": "another"},
        {"role": "viewer", "subject": {"group": "a"}, "admin": True},
    ],
)
def test_what_is_no_grant_is_refused(service: Countersign, body: object) -> None:
    refused = service.call("administrator", "PUT", "/grants/bad", json=body)
    assert refused.status_code == 400
    assert refused.json()["field"]


@pytest.mark.parametrize("who", ["scientist", "approver", "viewer", "serving", "stranger"])
def test_who_does_not_administer_gives_nothing_and_sees_nothing(service: Countersign, who: str) -> None:
    body = {"role": "administrator", "subject": {"group": "strangers"}}
    assert service.call(who, "PUT", "/grants/mine", json=body).status_code == 403
    assert service.call(who, "DELETE", "/grants/mine").status_code == 404
    assert service.call(who, "GET", "/grants").json()["items"] == []
    assert service.call(who, "GET", "/principals").status_code == 403
    assert service.call(who, "POST", "/principals/https%3A%2F%2Fx%7Cy/disable").status_code == 403


def test_everybody_learns_who_they_are_what_roles_there_are_and_why_not(
    service: Countersign, somebody: Somebody
) -> None:
    me = somebody.call("GET", "/me").json()
    assert (me["id"], me["permissions"], me["grants"], me["scopes"]) == (somebody.id, [], [], None)
    roles = {each["role"]: each for each in somebody.call("GET", "/roles").json()}
    assert "promotions:decide" not in roles["administrator"]["permissions"]
    somebody.is_given("viewer", effect="deny", model="secret-*")
    question = {"permission": "registry:read", "model": "secret-x"}
    why = somebody.call("POST", "/permissions/check", json=question).json()
    assert why["allowed"] is False
    assert [(each["role"], each["subject"], each["on"]) for each in why["denied_by"]] == [("viewer", None, None)]
    assert why["who_could_change"] == ["group administrators"]
    assert somebody.call("GET", "/permissions/check", params=question).json() == why
    assert somebody.call("GET", "/permissions/check", params={**question, "principal": "i|x"}).status_code == 403
    assert somebody.call("POST", "/permissions/check", json={**question, "model": "\x00"}).status_code == 400
    assert somebody.call("POST", "/permissions/check", json={**question, "promotion": NEVER}).status_code == 404
    other = service.call("administrator", "GET", "/permissions/check", params={**question, "principal": somebody.id})
    assert other.json()["principal"] == somebody.id


def test_a_text_that_the_database_cannot_hold_is_refused(service: Countersign) -> None:
    for path in (
        "/promotions/%00",
        "/promotions?model=%00",
        "/deployments/%00",
        "/grants/%00",
        "/principals?search=%00",
    ):
        assert service.call("administrator", "GET", path).status_code in {400, 404}, path


def test_who_is_disabled_is_out_on_the_next_second_and_nobody_disables_themselves(
    service: Countersign, somebody: Somebody
) -> None:
    path = f"/principals/{somebody.id.replace('/', '%2F').replace('|', '%7C').replace(':', '%3A')}"
    assert somebody.call("GET", "/me").status_code == 200
    disabled = service.call("administrator", "POST", f"{path}/disable", json={"reason": "lost laptop"})
    assert disabled.status_code == 200, disabled.text
    until(lambda: somebody.call("GET", "/me").status_code == 401, "the door being shut", patience_s=5)
    assert service.call("administrator", "GET", path).json()["disabled_by"].endswith("|administrator")
    assert service.call("administrator", "GET", "/principals", params={"search": somebody.group}).json()["items"]
    assert service.call("administrator", "POST", f"{path}/enable").status_code == 200
    until(lambda: somebody.call("GET", "/me").status_code == 200, "the door being open")
    assert service.audit(somebody.id) == ["principal.disabled", "principal.enabled"]
    me = service.call("administrator", "GET", "/me").json()["id"].replace("/", "%2F")
    refused = service.call("administrator", "POST", f"/principals/{me}/disable")
    assert refused.json()["type"].endswith(":would-lock-out")
