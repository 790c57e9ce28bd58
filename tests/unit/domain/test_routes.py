"""The table of routes: what it decides, and that each path finds its own line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.access import Permission
from app.domain.errors import InvalidConfiguration
from app.domain.routes import (
    MESSAGES,
    NEVER,
    OPENINGS,
    ROUTES,
    BodyKind,
    Decision,
    Guard,
    Match,
    Route,
    RouteClass,
    match,
    matcher_for,
    matrix,
    routes_with,
    warning_about,
)
from app.domain.routes.kinds import STRICTNESS
from app.domain.routes.matching import MAX_SEGMENTS, Matcher, parameter_names

CLOSED = {Decision.ANSWER, Decision.REFUSE, Decision.UNSUPPORTED, Decision.ABSENT}
ALIAS = "/api/2.0/mlflow/registered-models/alias"


def sample(route: Route) -> str:
    """A path that only this template can have been meant by."""
    path = route.template
    for name in parameter_names(route.template):
        path = path.replace(f"<path:{name}>", "sample").replace(f"<{name}>", "sample")
    return path


def found(method: str, path: str) -> Match:
    match_ = match(method, path)
    assert match_ is not None, f"{method} {path}"
    return match_


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.template}")
def test_each_path_is_decided_as_its_line_says(route: Route) -> None:
    decided = found(route.method, sample(route)).route

    assert (decided.decision, decided.permission, decided.guard) == (route.decision, route.permission, route.guard)
    assert found(route.method, sample(route)).path() == sample(route)


def test_a_plain_path_is_never_decided_more_leniently_than_any_template_that_takes_it() -> None:
    wide = [(route, Matcher([route])) for route in ROUTES if "<" in route.template]
    overlaps = [
        (plain, route)
        for plain in ROUTES
        if "<" not in plain.template
        for route, alone in wide
        if route.method == plain.method and alone.match(plain.method, plain.template)
    ]

    assert overlaps, "nothing was compared"
    for plain, route in overlaps:
        decided = found(plain.method, plain.template).route
        assert STRICTNESS[decided.decision] >= STRICTNESS[route.decision]
        assert decided.permission == route.permission


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/2.0/mlflow/runs/get/"),
        ("GET", "/api/2.0/mlflow/runs"),
        ("GET", "/API/2.0/mlflow/runs/get"),
        ("GET", "/x/api/2.0/mlflow/runs/get"),
        ("GET", "/api/2.0/mlflow/runs/get/more"),
        ("GET", "/api/2.0/preview/mlflow/runs/get"),
        ("PUT", "/api/2.0/mlflow/runs/get"),
        ("get", "/api/2.0/mlflow/runs/get"),
        ("HEAD", "/api/2.0/mlflow/runs/get"),
        ("OPTIONS", "/api/2.0/mlflow/runs/get"),
        ("TRACE", "/health"),
        ("GET", "/metrics"),
        ("GET", "/api/2.0/mlflow/logged-models/"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/a/"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/"),
        ("GET", ""),
        ("GET", "health"),
        ("POST", "/gateway/gemini/v1beta/models/:generateContent"),
        ("GET", "/static-files/" + "a/" * MAX_SEGMENTS + "a"),
    ],
)
def test_what_is_not_exactly_in_the_table_is_unknown(method: str, path: str) -> None:
    assert match(method, path) is None


@pytest.mark.parametrize("api", ["/api", "/ajax-api"])
def test_both_spellings_of_an_api_path_are_guarded(api: str) -> None:
    assert found("POST", f"{api}/2.0/mlflow/registered-models/alias").route.guard is Guard.ALIAS_SET
    assert found("DELETE", f"{api}/2.0/mlflow/registered-models/alias").route.guard is Guard.ALIAS_DELETE


def test_a_rest_parameter_takes_slashes_and_is_quoted_again() -> None:
    artifact = found("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a b/ü?.txt")

    assert artifact.params == {"artifact_path": "1/a b/ü?.txt"}
    assert artifact.path() == "/api/2.0/mlflow-artifacts/artifacts/1/a%20b/%C3%BC%3F.txt"


def test_one_parameter_cannot_inject_another() -> None:
    tag = found("DELETE", "/api/2.0/mlflow/logged-models/<tag_key>/tags/x")

    assert tag.path() == "/api/2.0/mlflow/logged-models/%3Ctag_key%3E/tags/x"


@pytest.mark.parametrize("path", ["a/tags/b/aliases/production", "a/aliases/b/tags/c", "a/b/versions/1/tags/x"])
def test_an_ambiguous_path_is_decided_by_the_strictest_reading(path: str) -> None:
    assert found("DELETE", f"/api/3.0/mlflow/mcp-servers/{path}").route.decision is Decision.REFUSE


@pytest.mark.parametrize("strict_first", [True, False])
def test_of_two_templates_that_take_a_path_the_strictest_decides(strict_first: bool) -> None:
    some = ROUTES[0]
    lenient = replace(some, template="/a/<path:name>/tags/<path:key>", decision=Decision.FORWARD)
    strict = replace(some, template="/a/<path:name>", decision=Decision.REFUSE)
    matcher = Matcher([strict, lenient] if strict_first else [lenient, strict])
    decided = matcher.match(some.method, "/a/b/tags/c")

    assert decided is not None
    assert decided.route is strict
    assert decided.params == {"name": "b/tags/c"}


def test_a_pathological_path_is_matched_without_explosion() -> None:
    path = "/api/3.0/mlflow/mcp-servers/" + "versions/tags/aliases/" * 40 + "x"

    assert found("GET", path).route.route_class is RouteClass.MCP_READ
    assert found("DELETE", path).route.decision is Decision.REFUSE


def test_a_path_is_listed_once() -> None:
    twice = next(iter(ROUTES))

    with pytest.raises(ValueError, match="twice"):
        Matcher([twice, twice])


def test_every_forwarded_route_asks_for_a_permission_and_every_refused_one_gives_a_reason() -> None:
    for route in ROUTES:
        forwarded = route.decision in {Decision.FORWARD, Decision.GUARD, Decision.ANSWER, Decision.UNSUPPORTED}
        assert (route.permission is not None) == forwarded, route
        assert route.reason.endswith("."), route
        assert (route.decision is Decision.GUARD) == (route.guard is not None), route
        assert (route.decision is Decision.ANSWER) == (route.answer is not None), route


def test_the_matrix_says_of_every_path_that_options_is_unknown_and_of_every_get_what_head_does() -> None:
    shown = {(route.method, route.template): route for route in matrix()}

    assert len(shown) == len(matrix())
    assert [route for route in ROUTES if shown[route.method, route.template] != route] == []
    for route in ROUTES:
        assert shown["OPTIONS", route.template].decision is Decision.ABSENT
        assert ("HEAD", route.template) in shown or route.method != "GET"
    for route in shown.values():
        if route not in ROUTES:
            assert match(route.method, sample(route)) is None
            assert (route.decision, route.permission) == (Decision.ABSENT, None)
            assert route.reason.endswith(".")


# What an operator may open.


def test_every_closed_route_can_be_opened_or_says_why_not_unless_mlflow_itself_answers_404() -> None:
    closed = [route for route in ROUTES if route.decision in CLOSED and route.route_class is not RouteClass.DEAD_STUB]

    assert closed
    assert {route.closed_as for route in closed} == {*OPENINGS, *NEVER}
    assert [route for route in ROUTES if route.closed_as and route not in closed] == []
    assert not OPENINGS.keys() & NEVER.keys()


def test_without_openings_the_table_is_as_it_is_written() -> None:
    assert routes_with(()) == ROUTES


@pytest.mark.parametrize("opening", OPENINGS)
def test_an_opening_opens_its_routes_and_nothing_else(opening: str) -> None:
    opened = matcher_for([opening])
    for route, before in zip(routes_with([opening]), ROUTES, strict=True):
        found, at_first = opened.match(route.method, sample(route)), match(route.method, sample(route))
        assert found
        assert at_first
        assert (found.route.decision, found.route.permission) == (route.decision, route.permission)
        if before.closed_as == opening:
            assert (route.decision, route.permission) == (Decision.FORWARD, OPENINGS[opening].permission)
            assert (found.path(), route.opened_by) == (at_first.path(), opening)
        else:
            assert (route, found) == (before, at_first)


def test_all_openings_together_open_no_more_than_each_alone() -> None:
    together = matcher_for(OPENINGS)
    for route in ROUTES:
        found = together.match(route.method, sample(route))
        assert found
        assert (found.route.decision in CLOSED) == (route.decision in CLOSED and route.opened_by is None), route


def test_paths_that_can_be_read_in_two_ways_need_the_same_permission_in_both_when_opened() -> None:
    opened = routes_with(OPENINGS)
    alone = [(route, Matcher([route])) for route in opened if "<" in route.template]
    pairs = [
        (one, other)
        for one in opened
        for other, matcher in alone
        if one.method == other.method and one.template != other.template and matcher.match(one.method, sample(one))
    ]

    assert pairs
    for one, other in pairs:
        assert (one.decision, one.permission) == (other.decision, other.permission), (one.template, other.template)


@pytest.mark.parametrize("name", NEVER)
def test_what_is_closed_for_good_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"^{name} cannot be opened: ") as refused:
        matcher_for(["webhooks", name])

    assert NEVER[name] in refused.value.message


@pytest.mark.parametrize("name", ["", "*", "all", "Webhooks", "webhook-admin", "server-job"])
def test_what_is_no_opening_is_refused_and_the_openings_are_named(name: str) -> None:
    with pytest.raises(InvalidConfiguration, match="is not known; expected some of") as refused:
        routes_with([name])

    assert all(opening in refused.value.message for opening in OPENINGS)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/3.0/mlflow/workspaces/team"),
        ("PATCH", "/api/3.0/mlflow/workspaces/default"),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/a"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url"),
        ("POST", "/api/2.0/mlflow/users/create"),
        ("GET", "/graphql"),
    ],
)
def test_what_would_break_a_promotion_stays_closed_whatever_is_opened(method: str, path: str) -> None:
    found = matcher_for(OPENINGS).match(method, path)

    assert found
    assert found.route.decision in CLOSED


@pytest.mark.parametrize("opening", sorted(OPENINGS.keys() - {"ai-gateway-invoke", "presigned-downloads"}))
def test_what_is_opened_is_for_administrators_unless_it_only_spends_or_reads(opening: str) -> None:
    assert OPENINGS[opening].permission is Permission.SERVER_ADMINISTER


@pytest.mark.parametrize("version", ["3.17.2", "3.17.0", "3.17.3.dev0", "3.17\n", "3.17"])
def test_a_version_that_the_table_describes_needs_no_warning(version: str) -> None:
    assert warning_about(version) is None


@pytest.mark.parametrize("version", ["3.16.1", "3.18.0", "3.170.0", "13.17.0", "3", "", "<html>", "3.1" + "7" * 5000])
def test_another_version_is_warned_about_in_one_line(version: str) -> None:
    warning = warning_about(version)

    assert warning
    assert "3.17" in warning
    assert "\n" not in warning
    assert len(warning) < 300


def test_only_four_paths_need_no_login() -> None:
    public = {route.template for route in ROUTES if route.decision is Decision.PUBLIC}

    assert public == {"/health", "/version", "/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info"}


def test_reads_that_are_posts_need_only_a_read_permission() -> None:
    for path in ("/api/2.0/mlflow/runs/search", "/api/3.0/mlflow/traces/search", "/graphql"):
        assert found("POST", path).route.permission is Permission.TRACKING_READ
    assert found("POST", "/api/2.0/mlflow/registered-models/get-latest-versions").route.permission is (
        Permission.REGISTRY_READ
    )


def test_whoever_may_ask_for_a_promotion_reaches_the_guard_of_an_alias() -> None:
    assert found("POST", ALIAS).route.permission is Permission.REGISTRY_READ


@pytest.mark.parametrize("guard", Guard)
def test_every_guard_is_asked_by_some_route(guard: Guard) -> None:
    assert any(route.guard is guard for route in ROUTES)


def test_every_guard_is_asked_with_what_it_needs() -> None:
    for route in (route for route in ROUTES if route.guard):
        given = set(parameter_names(route.template)) | set(route.judged_query)
        assert route.message or given, route
        if route.message and route.guard not in {Guard.EXPERIMENT_CREATE, Guard.LOGGED_MODEL_CREATE}:
            assert route.message.required, route


def test_every_message_is_used_and_required_fields_are_fields() -> None:
    assert {route.message.name for route in ROUTES if route.message} == set(MESSAGES)
    for message in MESSAGES.values():
        assert message.required <= set(message.fields)


def test_a_get_has_no_body() -> None:
    assert {route.body for route in ROUTES if route.method in {"GET", "HEAD"}} == {BodyKind.NONE}


def test_head_follows_a_get_that_is_decided_alike() -> None:
    heads = [route for route in ROUTES if route.method == "HEAD"]

    assert heads
    for head in heads:
        get = next(route for route in ROUTES if route.method == "GET" and route.template == head.template)
        assert (get.decision, get.permission) == (head.decision, head.permission)
