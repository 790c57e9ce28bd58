"""Every route says how it names what it is about, or why nobody who is limited may use it."""

from __future__ import annotations

import pytest

from app.domain.roles import BOUND
from app.domain.routes import ROUTES, BodyKind, Decision, Route
from app.domain.routes.graphql import ARGUMENTS, ROOT_FIELDS
from app.domain.routes.resources import (
    LISTS,
    READ_OF,
    Named,
    Newness,
    Place,
    can_be_limited,
    described,
    has_rule,
    rule_of,
)

LIMITABLE = [route for route in ROUTES if can_be_limited(route) and route.permission in BOUND]


def test_every_route_that_can_be_limited_has_a_line_or_a_reason() -> None:
    assert [(route.method, route.template) for route in LIMITABLE if not has_rule(route)] == []


def test_every_line_is_of_a_route() -> None:
    assert described() <= {(route.method, route.template) for route in ROUTES}


@pytest.mark.parametrize("route", LIMITABLE, ids=lambda route: f"{route.method} {route.template}")
def test_every_line_can_be_read(route: Route) -> None:
    rule = rule_of(route)
    assert rule.refusal is None or rule.refusal or route.body is BodyKind.GRAPHQL
    for name in rule.names:
        assert name.permission in BOUND
        if name.place is Place.PATH:
            assert f"{name.fields[0]}>" in route.template
        if route.message and name.place is Place.BODY:
            assert {field.split(".")[0].removesuffix("[]") for field in name.fields} <= set(route.message.fields)


def test_what_has_no_line_is_refused() -> None:
    opened = Route("POST", "/api/9.9/new", ROUTES[0].route_class, Decision.FORWARD, None, "", BodyKind.STREAM)
    assert rule_of(opened).refusal


def test_both_prefixes_of_a_path_are_judged_alike() -> None:
    for route in LIMITABLE:
        if route.template.startswith("/api/"):
            twin = next(
                (
                    other
                    for other in ROUTES
                    if (other.method, other.template) == (route.method, f"/ajax-api{route.template[4:]}")
                ),
                None,
            )
            assert twin is None or rule_of(twin) == rule_of(route)


def test_who_may_not_change_something_is_told_that_it_is_there_only_if_they_read_it() -> None:
    judged = {name.permission for route in LIMITABLE for name in rule_of(route).names}
    assert judged <= READ_OF.keys()


def test_a_name_that_shall_be_new_is_one_that_somebody_gives() -> None:
    for route in LIMITABLE:
        for name in rule_of(route).names:
            assert name.newness is not Newness.NEW or name.kind in {Named.MODEL, Named.EXPERIMENT_NAME}


def test_every_root_field_of_graphql_says_what_it_names() -> None:
    assert {name for (_, name), permission in ROOT_FIELDS.items() if permission} == ARGUMENTS.keys()


def test_lists_are_of_what_can_be_given_one_by_one() -> None:
    assert {list_of.kind for list_of in LISTS.values()} == {Named.MODEL, Named.EXPERIMENT, Named.WORKSPACE}
