"""The approvers' console, as people use it: in Chromium, with and without scripts, and past its buttons."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from app.adapters.postgres.unit_of_work import Database
from app.domain.identity import Identity, PrincipalKind
from app.domain.sessions import Session, cookies_of
from app.services.identifiers import new_id
from tests.conftest import database_of
from tests.e2e.browsing import PATIENCE_MS, running_browser
from tests.issuer import Issuer
from tests.platform import GROUPS, PATIENCE_S, Countersign, MlflowServer, new_countersign, until

INJECTED = "<script>document.title = 'pwned'</script><img src=x onerror=\"document.title='pwned'\">\u202e !"


@dataclass
class Console:
    """A gateway where people can be signed in, and their browsers."""

    service: Countersign
    browser: Browser

    def session(self, who: str, *, signed_in_ago: timedelta = timedelta()) -> str:
        """The secret of a session, as signing in leaves it in a cookie."""
        secret, now = secrets.token_urlsafe(32), datetime.now(UTC)
        identity = Identity(self.service.issuer.url, who, who, PrincipalKind.PERSON, frozenset(GROUPS[who]))
        session = Session(
            id=new_id("ses"),
            principal_id=identity.id,
            principal_name=identity.name,
            provider="default",
            created_at=now,
            authenticated_at=now - signed_in_ago,
            last_seen_at=now,
            expires_at=now + timedelta(hours=1),
            address="192.0.2.1",
            user_agent="Firefox",
        )

        async def keep() -> None:
            database = Database(self.service.environment["COUNTERSIGN_DATABASE_URL"])
            try:
                async with database.unit_of_work() as work:
                    await work.principals.vouch(identity, at=now)
                    await work.sessions.add(session, secret=secret, provider_session=None, logout_hint=None)
                    await work.commit()
            finally:
                await database.close()

        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, keep()).result()
        return secret

    @contextmanager
    def person(self, who: str, *, scripts: bool = True) -> Iterator[Page]:
        """Somebody's browser. Nothing may be written to its console as an error."""
        url, errors = self.service.url, []
        context = self.browser.new_context(java_script_enabled=scripts)
        context.set_default_timeout(PATIENCE_MS)
        context.add_cookies([{"name": cookies_of(url).session, "value": self.session(who), "url": url}])
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        try:
            yield page
        finally:
            context.close()
        assert not errors

    def client(
        self, who: str, *, signed_in_ago: timedelta = timedelta(), headers: Mapping[str, str] | None = None
    ) -> httpx.Client:
        """What somebody's browser can be made to send."""
        url = self.service.url
        return httpx.Client(
            base_url=url,
            headers={"Accept": "text/html", "Origin": url, **(headers or {})},
            cookies={cookies_of(url).session: self.session(who, signed_in_ago=signed_in_ago)},
            timeout=PATIENCE_S,
            trust_env=False,
        )


@pytest.fixture(scope="module")
def console(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Console]:
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, mlflow_server, issuer, tmp_path_factory.mktemp("console")) as service,
        running_browser() as browser,
    ):
        service.environment["COUNTERSIGN_OIDC_CLIENT_ID"] = "countersign-web"
        service.start("gateway")
        service.start("worker")
        yield Console(service, browser)


@pytest.fixture
def model(mlflow_server: MlflowServer, model_name: str) -> str:
    mlflow_server.register(model_name, versions=2)
    return model_name


def asked(console: Console, model: str, version: str = "1", reason: str = "", who: str = "scientist") -> str:
    body = {"model": model, "alias": "production", "version": version, "reason": reason}
    answer = console.service.call(who, "POST", "/promotions", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def applied(console: Console, model: str, version: str) -> None:
    promotion = asked(console, model, version)
    assert console.service.approve(promotion).status_code == 200
    console.service.follow(promotion, "applied")


def fields(page: str, action: str) -> dict[str, str]:
    """The hidden fields of a form, as a browser would send them."""
    form = page.partition(f'action="{action}"')[2].partition("</form>")[0]
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form)
    return {name: unescape(value) for name, value in found}


def test_a_second_person_sees_what_changes_and_approves_without_a_script(
    console: Console, mlflow_server: MlflowServer, model: str
) -> None:
    applied(console, model, "1")
    promotion = asked(console, model, "2", "better")
    with console.person("approver", scripts=False) as page:
        page.goto(f"{console.service.url}/console")
        page.get_by_role("region", name="Waiting for your decision").get_by_role("link", name=model).click()
        page.wait_for_url(f"**/console/promotions/{promotion}")
        expect(page.get_by_role("heading", name=f"{model} 2")).to_be_visible()
        expect(page.get_by_text("0 of 1 approvals by role approver.")).to_be_visible()
        expect(page.get_by_text("Version 1, serves now").first).to_be_visible()
        page.get_by_label("Reason").fill("looked at it")
        page.get_by_role("button", name="Approve").click()
        page.wait_for_url(f"**/console/promotions/{promotion}")
        console.service.follow(promotion, "applied")
        page.reload()
        expect(page.get_by_text("looked at it")).to_be_visible()
        expect(page.get_by_role("button", name="Approve")).to_have_count(0)
    assert mlflow_server.holder(model) == "2"


def test_what_others_write_is_shown_and_never_run_and_news_come_by_themselves(console: Console, model: str) -> None:
    promotion = asked(console, model, "1", INJECTED)
    with console.person("approver") as page:
        page.goto(f"{console.service.url}/console/promotions/{promotion}")
        expect(page.get_by_text("<script>document.title = 'pwned'</script>").first).to_be_visible()
        expect(page.get_by_text("[U+202E]").first).to_be_visible()
        assert page.title() == f"{model} 1 → production · Countersign"
        page.get_by_label("Reason").fill("I am writing")
        rejected = console.service.call("second-approver", "POST", f"/promotions/{promotion}/reject", json={})
        assert rejected.status_code == 200
        expect(page.get_by_text("This promotion has changed.")).to_be_visible()
        page.get_by_label("Reason").fill("")
        page.get_by_role("link", name="Show it as it is now").click()
        expect(page.get_by_text("Rejected").first).to_be_visible()
        assert "pwned" not in page.title()


def test_who_asked_is_told_why_they_cannot_decide_and_is_refused(console: Console, model: str) -> None:
    promotion = asked(console, model, who="scientist-and-approver")
    with console.client("scientist-and-approver") as client:
        page = client.get(f"/console/promotions/{promotion}").text
        assert "scientist-and-approver asked for this promotion; another person must decide on it." in page
        assert 'value="approve"' not in page
        form = {"decision": "approve", "revision": "1", "facts": ""}
        refused = client.post(f"/console/promotions/{promotion}/decide", data=form)
        # Whoever forges the rest of the form is still who they are.
        seen = {"revision": re.findall(r'name="revision" value="(\d+)"', page)[0]}
        forged = client.post(f"/console/promotions/{promotion}/decide", data={"decision": "reject", **seen})
        assert promotion not in client.get("/console").text.partition("Asked for by you")[0]
    assert refused.status_code == 409
    assert forged.status_code in {403, 409}
    assert console.service.call("viewer", "GET", f"/promotions/{promotion}").json()["state"] == "pending"


def test_nobody_approves_what_changed_under_their_eyes(console: Console, model: str) -> None:
    promotion = asked(console, model)
    address = f"/console/promotions/{promotion}"
    with console.client("approver") as client:
        seen = fields(client.get(address).text, f"{address}/decide")
        other_facts = client.post(f"{address}/decide", data={**seen, "facts": "others", "decision": "approve"})
        none_said = client.post(f"{address}/decide", data={"decision": "approve"})
        assert console.service.call("second-approver", "POST", f"/promotions/{promotion}/reject").status_code == 200
        late = client.post(f"{address}/decide", data={**seen, "decision": "approve", "reason": "I had <b>looked</b>"})
    for answer in (other_facts, none_said, late):
        assert answer.status_code == 409
        assert "It changed meanwhile" in answer.text
        assert "Nothing was done" in answer.text
    assert "I had &lt;b&gt;looked&lt;/b&gt;" in late.text
    assert console.service.call("viewer", "GET", f"/promotions/{promotion}").json()["state"] == "rejected"


def test_another_site_decides_nothing_with_somebodys_session(console: Console, model: str) -> None:
    promotion = asked(console, model)
    address = f"/console/promotions/{promotion}"
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        with console.client("approver", headers=headers) as client:
            form = fields(client.get(address).text, f"{address}/decide") | {"decision": "approve"}
            assert client.post(f"{address}/decide", data=form).status_code == 403
    assert console.service.call("viewer", "GET", f"/promotions/{promotion}").json()["decisions"] == []


def test_a_reason_that_the_policy_asks_for_is_asked_for_on_the_page(console: Console, model: str) -> None:
    rule = {"name": "a second person", "count": 1, "roles": ["approver"]}
    document = {"models": model, "alias": "production", "approvals": [rule], "reasons": ["reject"]}
    assert console.service.call("administrator", "PUT", f"/policies/{model}", json=document).status_code == 201
    promotion = asked(console, model)
    address = f"/console/promotions/{promotion}"
    with console.client("approver") as client:
        seen = fields(client.get(address).text, f"{address}/decide")
        refused = client.post(f"{address}/decide", data={**seen, "decision": "reject", "reason": " "})
        assert refused.status_code == 400
        assert f"expected a reason: policy {model} asks for one to reject" in refused.text
        long = client.post(f"{address}/decide", data={**seen, "decision": "reject", "reason": "x" * 2001})
        assert long.status_code == 400
        assert client.post(f"{address}/decide", data={**seen, "decision": "perhaps"}).status_code == 400
        told = client.post(f"{address}/decide", data={**seen, "decision": "reject", "reason": "no\r\nway"})
        assert (told.status_code, told.headers["location"]) == (303, address)
        assert "rejected by approver: no\nway" in client.get(address).text
        assert "A reason must be given to reject." in client.get(f"/console/policies/{model}").text
        assert f"production of model {model}" in client.get("/console/policies").text


def test_who_asked_takes_it_back_and_says_something_once(console: Console, model: str) -> None:
    promotion = asked(console, model)
    address = f"/console/promotions/{promotion}"
    with console.client("scientist") as client:
        page = client.get(address).text
        comment = fields(page, f"{address}/comment") | {"text": "wait a moment"}
        for _ in range(2):
            assert client.post(f"{address}/comment", data=comment).headers["location"] == f"{address}#comments"
        assert client.get(address).text.count("wait a moment") == 1
        withdrawn = client.post(f"{address}/withdraw", data={**fields(page, f"{address}/withdraw"), "reason": "oops"})
        assert withdrawn.status_code == 303
        assert "withdrawn by scientist: oops" in client.get(address).text
    with console.client("viewer") as client:
        assert client.post(f"{address}/comment", data={"text": "me too"}).status_code == 403


def test_an_alias_is_rolled_back_from_its_page_by_who_saw_its_holder(
    console: Console, mlflow_server: MlflowServer, model: str
) -> None:
    applied(console, model, "1")
    applied(console, model, "2")
    address = f"/console/models/{model}/aliases/production"
    with console.client("scientist") as client:
        assert "You may not roll this alias back." in client.get(address).text
        assert client.post(f"{address}/rollback", data={"holder": "2"}).status_code == 403
    with console.client("approver") as client:
        page = client.get(address).text
        assert "Version 2 holds it" in page
        assert "Have version 1 hold it again" in page
        assert client.post(f"{address}/rollback", data={"holder": "1"}).status_code == 409
        done = client.post(f"{address}/rollback", data={**fields(page, f"{address}/rollback"), "reason": "slow"})
        assert done.status_code == 303
        until(lambda: mlflow_server.holder(model) == "1", "the rollback")
        assert "Rollback: the alias goes back" in client.get(done.headers["location"]).text


def test_an_emergency_needs_a_fresh_sign_in_and_another_persons_review(
    console: Console, mlflow_server: MlflowServer, model: str
) -> None:
    subject = {"person": f"{console.service.issuer.url}|scientist"}
    grant = {"role": "responder", "subject": subject, "on": {"model": model}}
    assert console.service.call("administrator", "PUT", f"/grants/{model}", json=grant).status_code == 201
    applied(console, model, "1")
    address = f"/console/models/{model}/aliases/production"
    said = {"version": "2", "reason": "it burns", "ticket": "INC-7"}
    with console.client("approver") as client:
        assert "Break the glass" not in client.get(address).text
        assert client.post(f"{address}/break-glass", data={"holder": "1", **said}).status_code == 403
    with console.client("scientist", signed_in_ago=timedelta(hours=2)) as client:
        stale = client.post(f"{address}/break-glass", data={"holder": "1", **said})
        assert stale.status_code == 401
        assert "/auth/sign-in?max_age=300&amp;next=%2Fconsole%2Fmodels%2F" in stale.text
    with console.client("scientist") as client:
        seen = fields(client.get(address).text, f"{address}/break-glass")
        assert client.post(f"{address}/break-glass", data={**said, "holder": "9"}).status_code == 409
        assert client.post(f"{address}/break-glass", data={**seen, **said, "reason": ""}).status_code == 400
        broken = client.post(f"{address}/break-glass", data={**seen, **said})
        assert broken.status_code == 303
        until(lambda: mlflow_server.holder(model) == "2", "the emergency")
        promotion = broken.headers["location"]
        until(lambda: "Review of the emergency" in client.get(promotion).text, "the review")
        assert "Close the review" not in client.get(promotion).text
        assert client.post(f"{promotion}/review", data={"text": "fine, I say"}).status_code == 403
    with console.client("approver") as client:
        assert "An emergency waits for its review" in client.get(address).text
        assert client.post(f"{promotion}/review", data={"text": ""}).status_code == 400
        assert client.post(f"{promotion}/review", data={"text": "looked at it"}).status_code == 303
        assert "looked at it" in client.get(promotion).text
        assert "An emergency waits" not in client.get(address).text


def test_what_it_would_take_is_answered_and_nothing_is_asked_for(console: Console, model: str) -> None:
    wanted = {"model": model, "version": "1", "alias": "production"}
    with console.client("viewer") as client:
        answer = client.get("/console/explain", params=wanted)
        assert "1 of 2 rules is not met yet." in answer.text
        assert client.get("/console/explain", params={**wanted, "version": "nine"}).status_code == 400
        assert client.get("/console/explain", params={**wanted, "model": "<b>"}).status_code == 404
        assert "Nothing is found." in client.get("/console", params={"model": model}).text


def test_pages_are_as_closed_as_the_api(console: Console, model: str) -> None:
    promotion = asked(console, model)
    pages = ["/console", f"/console/promotions/{promotion}", f"/console/models/{model}/aliases/production"]
    pages += ["/console/policies", "/console/policies/production", "/console/explain"]
    with console.client("stranger") as client:
        for path in pages:
            assert client.get(path).status_code == 403, path
        assert client.post(f"{pages[1]}/decide", data={"decision": "approve"}).status_code == 403
    with httpx.Client(base_url=console.service.url, headers={"Accept": "text/html"}, trust_env=False) as nobody:
        for path in pages:
            answer = nobody.get(path)
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/auth/sign-in"), path
        assert nobody.post(f"{pages[1]}/decide", data={"decision": "approve"}).status_code == 401
    on = {"model": "another"}
    document = {"role": "viewer", "subject": {"person": f"{console.service.issuer.url}|stranger"}, "on": on}
    assert console.service.call("administrator", "PUT", "/grants/stranger", json=document).status_code == 201
    try:
        with console.client("stranger") as client:
            kept_back, unknown = client.get(pages[1]), client.get("/console/promotions/prm_none")
            assert (kept_back.status_code, unknown.status_code) == (404, 404)
            assert model not in kept_back.text + client.get("/console").text
            assert client.get(pages[2]).status_code == 404
    finally:
        console.service.call("administrator", "DELETE", "/grants/stranger")


def test_addresses_that_nobody_meant_are_refused_and_pages_are_kept_from_frames_and_caches(console: Console) -> None:
    with console.client("viewer") as client:
        for query in ("state=nonsense", "cursor=nonsense", "model=%00", "of=%00&alias=%00"):
            assert client.get(f"/console?{query}").status_code in {200, 400}, query
        assert client.get("/console/policies/production?revision=x").status_code == 400
        assert client.get("/console/policies/production?cursor=%00").status_code == 400
        assert client.get("/console/nowhere").status_code == 404
        assert client.get("/console/promotions").headers["location"] == "/console"
        headers = client.get("/console").headers
    assert headers["cache-control"] == "no-store"
    assert "script-src 'self'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
