"""The table of routes against the installed MLflow: no route is missing, none is gone, no message has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.domain.canonical import canonical_artifact_path
from app.domain.routes import MESSAGES, ROUTES, Message, RouteClass
from app.domain.routes.messages import ListOf, Scalar

WALK = Path(__file__).with_name("mlflow_walk.py")
ARTIFACT_PATHS = [
    "1/models/m-0123456789abcdef0123456789abcdef/artifacts/MLmodel",
    "a b/c+d=e,(1)~@.txt",
    "größe/図/表.png",
    "x[1]{2}!$&'*",
    "~/.hidden",
    "a@b/c",
    "$HOME/a",
    "&a=b",
]
ONLY_WITH_AUTH = {RouteClass.USER_ADMIN, RouteClass.USER_SELF}

Pairs = set[tuple[str, str]]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What MLflow answers to, found by loading it in a process of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-this-walk",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "nobody-logs-in-to-this-walk",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    walk = subprocess.run(
        [sys.executable, "-W", "ignore", str(WALK), json.dumps(ARTIFACT_PATHS)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert walk.returncode == 0, walk.stderr
    found: dict[str, Any] = json.loads(walk.stdout.splitlines()[-1])
    return found


def pairs(listed: list[list[str]]) -> Pairs:
    return {(method, path) for method, path in listed}


def tabled(*, with_auth: bool) -> Pairs:
    return {
        (route.method, route.template.replace("<path:", "<"))
        for route in ROUTES
        if route.method != "HEAD" and (route.route_class in ONLY_WITH_AUTH) == with_auth
    }


def test_the_walk_saw_both_frameworks(walked: dict[str, Any]) -> None:
    assert len(walked["native"]) > 60
    assert len(walked["flask"]) > 350
    assert len(pairs(walked["native"]) | pairs(walked["flask"])) > 400


def test_every_route_of_mlflow_is_in_the_table_and_none_is_gone(walked: dict[str, Any]) -> None:
    served = pairs(walked["native"]) | pairs(walked["flask"])

    assert served - tabled(with_auth=False) == set(), "MLflow serves routes that the table lacks"
    assert tabled(with_auth=False) - served == set(), "the table lists routes that MLflow no longer serves"


def test_every_route_of_its_auth_app_is_in_the_table_and_none_is_gone(walked: dict[str, Any]) -> None:
    assert len(walked["auth"]) > 40
    assert pairs(walked["auth"]) == tabled(with_auth=True)


def test_every_judged_message_has_the_fields_that_mlflow_reads(walked: dict[str, Any]) -> None:
    judged = [route for route in ROUTES if route.message and route.template.startswith("/api/")]

    assert {route.message.name for route in judged if route.message} == set(MESSAGES)
    for route in judged:
        assert route.message is not None
        described = walked["messages"][f"{route.method} {route.template}"]
        assert _described(route.message) == described, f"{route.method} {route.template}"


def _described(message: Message) -> dict[str, Any]:
    """The message as the walk describes one; aliases and versions are strings to protobuf."""
    fields: dict[str, Any] = {}
    for name, kind in message.fields.items():
        if isinstance(kind, ListOf):
            fields[name] = _described(kind.message)
        else:
            fields[name] = "boolean" if kind is Scalar.BOOLEAN else "string"
    return {"name": message.name, "fields": fields}


def test_mlflow_reads_an_accepted_artifact_path_as_it_stands(walked: dict[str, Any]) -> None:
    for path in ARTIFACT_PATHS:
        assert canonical_artifact_path(path) == path
        assert walked["normalised"][path] == path
