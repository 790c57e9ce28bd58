"""The table of routes against MLflow. Of the installed version no route is missing, none is gone, no message has
changed. To the minor version before it, and to the newest, nothing is forwarded that means something else there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.canonical import canonical_artifact_path
from app.domain.routes import MESSAGES, ROUTES, Message, RouteClass, matrix
from app.domain.routes.graphql import INNER_FIELDS, ROOT_FIELDS
from app.domain.routes.messages import ListOf, Scalar
from app.domain.routes.versions import DESCRIBED
from tests.architecture.mlflow_versions import (
    ARTIFACT_PATHS,
    DIFFERENCES,
    Pairs,
    Walked,
    difference,
    environment_of,
    fetching_fields,
    pairs,
    root_fields,
    walk,
)

ONLY_WITH_AUTH = {RouteClass.USER_ADMIN, RouteClass.USER_SELF}
OTHERS = [f"mlflow=={DESCRIBED[0]}.{DESCRIBED[1] - 1}.*", "mlflow"]
"""The minor version before, and the newest."""


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """What the installed MLflow answers to."""
    return walk(Path(sys.executable), tmp_path_factory.mktemp("mlflow"))


def tabled(*, with_auth: bool) -> Pairs:
    return {
        (route.method, route.template.replace("<path:", "<"))
        for route in ROUTES
        if route.method != "HEAD" and (route.route_class in ONLY_WITH_AUTH) == with_auth
    }


def test_the_walk_saw_both_frameworks(walked: Walked) -> None:
    assert len(walked["native"]) > 60
    assert len(walked["flask"]) > 350
    assert len(pairs(walked["native"]) | pairs(walked["flask"])) > 400


def test_every_route_of_mlflow_is_in_the_table_and_none_is_gone(walked: Walked) -> None:
    served = pairs(walked["native"]) | pairs(walked["flask"])

    assert served - tabled(with_auth=False) == set(), "MLflow serves routes that the table lacks"
    assert tabled(with_auth=False) - served == set(), "the table lists routes that MLflow no longer serves"


def test_every_route_of_its_auth_app_is_in_the_table_and_none_is_gone(walked: Walked) -> None:
    assert len(walked["auth"]) > 40
    assert pairs(walked["auth"]) == tabled(with_auth=True)


def test_every_head_and_options_that_flask_adds_is_in_the_matrix(walked: Walked) -> None:
    assert len(walked["implied"]) > 500
    assert pairs(walked["implied"]) - {(route.method, route.template) for route in matrix()} == set()


def test_every_judged_message_has_the_fields_that_mlflow_reads(walked: Walked) -> None:
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


def test_mlflow_reads_an_accepted_artifact_path_as_it_stands(walked: Walked) -> None:
    for path in ARTIFACT_PATHS:
        assert canonical_artifact_path(path) == path
        assert walked["normalised"][path] == path


def test_every_root_field_of_its_graphql_schema_is_listed_and_none_is_gone(walked: Walked) -> None:
    assert len(root_fields(walked)) > 5
    assert root_fields(walked) == {(operation, name) for operation, name in ROOT_FIELDS if name != "__typename"}


def test_every_field_that_fetches_something_below_the_root_is_listed_and_none_is_gone(walked: Walked) -> None:
    assert fetching_fields(walked) == INNER_FIELDS.keys()


def test_the_table_describes_the_installed_version(walked: Walked) -> None:
    assert walked["version"].startswith("{}.{}.".format(*DESCRIBED))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("requirement", OTHERS)
def test_nothing_is_forwarded_to_another_version_that_means_something_else_there(
    requirement: str, walked: Walked, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    other = walk(environment_of(requirement, python=sys.executable), tmp_path)
    assert len(pairs(other["native"]) | pairs(other["flask"])) > 400
    assert len(other["auth"]) > 40
    assert len(root_fields(other)) > 5
    found = difference(walked, other)
    record_property(DIFFERENCES + found.version, found.news)

    assert found.unsafe == []


def test_a_route_that_means_something_else_is_found(walked: Walked) -> None:
    def otherwise(name: str, handler: str) -> Walked:
        return {**walked, "handlers": {**walked["handlers"], name: handler}}

    alias = "POST /api/2.0/mlflow/registered-models/alias"
    assert difference(walked, walked).unsafe == []
    assert difference(walked, otherwise(alias, "flask _something_else")).unsafe != []
    assert difference(walked, otherwise(alias, "fastapi Set Registered Model Alias")).unsafe != []
    assert difference(walked, otherwise("GET /health", "flask health")).unsafe == []
    assert difference(walked, otherwise("GET /api/2.0/mlflow/runs/get", "flask _delete_run")).unsafe != []


def test_a_new_route_below_a_parameter_that_takes_slashes_is_found(walked: Walked) -> None:
    below = ["GET", "/api/3.0/mlflow/mcp-servers/<name>/secrets"]
    elsewhere = ["GET", "/api/3.0/mlflow/skills"]
    found = difference(walked, {**walked, "native": [*walked["native"], below, elsewhere]})

    taken = "GET /api/3.0/mlflow/mcp-servers/<name>/secrets is new, and is forwarded as"
    assert found.unsafe == [f"{taken} /api/3.0/mlflow/mcp-servers/<path:name>"]
    assert found.news == ["GET /api/3.0/mlflow/skills is new"]


def test_a_judged_field_of_another_type_is_found(walked: Walked) -> None:
    name = "POST /api/2.0/mlflow/registered-models/alias"
    message = walked["messages"][name]
    fields: dict[str, Any] = message["fields"]

    def taking(**changed: object) -> Walked:
        kept = {key: value for key, value in (fields | changed).items() if value}
        return {**walked, "messages": {**walked["messages"], name: {**message, "fields": kept}}}

    assert difference(walked, taking(alias="type 3")).unsafe != []
    assert difference(walked, taking(until="string")).unsafe == []
    assert difference(walked, taking(alias=None)).unsafe == []


def test_a_new_field_that_graphql_fetches_something_for_is_found(walked: Walked) -> None:
    kinds = walked["graphql"]
    fetching = {**walked, "graphql": {**kinds, "fetching": [*kinds["fetching"], "MlflowRunExtension.aliases"]}}
    asked = {**walked, "graphql": {**kinds, "mutation": [*kinds["mutation"], "mlflowDeleteRun"]}}

    assert difference(walked, fetching).unsafe != []
    assert difference(walked, asked).news == ["GraphQL mutation mlflowDeleteRun is new"]
