"""The command that prints the table of routes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from app.cli.routes import routes
from app.domain.errors import InvalidConfiguration
from app.domain.routes import ROUTES, matrix
from app.settings import load_settings

OPEN = "COUNTERSIGN_OPEN_ROUTES"


@pytest.fixture(autouse=True)
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OPEN, raising=False)


def test_every_route_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    routes(json=True)
    rows = json.loads(capsys.readouterr().out)

    assert [(row["method"], row["template"]) for row in rows] == [(each.method, each.template) for each in matrix()]
    assert len(rows) > 1000
    assert {frozenset(row) for row in rows} == {
        frozenset({"method", "template", "class", "permission", "decision", "opened_by", "reason"})
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


def rows_of(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], dict[str, str | None]]:
    routes(json=True)
    return {(row["method"], row["template"]): row for row in json.loads(capsys.readouterr().out)}


def test_what_is_opened_is_printed_as_it_is_opened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(capsys)
    monkeypatch.setenv(OPEN, "webhooks, server-jobs")
    after = rows_of(capsys)
    changed = {name for name in before if before[name] != after[name]}

    assert changed == {name for name in before if before[name]["opened_by"] in {"webhooks", "server-jobs"}}
    for name in changed:
        assert (before[name]["decision"], after[name]["decision"]) == ("refuse", "forward")
        assert after[name]["permission"] == "server:administer"
    assert before["POST", "/ajax-api/3.0/mlflow/demo/generate"]["opened_by"] is None


@pytest.mark.parametrize("command", [lambda: routes(json=True), load_settings])
def test_what_cannot_be_opened_is_named_with_its_variable(
    command: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPEN, "webhooks,demo")

    with pytest.raises(InvalidConfiguration, match="COUNTERSIGN_OPEN_ROUTES: demo cannot be opened: The demo moves"):
        command()


def test_every_route_is_printed_for_people_without_cutting_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    routes(json=False)
    printed = capsys.readouterr().out

    for route in ROUTES:
        assert route.template in printed
