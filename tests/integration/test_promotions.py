"""A promotion from asking to applied, over HTTP, on real PostgreSQL and a real MLflow server."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import httpx
import pytest

from tests.platform import Countersign, MlflowServer

STORY = ["promotion.requested", "decision.approved", "promotion.approved", "promotion.applying", "promotion.applied"]


@pytest.fixture
def model(mlflow_server: MlflowServer, model_name: str) -> str:
    mlflow_server.register(model_name, versions=3)
    return model_name


def applied(service: Countersign, model: str, version: str) -> str:
    """Promote a version to the end; the promotion's id."""
    promotion = service.ask(model, version)
    assert service.approve(promotion["id"]).status_code == 200
    service.follow(promotion["id"], "applied")
    return str(promotion["id"])


def test_an_approved_promotion_moves_the_alias(service: Countersign, mlflow_server: MlflowServer, model: str) -> None:
    promotion = service.ask(model, "1")
    assert promotion["state"] == "pending"
    assert mlflow_server.holder(model) is None
    assert service.approve(promotion["id"]).status_code == 200
    done = service.follow(promotion["id"], "applied")
    assert done["alias_moved"]
    assert done["settled"]
    assert mlflow_server.holder(model) == "1"
    assert service.audit(promotion["id"]) == STORY


def test_nothing_moves_without_an_approval(service: Countersign, mlflow_server: MlflowServer, model: str) -> None:
    promotion = service.ask(model, "1")
    answer = service.call("viewer", "GET", f"/promotions/{promotion['id']}", params={"wait": 2})
    assert answer.json()["state"] == "pending"
    assert mlflow_server.holder(model) is None


def test_asking_again_for_the_same_version_answers_the_same_promotion(service: Countersign, model: str) -> None:
    first = service.call(
        "scientist", "POST", "/promotions", json={"model": model, "alias": "production", "version": "1"}
    )
    again = service.call(
        "scientist", "POST", "/promotions", json={"model": model, "alias": "production", "to_version": 1}
    )
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["id"] == first.json()["id"]
    service.approve(first.json()["id"])
    service.follow(first.json()["id"], "applied")
    assert service.ask(model, "1")["id"] == first.json()["id"]


def test_a_newer_promotion_takes_the_place_of_one_that_waits(service: Countersign, model: str) -> None:
    older, newer = service.ask(model, "1"), service.ask(model, "2")
    assert service.follow(older["id"], "superseded")["state_reason"] == f"superseded by {newer['id']}"
    assert service.approve(older["id"]).status_code == 409


# Who may decide.


@pytest.mark.parametrize(
    ("who", "problem"),
    [
        ("scientist", "self-approval"),
        ("administrator", "forbidden"),
        ("approving-service", "not-an-approver"),
        ("viewer", "forbidden"),
        ("serving", "forbidden"),
        ("stranger", "forbidden"),
    ],
)
def test_who_may_not_decide_is_refused_and_recorded(service: Countersign, model: str, who: str, problem: str) -> None:
    promotion = service.ask(model, "1")
    for verb in ("approve", "reject"):
        path = f"/promotions/{promotion['id']}/{verb}"
        refused = service.call(who, "POST", path)
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["type"].endswith(f":{problem}")
        assert service.audit(f"POST /control/v1{path}") == ["access.denied"]
    assert service.call("viewer", "GET", f"/promotions/{promotion['id']}").json()["state"] == "pending"


def test_an_approver_who_asked_cannot_approve_but_another_can(service: Countersign, model: str) -> None:
    promotion = service.ask(model, "1", who="scientist-and-approver")
    assert service.approve(promotion["id"], who="scientist-and-approver").status_code == 403
    assert service.approve(promotion["id"], who="second-approver").status_code == 200


@pytest.mark.parametrize("who", ["approver", "viewer", "serving", "administrator", "stranger"])
def test_who_may_not_ask_is_refused(service: Countersign, model: str, who: str) -> None:
    refused = service.call(who, "POST", "/promotions", json={"model": model, "alias": "production", "version": "1"})
    assert refused.status_code == 403
    assert "promotions:request" in refused.json()["detail"]


def test_nobody_without_a_token_reads_or_writes(service: Countersign) -> None:
    for method, path in [
        ("GET", "/promotions"),
        ("POST", "/promotions"),
        ("GET", "/audit"),
        ("GET", "/resolve"),
        ("GET", "/me"),
    ]:
        answer = service.call(None, method, path)
        assert answer.status_code == 401
        assert 'resource_metadata="' in answer.headers["www-authenticate"]


# Decisions.


def test_approving_twice_is_a_conflict_that_names_the_state(service: Countersign, model: str) -> None:
    promotion = applied(service, model, "1")
    for who in ("approver", "second-approver"):
        again = service.approve(promotion, who=who)
        assert again.status_code == 409
        assert again.json()["state"] == "applied"


def test_a_rejection_closes_a_promotion(service: Countersign, mlflow_server: MlflowServer, model: str) -> None:
    promotion = service.ask(model, "1")
    rejected = service.call("approver", "POST", f"/promotions/{promotion['id']}/reject", json={"reason": "too slow"})
    assert rejected.json()["state"] == "rejected"
    assert rejected.json()["decisions"][0]["reason"] == "too slow"
    refused = service.approve(promotion["id"], who="second-approver")
    assert refused.status_code == 409
    assert refused.json()["state"] == "rejected"
    assert mlflow_server.holder(model) is None
    assert service.ask(model, "1")["id"] != promotion["id"]


def test_only_who_asked_withdraws(service: Countersign, model: str) -> None:
    promotion = service.ask(model, "1")
    path = f"/promotions/{promotion['id']}/withdraw"
    assert service.call("scientist-and-approver", "POST", path).status_code == 403
    assert service.call("approver", "POST", path).status_code == 403
    assert service.call("scientist", "POST", path).json()["state"] == "withdrawn"
    again = service.call("scientist", "POST", path)
    assert (again.status_code, again.json()["state"]) == (409, "withdrawn")


def test_what_was_applied_cannot_be_withdrawn(service: Countersign, model: str) -> None:
    promotion = applied(service, model, "1")
    assert service.call("scientist", "POST", f"/promotions/{promotion}/withdraw").status_code == 409


# What was approved is what is applied.


def test_a_promotion_is_stale_when_the_alias_was_moved_past_the_gateway(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = service.ask(model, "1")
    mlflow_server.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "3"})
    service.approve(promotion["id"])
    stale = service.follow(promotion["id"], "stale")
    assert "version 3" in stale["state_reason"]
    assert mlflow_server.holder(model) == "3"


def test_a_promotion_is_stale_when_its_bytes_changed(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = service.ask(model, "1")
    (mlflow_server.folder_of(model, "1") / "weights" / "model.bin").write_bytes(b"another model")
    service.approve(promotion["id"])
    assert "digest" in service.follow(promotion["id"], "stale")["state_reason"]
    assert mlflow_server.holder(model) is None


def test_a_promotion_is_stale_when_its_version_is_gone(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = service.ask(model, "1")
    mlflow_server.call("DELETE", "model-versions/delete", {"name": model, "version": "1"})
    service.approve(promotion["id"])
    assert "version 1" in service.follow(promotion["id"], "stale")["state_reason"]


def test_a_promotion_is_stale_when_the_model_was_deleted_and_created_again(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    promotion = service.ask(model, "1")
    mlflow_server.call("DELETE", "registered-models/delete", {"name": model})
    mlflow_server.register(model)
    service.approve(promotion["id"])
    assert "created again" in service.follow(promotion["id"], "stale")["state_reason"]
    assert mlflow_server.holder(model) is None


# Rollback and history.


def test_a_rollback_puts_the_last_holder_back_at_once(
    service: Countersign, mlflow_server: MlflowServer, model: str
) -> None:
    first, second = applied(service, model, "1"), applied(service, model, "2")
    before = datetime.now(UTC)
    path = f"/models/{model}/aliases/production"
    rollback = service.call("approver", "POST", f"{path}/rollback", json={"reason": "worse in production"})
    assert rollback.status_code == 201
    assert (rollback.json()["kind"], rollback.json()["rolls_back"]) == ("rollback", second)
    service.follow(rollback.json()["id"], "applied")
    assert mlflow_server.holder(model) == "1"
    assert service.follow(second, "rolled_back")["state_reason"] == f"rolled back by {rollback.json()['id']}"
    now = service.call("viewer", "GET", path).json()
    assert (now["version"], now["promotion_id"]) == ("1", rollback.json()["id"])
    then = service.call("viewer", "GET", path, params={"at": before.isoformat()}).json()
    assert (then["version"], then["promotion_id"]) == ("2", second)
    history = service.call("viewer", "GET", f"{path}/history").json()["items"]
    assert [item["promotion_id"] for item in history] == [rollback.json()["id"], second, first]
    assert [item["version"] for item in history] == ["1", "2", "1"]


def test_a_rollback_without_an_earlier_holder_is_refused(service: Countersign, model: str) -> None:
    path = f"/models/{model}/aliases/production/rollback"
    assert service.call("approver", "POST", path).status_code == 404
    applied(service, model, "1")
    assert service.call("approver", "POST", path).status_code == 404


@pytest.mark.parametrize("who", ["scientist", "viewer", "administrator", "serving"])
def test_who_may_not_roll_back_is_refused(service: Countersign, model: str, who: str) -> None:
    assert service.call(who, "POST", f"/models/{model}/aliases/production/rollback").status_code == 403


# Following and listing.


def test_a_waiting_reader_is_answered_when_the_promotion_changes(service: Countersign, model: str) -> None:
    promotion = service.ask(model, "1")
    seen = service.call("viewer", "GET", f"/promotions/{promotion['id']}")
    answers: list[httpx.Response] = []

    def wait() -> None:
        headers = {"If-None-Match": seen.headers["etag"]}
        path = f"/promotions/{promotion['id']}"
        answers.append(service.call("viewer", "GET", path, params={"wait": 50}, headers=headers))

    waiting = threading.Thread(target=wait)
    waiting.start()
    service.call("approver", "POST", f"/promotions/{promotion['id']}/reject")
    waiting.join(timeout=30)
    assert answers
    assert answers[0].json()["state"] == "rejected"
    assert answers[0].headers["etag"] != seen.headers["etag"]


def test_a_settled_promotion_is_answered_at_once(service: Countersign, model: str) -> None:
    promotion = service.ask(model, "1")
    service.call("scientist", "POST", f"/promotions/{promotion['id']}/withdraw")
    seen = service.call("viewer", "GET", f"/promotions/{promotion['id']}").headers["etag"]
    answer = service.call(
        "viewer", "GET", f"/promotions/{promotion['id']}", params={"wait": 60}, headers={"If-None-Match": seen}
    )
    assert answer.json()["state"] == "withdrawn"


def test_lists_are_paged_newest_first_without_gaps(service: Countersign, model: str) -> None:
    asked = [service.ask(model, version)["id"] for version in ("1", "2", "3")]
    pages, cursor = [], None
    while True:
        params = {"model": model, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = service.call("viewer", "GET", "/promotions", params=params).json()
        pages += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert pages == asked[::-1]


def test_lists_are_filtered(service: Countersign, model: str) -> None:
    older, newer = service.ask(model, "1"), service.ask(model, "2", who="scientist-and-approver")

    def ids(who: str = "scientist", **params: object) -> list[str]:
        answer = service.call(who, "GET", "/promotions", params={"model": model, **params})
        return [item["id"] for item in answer.json()["items"]]

    assert ids(state="pending") == [newer["id"]]
    assert ids(state=["pending", "superseded"]) == [newer["id"], older["id"]]
    assert ids(mine=True) == [older["id"]]
    assert ids(alias="staging") == []


# Two at once.


def test_of_many_who_approve_at_once_exactly_one_does(service: Countersign, model: str) -> None:
    promotion = service.ask(model, "1")
    statuses = _at_once(
        lambda number: service.approve(promotion["id"], who=("approver", "second-approver")[number % 2])
    )
    assert sorted(statuses)[:1] == [200]
    assert set(statuses) == {200, 409}
    assert statuses.count(200) == 1
    service.follow(promotion["id"], "applied")
    assert service.audit(promotion["id"]) == STORY


def test_of_an_approval_and_a_withdrawal_at_once_one_wins(service: Countersign, model: str) -> None:
    promotion = service.ask(model, "1")
    path = f"/promotions/{promotion['id']}"
    calls = [("approver", f"{path}/approve"), ("scientist", f"{path}/withdraw")]
    statuses = _at_once(lambda number: service.call(calls[number % 2][0], "POST", calls[number % 2][1]))
    settled = service.follow(promotion["id"], "applied", "withdrawn")
    actions = service.audit(promotion["id"])
    assert statuses.count(200) in {1, 2}
    if settled["state"] == "withdrawn":
        assert "promotion.applying" not in actions
    else:
        assert actions == STORY


def test_many_who_ask_at_once_get_one_promotion(service: Countersign, model: str) -> None:
    ids: list[str] = []

    def ask(_number: int) -> httpx.Response:
        answer = service.call(
            "scientist", "POST", "/promotions", json={"model": model, "alias": "production", "version": "1"}
        )
        ids.append(answer.json()["id"])
        return answer

    statuses = _at_once(ask)
    assert statuses.count(201) == 1
    assert statuses.count(200) == len(statuses) - 1
    assert len(set(ids)) == 1


def _at_once(call: object, *, times: int = 8) -> list[int]:
    barrier = threading.Barrier(times)
    statuses: list[int] = []

    def run(number: int) -> None:
        barrier.wait()
        statuses.append(call(number).status_code)  # type: ignore[operator]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses
