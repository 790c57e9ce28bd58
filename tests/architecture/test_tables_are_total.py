"""The tables leave nothing out: a missing entry would mean something that nobody decided."""

from __future__ import annotations

import inspect

import pytest
from fastapi import APIRouter

from app.domain import errors
from app.domain.access import ROLE_PERMISSIONS, Permission, Role
from app.domain.problems import PROBLEMS, problem_of
from app.domain.roles import BOUND, DENIED_WITH, MEANINGS, SERVER_WIDE, roles_with
from app.domain.routes import Guard
from app.routers.access import GuardedRoute, needs, public
from app.services.guarding import RegistryGuard


def _family() -> set[type[errors.CountersignError]]:
    found = {item for _, item in inspect.getmembers(errors, inspect.isclass)}
    return {item for item in found if issubclass(item, errors.CountersignError)}


def test_every_error_has_its_own_row_among_the_problems() -> None:
    assert set(PROBLEMS) == _family()
    assert len(_family()) > 15


def test_every_problem_has_an_address_of_its_own() -> None:
    slugs = [row.slug for row in PROBLEMS.values()]
    assert len(slugs) == len(set(slugs))


def test_an_error_that_is_added_later_is_at_least_its_parents_problem() -> None:
    class Later(errors.Forbidden):
        pass

    assert problem_of(Later("no")) == PROBLEMS[errors.Forbidden]


def test_mlflow_knows_every_error_code() -> None:
    from subprocess import run
    from sys import executable

    script = "from mlflow.protos.databricks_pb2 import ErrorCode; print(*ErrorCode.keys())"
    known = set(
        run([executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )
    assert {row.mlflow_code for row in PROBLEMS.values()} <= known
    assert len(known) > 20


def test_every_role_has_permissions_and_every_permission_a_role() -> None:
    assert set(ROLE_PERMISSIONS) == set(Role)
    assert frozenset[Permission]().union(*ROLE_PERMISSIONS.values()) == set(Permission)


def test_every_role_has_a_meaning_and_says_what_its_denial_takes_away() -> None:
    assert set(MEANINGS) == set(DENIED_WITH) == set(Role)
    for role in Role:
        # A denial that takes away nothing of the role would be none; `holds` rests on it.
        assert DENIED_WITH[role] & ROLE_PERMISSIONS[role]


def test_whatever_is_not_about_the_whole_server_can_be_given_by_a_role_on_a_part_of_it() -> None:
    for permission in BOUND:
        assert set(roles_with(permission)) - SERVER_WIDE


def test_administering_is_neither_asking_nor_rolling_back() -> None:
    held = ROLE_PERMISSIONS[Role.ADMINISTRATOR]
    others = {
        Permission.PROMOTIONS_REQUEST,
        Permission.PROMOTIONS_DECIDE,
        Permission.PROMOTIONS_ROLLBACK,
        Permission.CHECKS_POST,
    }
    assert not held & others
    for role in set(Role) - {Role.ADMINISTRATOR}:
        assert Permission.GRANTS_ADMINISTER not in ROLE_PERMISSIONS[role]


def test_the_registry_guard_answers_every_question_of_the_door() -> None:
    guard = RegistryGuard(None, None, None, None, public_url="", artifacts_destination="")  # type: ignore[arg-type]
    assert set(guard._checks) == set(Guard)


def test_a_route_that_does_not_say_who_may_call_it_cannot_be_made() -> None:
    router = APIRouter(route_class=GuardedRoute)

    async def endpoint() -> None:
        return None

    with pytest.raises(TypeError, match="@needs"):
        router.get("/x")(endpoint)
    router.get("/y")(needs(Permission.AUDIT_READ)(endpoint))


def test_a_public_route_says_why() -> None:
    with pytest.raises(TypeError):
        public("")
