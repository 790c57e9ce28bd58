"""MLflow's workspaces: who enters them, and promotions in them; on a real server that has some."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from app.domain.access import Permission, Principal, Role
from app.domain.deliveries import Filter as DeliveryFilter
from app.domain.deliveries import Receiver, ReceiverKind
from app.domain.deployments import Target
from app.domain.errors import Forbidden, InvalidInput, NotFound, Unresolvable
from app.domain.grants import Grant, Reach, Subject
from app.domain.promotions import AliasKey, Filter, Kind, Promotion, State
from app.main import describe
from app.services.noticing import SETTLED
from app.services.promotions import Wanted
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.limits import World, told
from tests.platform import MlflowServer, new_countersign, running_mlflow
from tests.principals import principal
from tests.telling import events_of

TEAM_A = {"X-MLFLOW-WORKSPACE": "team-a"}


@pytest.fixture(scope="module")
def server() -> Iterator[MlflowServer]:
    """An MLflow with the workspaces ``team-a`` and ``team-b``."""
    with running_mlflow("--enable-workspaces") as server:
        for name in ("team-a", "team-b"):
            httpx.post(f"{server.url}/api/3.0/mlflow/workspaces", json={"name": name}).raise_for_status()
        yield server


# Who enters.


@pytest.fixture(scope="module")
def workspaces(
    server: MlflowServer,
    postgres: Callable[[str], str],
    template_database: str,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """A gateway before it; in ``team-a`` and ``team-b`` a model and an experiment each."""
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, server, issuer, tmp_path_factory.mktemp("workspaces")) as service,
        World(service, server) as world,
    ):
        service.environment["COUNTERSIGN_WORKSPACES"] = "true"
        service.start("gateway")
        for name in ("team-a", "team-b"):
            headers = {"X-MLFLOW-WORKSPACE": name}
            for path in ("registered-models", "experiments"):
                body = {"name": f"of-{name}"}
                world.past("POST", f"/2.0/mlflow/{path}/create", json=body, headers=headers).raise_for_status()
            body = {"name": f"of-{name}", "source": "prompt-template", "tags": PROMPT}
            world.past("POST", "/2.0/mlflow/model-versions/create", json=body, headers=headers).raise_for_status()
        world.give("ann", "contributor", workspace="team-a")
        world.give("bob", "contributor", workspace="team-*")
        world.give("cid", "contributor", model="of-*")
        world.give("dee", "contributor")
        world.wait_for("dee")
        yield world


PROMPT = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
MODELS = "/2.0/mlflow/registered-models"


def in_workspace(world: World, who: str, workspace: str | None, path: str = f"{MODELS}/search") -> httpx.Response:
    headers = {"X-MLFLOW-WORKSPACE": workspace} if workspace is not None else {}
    return world.call(who, "GET", path, headers=headers)


def models_in(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    names = [model["name"] for model in answer.json().get("registered_models", [])]
    return [name for name in names if name.startswith("of-")]  # the server is shared with the tests of promotions


def test_a_workspace_is_entered_by_who_was_given_something_there(workspaces: World) -> None:
    assert models_in(in_workspace(workspaces, "ann", "team-a")) == ["of-team-a"]
    assert models_in(in_workspace(workspaces, "bob", "team-b")) == ["of-team-b"]
    assert models_in(in_workspace(workspaces, "dee", "team-b")) == ["of-team-b"]
    # Nobody who names none is anywhere but in the default one, or in the only one that they were given by its name.
    assert models_in(in_workspace(workspaces, "ann", None)) == ["of-team-a"]
    assert in_workspace(workspaces, "bob", None).status_code == 404
    assert models_in(in_workspace(workspaces, "cid", None)) == []
    assert models_in(in_workspace(workspaces, "dee", None)) == []


def test_another_workspace_is_as_one_that_does_not_exist(workspaces: World) -> None:
    for who, hidden in (("ann", "team-b"), ("cid", "team-a"), ("bob", "default")):
        of_hidden, of_missing = in_workspace(workspaces, who, hidden), in_workspace(workspaces, who, "nowhere")
        if who != "bob":  # who may enter whatever begins with team- is told the same of what does not
            assert of_hidden.text.replace(hidden, "<it>") == of_missing.text.replace("nowhere", "<it>")
        assert (of_hidden.status_code, of_missing.status_code) == (404, 404)
    by_mlflow = workspaces.past("GET", f"{MODELS}/search", headers={"X-MLFLOW-WORKSPACE": "nowhere"})
    assert by_mlflow.json()["error_code"] == in_workspace(workspaces, "ann", "nowhere").json()["error_code"]
    assert by_mlflow.json()["message"] == in_workspace(workspaces, "ann", "nowhere").json()["message"]


def test_the_list_of_workspaces_holds_those_that_can_be_entered(workspaces: World) -> None:
    def names(who: str) -> list[str]:
        answer = workspaces.call(who, "GET", "/3.0/mlflow/workspaces")
        return sorted(each["name"] for each in answer.json().get("workspaces", []))

    assert names("ann") == ["team-a"]
    assert names("bob") == ["team-a", "team-b"]
    assert names("cid") == ["default"]
    assert names("dee") == ["default", "team-a", "team-b"]
    hidden = workspaces.call("ann", "GET", "/3.0/mlflow/workspaces/team-b")
    missing = workspaces.call("ann", "GET", "/3.0/mlflow/workspaces/nowhere")
    assert told(hidden, "team-b") == told(missing, "nowhere")
    assert hidden.status_code == 404


def test_a_header_names_one_workspace_by_a_name_there_can_be(workspaces: World) -> None:
    for name in ("Team-A", "team_a", "../team-a", "x", "-team", "team-a,team-b"):
        assert in_workspace(workspaces, "dee", name).status_code == 400, name
    twice = [("X-MLFLOW-WORKSPACE", "team-a"), ("X-MLFLOW-WORKSPACE", "team-b")]
    headers = [("Authorization", f"Bearer {workspaces.token('dee')}"), *twice]
    url = f"{workspaces.service.url}/api{MODELS}/search"
    assert httpx.get(url, headers=headers, trust_env=False).status_code == 400
    assert models_in(workspaces.call("ann", "GET", f"{MODELS}/search?workspace=team-b")) == ["of-team-a"]


def test_who_may_not_ask_for_promotions_moves_free_aliases_of_a_workspace_alone(workspaces: World) -> None:
    headers = {"X-MLFLOW-WORKSPACE": "team-a"}
    for who in ("ann", "dee"):
        body = {"name": "of-team-a", "alias": "production", "version": "1"}
        answer = workspaces.call(who, "POST", f"{MODELS}/alias", json=body, headers=headers)
        assert answer.status_code == 403
        assert "promotions:request" in answer.json()["message"]
        body["alias"] = f"free-{who}"
        assert workspaces.call(who, "POST", f"{MODELS}/alias", json=body, headers=headers).status_code == 200


def test_what_is_created_in_a_workspace_is_owned_there(workspaces: World) -> None:
    headers = {"X-MLFLOW-WORKSPACE": "team-a"}
    for path in ("registered-models", "experiments"):
        body = {"name": "anns"}
        made = workspaces.call("ann", "POST", f"/2.0/mlflow/{path}/create", json=body, headers=headers)
        assert made.status_code == 200, made.text
    run = workspaces.call(
        "ann", "POST", "/2.0/mlflow/runs/create", json={"experiment_id": made.json()["experiment_id"]}
    )
    uri = run.json()["run"]["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert uri.startswith("workspaces/team-a/")
    path = f"/2.0/mlflow-artifacts/artifacts/{uri}/a.txt"
    assert workspaces.call("ann", "PUT", path, content=b"hers").status_code == 200
    assert workspaces.call("ann", "GET", path).text == "hers"
    assert workspaces.call("cid", "GET", path).status_code == 404


# Promotions.

GROUPS = {"ada": "scientists", "bob": "approvers", "root": "administrators"}


@dataclass
class Scene:
    """Gateway and worker in this process, before the server."""

    court: Court
    http: httpx.AsyncClient
    through: httpx.AsyncClient
    """MLflow's API through the gateway."""
    issuer: Issuer

    async def call(self, who: str, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.issuer.token(who, groups=[GROUPS[who]])}"}
        headers |= options.pop("headers", {})
        client = self.http if path.startswith("/control") else self.through
        return await client.request(method, path, headers=headers, **options)

    async def get(self, who: str, path: str, **query: Any) -> httpx.Response:
        return await self.call(who, "GET", f"/control/v1{path}", params=query)

    async def native(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        who: str = "ada",
        workspace: str = "team-a",
        **options: Any,
    ) -> httpx.Response:
        """As MLflow's client calls with ``mlflow.set_workspace``."""
        headers = {"X-MLFLOW-WORKSPACE": workspace}
        sent = {"json": body} if body is not None else {}
        return await self.call(who, method, f"/api/2.0/{path}", headers=headers, **sent, **options)

    async def set_alias(self, model: str, version: str, alias: str = "production", **options: Any) -> httpx.Response:
        body = {"name": model, "alias": alias, "version": version}
        return await self.native("POST", "mlflow/registered-models/alias", body, **options)

    def model(self, versions: int = 2) -> str:
        """One of a name that ``team-a`` and the default workspace both have."""
        name = self.court.model(versions)
        self.court.mlflow.register(name, versions=versions, workspace="team-a")
        return name

    def holder(self, model: str, alias: str = "production", workspace: str = "team-a") -> str | None:
        return self.court.mlflow.holder(model, alias, workspace=workspace)

    async def promoted(self, model: str, version: str = "1") -> Promotion:
        """A promotion in ``team-a`` that was asked for, approved and applied."""
        asked = await self.court.ask(model, version, workspace="team-a")
        await self.court.approve(asked)
        return await self.court.work(asked)


@pytest.fixture(scope="module")
async def scene(
    server: MlflowServer, postgres: Callable[[str], str], template_database: str, issuer: Issuer
) -> AsyncIterator[Scene]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, server, issuer, COUNTERSIGN_WORKSPACES="true") as court:
            app, base_url = describe(), court.settings.public_url
            app.state.services = court.gateway.services
            async with (
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base_url) as http,
                httpx.AsyncClient(transport=httpx.ASGITransport(court.gateway.proxy), base_url=base_url) as through,
            ):
                yield Scene(court, http, through, issuer)


def denied(answer: httpx.Response) -> Mapping[str, Any]:
    assert answer.status_code == 403, answer.text
    found: Mapping[str, Any] = answer.json()
    assert found["error_code"] == "PERMISSION_DENIED"
    return found


async def test_a_native_call_in_a_workspace_promotes_there_and_nowhere_else(scene: Scene) -> None:
    model = scene.model()
    await scene.court.policy(models=model, workspaces="team-*")
    refused = denied(await scene.set_alias(model, "1"))
    assert f"Alias 'production' of model 'team-a/{model}'" in refused["message"]
    asked = await scene.court.promotions.get(scene.court.bob, refused["promotion"])
    assert (asked.workspace, asked.state) == ("team-a", State.PENDING)
    assert (await scene.set_alias(model, "2", workspace="default")).status_code == 200
    await scene.court.approve(asked)
    assert (await scene.court.work(asked)).state is State.APPLIED
    assert (scene.holder(model), scene.holder(model, workspace="default")) == ("1", "2")
    assert (await scene.set_alias(model, "1")).status_code == 200
    folder = scene.court.mlflow.folder_of(model, "1", workspace="team-a")
    assert folder.relative_to(scene.court.mlflow.artifacts).parts[:2] == ("workspaces", "team-a")
    assert asked.uri == f"{folder.as_uri()}/"
    assert (folder / "MLmodel").exists()


async def test_what_a_promotion_in_a_workspace_rests_on_cannot_be_changed(scene: Scene) -> None:
    model = scene.model()
    await scene.court.policy(models=model, workspaces="team-a")
    promotion = await scene.promoted(model)
    mlflow = scene.court.mlflow
    version = {"name": model, "version": "1"}
    root = str(mlflow.folder_of(model, "1", workspace="team-a").relative_to(mlflow.artifacts))
    inner = root.removeprefix("workspaces/team-a/")
    experiment = inner.split("/")[0]
    run = {"run_id": promotion.run_id}
    artifacts, registered = "mlflow-artifacts/artifacts", "mlflow/registered-models"
    upload = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={promotion.run_id}&path=model/MLmodel"
    headers = {"X-MLFLOW-WORKSPACE": "team-a"}
    assert promotion.id in denied(await scene.call("root", "POST", upload, content=b"evil", headers=headers))["message"]
    for method, path, body in (
        ("DELETE", f"{registered}/alias", {"name": model, "alias": "production"}),
        ("DELETE", f"{registered}/delete", {"name": model}),
        ("POST", f"{registered}/rename", {"name": model, "new_name": f"{model}-b"}),
        ("POST", f"{registered}/set-tag", {"name": model, "key": "mlflow.prompt.is_prompt", "value": "true"}),
        ("DELETE", "mlflow/model-versions/delete", version),
        (
            "POST",
            "mlflow/model-versions/transition-stage",
            {**version, "stage": "Production", "archive_existing_versions": False},
        ),
        ("POST", "mlflow/experiments/delete", {"experiment_id": experiment}),
        ("POST", "mlflow/runs/delete", run),
        ("PUT", f"{artifacts}/{root}/MLmodel", None),
        ("PUT", f"{artifacts}/{inner}/MLmodel", None),
        ("DELETE", f"{artifacts}/{root}", None),
        ("DELETE", f"{artifacts}/{inner}", None),
        ("DELETE", f"{artifacts}/workspaces/team-a", None),
    ):
        options = {"content": b"evil"} if method == "PUT" else {}
        for who in ("ada", "root"):
            answer = await scene.native(method, path, body, who=who, **options)
            assert "'team-a/" in denied(answer)["message"], path
    # Nor is it reached from another workspace; from there, MLflow would refuse the path itself.
    for workspace in ("default", "team-b"):
        answer = await scene.native("PUT", f"{artifacts}/{root}/MLmodel", workspace=workspace, content=b"evil")
        assert promotion.id in denied(answer)["message"]
    assert scene.holder(model) == "1"
    # The model of that name in the default workspace is another, and nothing governs it.
    assert (
        await scene.native("DELETE", "mlflow/model-versions/delete", version, workspace="default")
    ).status_code == 200
    assert (
        await scene.native("DELETE", f"{registered}/delete", {"name": model}, workspace="default")
    ).status_code == 200


async def test_a_holder_that_only_mlflow_knows_is_governed_in_its_workspace(scene: Scene) -> None:
    model = scene.model()
    values = {"name": model, "alias": "production", "version": "1"}
    mlflow = scene.court.mlflow
    mlflow.call("POST", "registered-models/alias", values, workspace="team-a")
    await scene.court.policy(models=model, workspaces="team-a")
    root = str(mlflow.folder_of(model, "1", workspace="team-a").relative_to(mlflow.artifacts))
    written = f"mlflow-artifacts/artifacts/{root}/new"
    assert "no promotion put it there" in denied(await scene.native("PUT", written, content=b"evil"))["message"]
    version = {"name": model, "version": "1"}
    assert (
        "no promotion put it there"
        in denied(await scene.native("DELETE", "mlflow/model-versions/delete", version))["message"]
    )


async def test_the_policy_of_the_workspace_wins_over_one_of_any(scene: Scene) -> None:
    model = scene.model()
    await scene.court.policy(models=model, name=f"{model}-any")
    await scene.court.policy(models=model, name=f"{model}-team", workspaces="team-*")
    assert f"'{model}-team'" in denied(await scene.set_alias(model, "1"))["message"]
    assert f"'{model}-any'" in denied(await scene.set_alias(model, "1", workspace="default"))["message"]
    chosen = await scene.get("root", "/policies/for", model=model, alias="production", workspace="team-a")
    assert chosen.json()["policy"]["name"] == f"{model}-team"


async def test_what_nothing_governs_is_resolved_in_its_workspace_and_in_no_other(scene: Scene) -> None:
    model, mlflow, resolver = scene.model(), scene.court.mlflow, scene.court.gateway.services.resolver
    body = {"experiment_id": experiment_of(scene, "team-a"), "name": model}
    logged = mlflow.call("POST", "logged-models", body, workspace="team-a")["model"]["info"]["model_id"]
    everywhere = principal("root", Role.VIEWER)
    uris = (f"models:/{logged}", f"models:/{model}/latest", f"models:/{model}/1")
    for uri in uris:
        found = await resolver.resolve(everywhere, uri, workspace="team-a")
        assert found.uri.startswith(f"{mlflow.artifacts.as_uri()}/workspaces/team-a/")
        outsider = of(Role.SERVING, workspace="team-b")
        with pytest.raises(NotFound):
            await resolver.resolve(outsider, uri, workspace="team-a")
        with pytest.raises(NotFound):
            await resolver.resolve(everywhere, uri, workspace="team-b")
    with pytest.raises(NotFound):
        await resolver.resolve(everywhere, uris[0])
    assert "/workspaces/default/" in (await resolver.resolve(everywhere, uris[1])).uri
    # MLflow takes an address in another workspace's folder.
    theirs = (await resolver.resolve(everywhere, uris[2], workspace="team-a")).uri
    for workspace in ("default", "team-b"):
        with pytest.raises(Unresolvable, match="is not of workspace"):
            scene.court.settings.storage.physical_uri(theirs, workspace=workspace)


def experiment_of(scene: Scene, workspace: str) -> str:
    body = {"name": f"of-{time.monotonic_ns()}"}
    return str(scene.court.mlflow.call("POST", "experiments/create", body, workspace=workspace)["experiment_id"])


async def test_an_alias_of_a_workspace_is_resolved_followed_and_rolled_back_there(scene: Scene) -> None:
    model = scene.model()
    await scene.court.policy(models=model, workspaces="team-a", targets=["t"])
    async with scene.court.database.unit_of_work() as work:
        await work.targets.put(Target("t", "http://127.0.0.1:1/", ("env:A",), ("env:B",)), at=scene.court.clock.now())
        await work.commit()
    first, second = await scene.promoted(model, "1"), await scene.promoted(model, "2")
    assert (first.state, second.state) == (State.ROLLING_OUT, State.ROLLING_OUT)

    uri = f"models:/{model}@production"
    there = (await scene.get("root", "/resolve", uri=uri, workspace="team-a")).json()
    assert (there["workspace"], there["version"], there["uri"]) == ("team-a", "2", second.uri)
    assert (await scene.get("root", "/resolve", uri=uri)).status_code == 404
    by_number = (await scene.get("root", "/resolve", uri=f"models:/{model}/2", workspace="team-a")).json()
    assert (by_number["uri"], by_number["promotion_id"]) == (second.uri, second.id)
    elsewhere = (await scene.get("root", "/resolve", uri=f"models:/{model}/2")).json()
    assert (elsewhere["workspace"], elsewhere["promotion_id"]) == ("default", None)
    assert elsewhere["uri"] != second.uri

    (deployment,) = (await scene.get("root", "/deployments", model=model)).json()["items"]
    assert (deployment["workspace"], deployment["resource"]) == ("team-a", f"team-a/{model}")
    assert (await scene.get("root", "/deployments", model=model, workspace="default")).json()["items"] == []
    async with scene.court.database.unit_of_work() as work:
        (sent, *_) = await work.deliveries.page(DeliveryFilter(receiver=Receiver(ReceiverKind.TARGET, "t")))
    assert sent.subject == f"t/team-a/{model}"
    data = json.loads(sent.body)["data"]
    assert data["model"]["name"] == data["resource"] == sent.lane == f"team-a/{model}"

    alias = f"/models/{model}/aliases/production"
    held = (await scene.get("root", alias, workspace="team-a")).json()
    assert (held["workspace"], held["version"], held["promotion_id"]) == ("team-a", "2", second.id)
    assert (await scene.get("root", alias)).status_code == 404
    listed = (await scene.get("root", "/promotions", model=model, workspace="team-a")).json()["items"]
    assert [each["id"] for each in listed] == [second.id, first.id]
    assert (await scene.get("root", "/promotions", model=model, workspace="team-b")).json()["items"] == []
    explained = await scene.get(
        "bob", "/promotions/explain", model=model, alias="production", version="1", workspace="team-a"
    )
    assert (explained.status_code, explained.json()["workspace"]) == (200, "team-a")


async def test_a_rollback_in_a_workspace_goes_back_there(scene: Scene) -> None:
    model = scene.model()
    await scene.court.policy(models=model, workspaces="team-a")
    await scene.promoted(model, "1")
    await scene.promoted(model, "2")
    path = f"/control/v1/models/{model}/aliases/production/rollback"
    assert (await scene.call("bob", "POST", path)).status_code == 404
    asked = await scene.call("bob", "POST", path, params={"workspace": "team-a"})
    assert (asked.status_code, asked.json()["workspace"]) == (201, "team-a")
    async with scene.court.database.unit_of_work() as work:
        rollback = await work.promotions.get(asked.json()["id"])
    assert rollback.kind is Kind.ROLLBACK
    await scene.court.work(rollback)
    assert (scene.holder(model), scene.holder(model, workspace="default")) == ("1", None)


def of(role: Role, name: str = "ada", **on: str) -> Principal:
    return principal(name, grants=[Grant("g", role, Subject(group="*"), Reach(**on))])


async def test_a_grant_on_a_workspace_is_on_the_promotions_of_that_workspace_alone(scene: Scene) -> None:
    model, promotions = scene.model(), scene.court.promotions
    await scene.court.policy(models=model)
    there = await scene.court.ask(model, workspace="team-a", by=of(Role.REQUESTER, workspace="team-a"))
    here = await scene.court.ask(model, by=of(Role.REQUESTER, workspace="default"))
    for outsider in (
        of(Role.REQUESTER, workspace="default"),
        of(Role.REQUESTER, workspace="team-b"),
        of(Role.REQUESTER, model=model),  # a grant on a model opens no workspace
        of(Role.REQUESTER, alias="production"),
    ):
        with pytest.raises(Forbidden):
            await scene.court.ask(model, "2", workspace="team-a", by=outsider)
        with pytest.raises(NotFound):
            await promotions.get(outsider, there.id)
    with pytest.raises(Forbidden):
        await scene.court.ask(model, "2", by=of(Role.REQUESTER, workspace="team-a"))
    grant = Grant(f"{model}-bob", Role.APPROVER, Subject(person=of(Role.VIEWER, "bob").id), Reach(workspace="team-a"))
    async with scene.court.database.unit_of_work() as work:
        await work.grants.put(grant, at=scene.court.clock.now(), by="the test")
        await work.commit()
    approver = of(Role.APPROVER, "bob", workspace="team-a")
    for wanted in (Filter(model=model), Filter(model=model, awaiting=approver.id)):
        assert [each.id for each in await promotions.page(approver, wanted)] == [there.id]
    with pytest.raises(NotFound):
        await scene.court.approve(here, approver)
    assert (await scene.court.approve(there, approver)).state is State.APPROVED
    key = AliasKey("team-a", model, "production")
    assert await promotions.may_on_alias(approver, Permission.PROMOTIONS_DECIDE, key)
    assert not await promotions.may_on_alias(approver, Permission.PROMOTIONS_DECIDE, AliasKey("default", *key_of(key)))


def key_of(key: AliasKey) -> tuple[str, str]:
    return key.model, key.alias


CALLS: Mapping[str, tuple[str, str, str, Mapping[str, str]]] = {
    "ask": ("ada", "POST", "/promotions", {"model": "m", "version": "1", "alias": "production"}),
    "explain": ("bob", "GET", "/promotions/explain", {"model": "m", "version": "1", "alias": "production"}),
    "resolve": ("root", "GET", "/resolve", {"uri": "models:/m@production"}),
    "look": ("root", "GET", "/models/m/aliases/production", {}),
    "roll back": ("bob", "POST", "/models/m/aliases/production/rollback", {}),
    "checks": ("root", "GET", "/models/m/versions/1/checks", {}),
}
"""Who asks for what where the workspace is named."""


async def in_a_workspace(http: httpx.AsyncClient, issuer: Issuer, call: str, workspace: str) -> httpx.Response:
    who, method, path, values = CALLS[call]
    named = {**values, "workspace": workspace}
    sent: Mapping[str, Any] = {"json": named} if path == "/promotions" else {"params": named}
    headers = {"Authorization": f"Bearer {issuer.token(who, groups=[GROUPS[who]])}"}
    return await http.request(method, f"/control/v1{path}", headers=headers, **sent)


@pytest.mark.parametrize("call", CALLS)
async def test_a_workspace_that_does_not_exist_has_nothing(scene: Scene, call: str) -> None:
    answer = await in_a_workspace(scene.http, scene.issuer, call, "nowhere")
    assert answer.status_code == 404
    assert "m in workspace nowhere" in answer.json()["detail"]
    for name in ("Team-A", "team_a", "team-a\n", "-a", "ｔeam-a", "a", ""):
        malformed = await in_a_workspace(scene.http, scene.issuer, call, name)
        assert (malformed.status_code, malformed.json().get("field")) == (400, "workspace"), name


@pytest.fixture(scope="module")
async def without(
    server: MlflowServer, postgres: Callable[[str], str], template_database: str, issuer: Issuer
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway that does not know of workspaces."""
    with database_of(postgres, template_database) as url:
        async with open_court(url, server, issuer) as court:
            app = describe()
            app.state.services = court.gateway.services
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=court.settings.public_url) as http:
                yield http


@pytest.mark.parametrize("call", CALLS)
async def test_no_workspace_is_named_where_there_are_none(
    without: httpx.AsyncClient, issuer: Issuer, call: str
) -> None:
    answer = await in_a_workspace(without, issuer, call, "team-a")
    assert (answer.status_code, answer.json().get("field")) == (400, "workspace"), answer.text
    assert "the MLflow server has none" in answer.json()["detail"]
    assert (await in_a_workspace(without, issuer, call, "default")).status_code == 404


async def test_breaking_the_glass_names_a_workspace_there_can_be(scene: Scene) -> None:
    wanted = Wanted(AliasKey("team a", "m", "production"), "1", "it is down")
    with pytest.raises(InvalidInput, match="workspace"):
        await scene.court.promotions.break_glass(scene.court.person("eve", "responders"), wanted)


async def test_versions_are_told_of_each_workspace(scene: Scene) -> None:
    court = scene.court
    await court.worker.new_versions.look()
    model = scene.model(versions=1)
    answer = await scene.native("POST", "mlflow/model-versions/create", {"name": model, "source": f"models:/{model}/1"})
    assert answer.is_success, answer.text
    court.clock.ahead += SETTLED
    await court.worker.new_versions.look()
    court.clock.ahead -= SETTLED
    found = [each.event for each in await events_of(court.database) if each.event.key.model == model]
    assert {(each.key.workspace, each.subject, each.data["by"]) for each in found} == {
        ("team-a", f"team-a/{model}/2", "ada"),
        ("team-a", f"team-a/{model}/1", None),
        ("default", f"{model}/1", None),
    }
    assert len(found) == 3
