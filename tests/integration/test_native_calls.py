"""MLflow's own calls on what a policy protects: set at once where nothing holds it up, else refused with what does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.adapters.assertions import GatewayAssertion
from app.adapters.mlflow_registry import MlflowRegistry
from app.domain.errors import InvalidInput, PromotionRequired
from app.domain.promotions import AliasKey, State
from app.domain.routes import Done, Guard
from app.services.guarding import RegistryGuard
from app.services.holders import AliasHoldersInMlflow
from app.services.promotions import Wanted
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import Countersign, MlflowServer

STORY = Path(__file__).with_name("alias_story.py")
AUTO = {"autoApprove": True}
FAILING = {**AUTO, "checks": [{"name": "tagged", "expression": 'candidate.tags["dvc"] == "abc"'}]}
GROUPS = {"ada": "scientists", "root": "administrators"}


@dataclass
class Scene:
    court: Court
    through: httpx.AsyncClient
    guard: RegistryGuard
    """Of a gateway that waits for no worker."""
    issuer: Issuer

    async def native(self, method: str, path: str, body: Mapping[str, object], who: str = "ada") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.issuer.token(who, groups=[GROUPS[who]])}"}
        return await self.through.request(method, f"/api/2.0/mlflow/{path}", headers=headers, json=body)

    async def set_alias(self, model: str, version: str, alias: str = "production") -> httpx.Response:
        body = {"name": model, "alias": alias, "version": version}
        return await self.native("POST", "registered-models/alias", body)

    async def asks(self, model: str, version: str = "1") -> object:
        """Set the alias, with no patience."""
        fields = {"name": model, "alias": "production", "version": version}
        return await self.guard.check(Guard.ALIAS_SET, self.court.ada, fields)


@pytest.fixture(scope="module")
async def scene(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Scene]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            registry = MlflowRegistry([mlflow_server.url], GatewayAssertion(None, court.clock))
            work, destination = court.database.unit_of_work, court.settings.artifacts_destination
            holders = AliasHoldersInMlflow(work, registry, court.clock, artifacts_destination=destination)
            guard = RegistryGuard(
                work,
                registry,
                court.promotions,
                holders,
                public_url=court.settings.public_url,
                artifacts_destination=destination,
                at_once_s=0,
            )
            transport = httpx.ASGITransport(court.gateway.proxy)
            async with httpx.AsyncClient(transport=transport, base_url=court.settings.public_url) as through:
                yield Scene(court, through, guard, issuer)
            await holders.close()
            await registry.close()


def denied(answer: httpx.Response) -> str:
    assert answer.status_code == 403, answer.text
    assert answer.json()["error_code"] == "PERMISSION_DENIED"
    return str(answer.json()["message"])


# At once.


def test_the_unmodified_client_sets_an_alias_at_once_where_nothing_holds_it_up(
    service: Countersign, mlflow_server: MlflowServer, model_name: str, tmp_path: Path
) -> None:
    auto, failing, waiting = (f"{model_name}-{word}" for word in ("auto", "failing", "waiting"))
    for model, rules in ((auto, AUTO), (failing, FAILING), (waiting, {})):
        mlflow_server.register(model)
        if rules:
            document = {"kind": "Policy", "name": model, "models": model, "alias": "production", **rules}
            written = service.call("administrator", "PUT", f"/policies/{model}", json=document)
            assert written.is_success, written.text
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": service.url,
        "MLFLOW_TRACKING_TOKEN": service.token("scientist"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    story = subprocess.run(
        [sys.executable, "-W", "ignore", str(STORY), auto, failing, waiting],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert story.returncode == 0, story.stderr
    told = json.loads(story.stdout.splitlines()[-1])
    assert told[auto] == ["set", "1"]
    assert mlflow_server.holder(auto) == "1"
    code, message = told[failing]
    assert code == "PERMISSION_DENIED"
    assert "candidate.tags" in message
    assert f"{service.url}/console/promotions/prm_" in message
    code, message = told[waiting]
    assert code == "PERMISSION_DENIED"
    assert "waits for 1 approval by role approver" in message
    assert (mlflow_server.holder(failing), mlflow_server.holder(waiting)) == (None, None)


async def test_while_no_worker_runs_the_call_says_where_to_look(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, **AUTO)
    with pytest.raises(PromotionRequired) as refused:
        await scene.asks(model)
    assert refused.value.details["state"] == State.APPROVED.value
    assert f"/console/promotions/{refused.value.details['promotion']}" in refused.value.message
    assert "is about to be applied" in refused.value.message
    promotion = await scene.court.promotions.get(scene.court.bob, str(refused.value.details["promotion"]))
    assert (await scene.court.work(promotion)).state is State.APPLIED
    assert await scene.asks(model) == Done()


# The alias that moves along.


@pytest.mark.parametrize("alias", ["production", "prod-[ab]"])
async def test_an_alias_that_moves_along_does_not_move_by_itself(scene: Scene, alias: str) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, alias=alias, companions={"previous": "previous"})
    for spelled in ("previous", "Previous"):
        said = denied(await scene.set_alias(model, "1", spelled))
        assert f"moves together with '{alias}'" in said
        body = {"name": model, "alias": spelled}
        assert said == denied(await scene.native("DELETE", "registered-models/alias", body))
        assert said == denied(await scene.native("DELETE", "registered-models/alias", body, "root"))
    assert scene.court.mlflow.holder(model, "previous") is None


async def test_who_held_the_alias_before_stays_for_a_rollback(scene: Scene) -> None:
    model = scene.court.model(3)
    await scene.court.policy(models=model, companions={"previous": "previous"})
    await scene.court.promoted(model, "1")
    await scene.court.promoted(model, "2")
    assert scene.court.mlflow.holder(model, "previous") == "1"
    for body in ({"name": model, "version": "1"}, {"name": model, "version": "2"}):
        denied(await scene.native("DELETE", "model-versions/delete", body, "root"))
    answer = await scene.native("DELETE", "model-versions/delete", {"name": model, "version": "3"})
    assert answer.status_code == 200
    assert (scene.court.mlflow.holder(model, "previous"), scene.court.mlflow.holder(model)) == ("1", "2")


# The tags by which policies select.


@pytest.fixture(scope="module")
async def risky(scene: Scene) -> str:
    """A model under the policy for those of high risk."""
    model = scene.court.model(1)
    tag = {"name": model, "key": "risk", "value": "high"}
    scene.court.mlflow.call("POST", "registered-models/set-tag", tag)
    await scene.court.policy(models=f"{model}*", name=f"{model}-any", **AUTO)
    await scene.court.policy(models=f"{model}*", name=f"{model}-risky", tags={"risk": "high"})
    return model


async def test_nobody_chooses_the_policy_of_their_promotions(scene: Scene, risky: str) -> None:
    fresh = f"{risky}-fresh"
    value = {"value": "low"}
    attempts: list[tuple[str, str, Mapping[str, object]]] = [
        ("DELETE", "registered-models/delete-tag", {"name": risky, "key": "risk"}),
        ("DELETE", "registered-models/delete", {"name": risky}),
        ("POST", "registered-models/rename", {"name": risky, "new_name": f"{risky}-b"}),
    ]
    for key in ("risk", "RISK", "ｒｉｓｋ", " risk", "risk "):
        attempts += [
            ("POST", "registered-models/set-tag", {"name": risky, "key": key, **value}),
            (
                "POST",
                "registered-models/create",
                {"name": fresh, "tags": [{"key": "a", **value}, {"key": key, **value}]},
            ),
        ]
    for method, path, body in attempts:
        for prefix in ("/api", "/ajax-api"):
            headers = {"Authorization": f"Bearer {scene.issuer.token('ada', groups=['scientists'])}"}
            answer = await scene.through.request(method, f"{prefix}/2.0/mlflow/{path}", headers=headers, json=body)
            assert f"'{risky}-risky'" in denied(answer), (path, body)
    found = scene.court.mlflow.call("GET", "registered-models/get", {"name": risky})["registered_model"]
    assert found["tags"] == [{"key": "risk", "value": "high"}]
    described = await scene.native("PATCH", "registered-models/update", {"name": risky, "description": "d"})
    assert described.status_code == 200
    assert "waits for 1 approval" in denied(await scene.set_alias(risky, "1"))
    # Other tags, and models without the tag, are anybody's.
    assert (
        await scene.native("POST", "registered-models/set-tag", {"name": risky, "key": "team", "value": "x"})
    ).is_success
    tags = [{"key": "team", "value": "x"}]
    assert (await scene.native("POST", "registered-models/create", {"name": fresh, "tags": tags})).is_success
    assert (await scene.native("DELETE", "registered-models/delete", {"name": fresh})).is_success


async def test_an_administrator_of_policies_sets_the_tags_by_which_they_select(scene: Scene, risky: str) -> None:
    named = f"{risky}-tagged"
    tags = [{"key": "risk", "value": "high"}]
    assert (await scene.native("POST", "registered-models/create", {"name": named, "tags": tags}, "root")).is_success
    assert (
        await scene.native("POST", "registered-models/set-tag", {"name": named, "key": "risk", "value": "low"}, "root")
    ).is_success
    denied(await scene.native("DELETE", "registered-models/delete", {"name": named}))
    assert (await scene.native("DELETE", "registered-models/delete", {"name": named}, "root")).is_success


# Names.

NO_ALIASES = {
    "a trailing newline": "production\n",
    "a space": "production ",
    "a NUL": "production\0",
    "a Cyrillic letter": "produсtion",
    "a full-width letter": "ｐroduction",
    "a combining mark": "productíon",
    "an invisible character": "produc\u200btion",
    "nothing": "",
    "a slash": "prod/uction",
    "an at sign": "a@b",
    "too long": "a" * 256,
    "MLflow's own": "latest",
    "MLflow's own in capitals": "LATEST",
    "a version": "v7",
}


@pytest.mark.parametrize("name", NO_ALIASES)
async def test_what_is_no_name_of_an_alias_is_refused_wherever_it_is_said(scene: Scene, name: str) -> None:
    court, alias = scene.court, NO_ALIASES[name]
    key = AliasKey("default", "m", alias)
    answer = await scene.set_alias("m", "1", alias)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "alias" in answer.json()["message"]
    attempts: list[Any] = [
        court.promotions.create(court.ada, model="m", alias=alias, version="1"),
        court.promotions.roll_back(court.bob, model="m", alias=alias),
        court.promotions.explain(court.bob, Wanted(key, "1")),
        court.promotions.break_glass(court.person("eve", "responders"), Wanted(key, "1", "it is down")),
        court.gateway.services.aliases.get(court.bob, key),
        court.gateway.services.aliases.history(court.bob, key),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInput) as refused:
            await attempt
        assert refused.value.details["field"] == "alias"


async def test_another_case_of_a_protected_alias_is_protected_too(scene: Scene) -> None:
    model = scene.court.model(1)
    await scene.court.policy(models=model)
    assert "waits for 1 approval" in denied(await scene.set_alias(model, "1", "PRODUCTION"))
    assert scene.court.mlflow.holder(model, "PRODUCTION") is None
