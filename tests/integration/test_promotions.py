"""A promotion from asking to applied, over HTTP, on real PostgreSQL and a real MLflow server."""

from __future__ import annotations

import pytest

from tests.platform import Countersign, MlflowServer


@pytest.fixture
def running(countersign: Countersign) -> Countersign:
    countersign.start("gateway")
    countersign.start("worker")
    return countersign


def test_an_approved_promotion_moves_the_alias(
    running: Countersign, mlflow_server: MlflowServer, model_name: str
) -> None:
    mlflow_server.register(model_name)
    promotion = running.ask(model_name, "1")
    assert promotion["state"] == "pending"
    assert running.approve(promotion["id"]).status_code == 200
    done = running.follow(promotion["id"], "applied")
    assert done["alias_moved"]
    assert done["settled"]
    assert mlflow_server.holder(model_name) == "1"
    assert running.audit(promotion["id"]) == [
        "promotion.requested",
        "promotion.approved",
        "promotion.applying",
        "promotion.applied",
    ]
