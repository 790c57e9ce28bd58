"""The command that prints the table of routes."""

from __future__ import annotations

import json

import pytest

from app.cli.routes import routes
from app.domain.routes import ROUTES


def test_every_route_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    routes(json=True)
    rows = json.loads(capsys.readouterr().out)

    assert len(rows) == len(ROUTES)
    assert {frozenset(row) for row in rows} == {
        frozenset({"method", "template", "class", "permission", "decision", "reason"})
    }
    assert {
        "method": "POST",
        "template": "/api/2.0/mlflow/registered-models/alias",
        "class": "alias-mutation",
        "permission": "registry:read",
        "decision": "guard",
    }.items() <= next(
        row for row in rows if row["template"] == "/api/2.0/mlflow/registered-models/alias" and row["method"] == "POST"
    ).items()


def test_every_route_is_printed_for_people_without_cutting_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    routes(json=False)
    printed = capsys.readouterr().out

    for route in ROUTES:
        assert route.template in printed
