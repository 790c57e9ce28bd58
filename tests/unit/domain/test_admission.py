"""Who is admitted next: fair between principals, interactive first, bounded, and nobody is forgotten."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from app.domain.admission import MOST_AT_ONCE, PATIENCE, Limits, Pace, WaitingRoom
from app.domain.errors import Overloaded, TooManyRequests
from app.domain.lanes import QUEUED, Lane, is_upload, lane_of, timeout_of
from app.domain.routes import ROUTES, RouteClass

LANES = st.sampled_from(QUEUED)


def room(size: int = 1000, share: int = 1000) -> WaitingRoom[int]:
    return WaitingRoom(size=size, share=share)


def drained(waiting: WaitingRoom[int]) -> list[int]:
    found = []
    while (request := waiting.next(lambda _: True)) is not None:
        found.append(request)
    return found


def test_a_thousand_requests_of_one_principal_delay_another_one_by_one_request() -> None:
    waiting = room()
    for request in range(999):
        waiting.enter(Lane.INTERACTIVE, "greedy", request)
    waiting.enter(Lane.INTERACTIVE, "modest", 999)

    assert drained(waiting).index(999) == 1


def test_requests_of_one_principal_are_served_in_the_order_in_which_they_came() -> None:
    waiting = room()
    for request in range(20):
        waiting.enter(Lane.BULK, "one", request)

    assert drained(waiting) == list(range(20))


def test_interactive_requests_go_before_bulk_ones() -> None:
    waiting = room()
    waiting.enter(Lane.BULK, "trainer", 1)
    waiting.enter(Lane.INTERACTIVE, "person", 2)

    assert drained(waiting) == [2, 1]


@pytest.mark.parametrize("lane", [Lane.BULK, Lane.NESTED])
def test_no_lane_starves_behind_interactive_requests(lane: Lane) -> None:
    waiting = room()
    for request in range(50):
        waiting.enter(Lane.INTERACTIVE, "person", request)
    waiting.enter(lane, "trainer", 100)

    assert drained(waiting).index(100) == PATIENCE


def test_a_lane_that_may_not_be_served_is_passed_over() -> None:
    waiting = room()
    waiting.enter(Lane.INTERACTIVE, "person", 1)
    waiting.enter(Lane.NESTED, "trainer", 2)

    assert waiting.next(lambda lane: lane is Lane.NESTED) == 2
    assert waiting.next(lambda lane: lane is Lane.NESTED) is None
    assert waiting.length == 1


def test_one_principal_cannot_fill_the_room() -> None:
    waiting = room(size=10, share=3)
    for request in range(3):
        waiting.enter(Lane.BULK, "greedy", request)

    with pytest.raises(TooManyRequests):
        waiting.enter(Lane.INTERACTIVE, "greedy", 3)
    waiting.enter(Lane.BULK, "modest", 4)


def test_a_full_room_takes_nobody() -> None:
    waiting = room(size=2)
    waiting.enter(Lane.BULK, "a", 1)
    waiting.enter(Lane.BULK, "b", 2)

    with pytest.raises(Overloaded):
        waiting.enter(Lane.INTERACTIVE, "c", 3)
    assert drained(waiting) == [1, 2]


def test_who_leaves_is_not_served_and_leaves_room() -> None:
    waiting = room(size=1)
    waiting.enter(Lane.BULK, "a", 1)
    waiting.leave(Lane.BULK, "a", 1)
    waiting.leave(Lane.BULK, "a", 1)
    waiting.enter(Lane.BULK, "b", 2)

    assert drained(waiting) == [2]


class Model(RuleBasedStateMachine):
    """Whatever comes, waits, leaves and is served: the counts are right, and everybody is served once."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: WaitingRoom[int] = room(size=12, share=5)
        self.expected: dict[int, tuple[Lane, str]] = {}
        self.number = 0

    @rule(lane=LANES, principal=st.sampled_from("abc"))
    def enter(self, lane: Lane, principal: str) -> None:
        mine = sum(each == principal for _, each in self.expected.values())
        self.number += 1
        try:
            self.waiting.enter(lane, principal, self.number)
        except TooManyRequests:
            assert mine == 5
        except Overloaded:
            assert len(self.expected) == 12
        else:
            assert mine < 5
            self.expected[self.number] = (lane, principal)

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.expected)))
        self.waiting.leave(*self.expected.pop(request), request)

    @rule(allowed=st.sets(LANES))
    def serve(self, allowed: set[Lane]) -> None:
        request = self.waiting.next(allowed.__contains__)
        possible = {number for number, (lane, _) in self.expected.items() if lane in allowed}
        if request is None:
            assert not possible
        else:
            assert request in possible
            lane, principal = self.expected.pop(request)
            earlier = [number for number, where in self.expected.items() if where == (lane, principal)]
            assert all(request < number for number in earlier)

    @invariant()
    def counts_are_right(self) -> None:
        lanes = Counter(lane for lane, _ in self.expected.values())
        assert self.waiting.length == len(self.expected)
        assert {lane: self.waiting.waiting(lane) for lane in QUEUED} == {lane: lanes[lane] for lane in QUEUED}


TestModel = Model.TestCase


@given(st.integers(max_value=0))
def test_a_limit_that_admits_nobody_is_refused(none: int) -> None:
    with pytest.raises(ValueError, match="forever"):
        Limits(none, dict.fromkeys(Lane, 1))
    with pytest.raises(ValueError, match="forever"):
        Limits(1, {**dict.fromkeys(Lane, 1), Lane.NESTED: none})


def paced(service_s: float, at_once: int, *, least: int = 2) -> Pace:
    pace = Pace(least)
    for _ in range(200):
        pace.observe(service_s, at_once)
    return pace


@given(st.floats(0.004, 100), st.integers(1, 3))
def test_mlflow_is_given_the_least_number_however_long_it_takes(work_s: float, at_once: int) -> None:
    assert paced(work_s * at_once, at_once).limit == 2


def test_a_worker_that_answers_at_once_is_given_as_many_as_it_answers_in_four_milliseconds() -> None:
    assert paced(0.0002, 1).limit == pytest.approx(20, abs=1)
    assert paced(0.0002 * 20, 20).limit == pytest.approx(20, abs=1)


@given(st.floats(0, 100, allow_nan=False), st.integers(1, 64), st.integers(1, 100))
def test_the_limit_stays_within_its_bounds(service_s: float, at_once: int, least: int) -> None:
    assert least <= paced(service_s, at_once, least=least).limit <= max(least, MOST_AT_ONCE)


def test_a_worker_that_becomes_slow_is_soon_given_the_least_number_again() -> None:
    pace = paced(0.0001, 1)
    assert pace.limit > 30
    for _ in range(20):
        pace.observe(0.2, 30)

    assert pace.limit == 2


def test_writes_that_take_two_connections_have_a_lane_of_their_own() -> None:
    nested = {route.template for route in ROUTES if lane_of(route) is Lane.NESTED}

    assert "/api/2.0/mlflow/runs/log-batch" in nested
    assert "/ajax-api/3.0/mlflow/traces" in nested
    assert "/api/2.0/mlflow/runs/search" not in nested


def test_files_never_wait() -> None:
    lanes = {(route.method, route.template): lane_of(route) for route in ROUTES}

    assert lanes["GET", "/get-artifact"] is Lane.STREAM
    assert lanes["GET", "/static-files/<path:path>"] is Lane.STREAM
    assert lanes["GET", "/health"] is Lane.INTERACTIVE
    assert lanes["GET", "/ajax-api/3.0/mlflow/ui-telemetry"] is Lane.INTERACTIVE
    assert lanes["POST", "/api/3.0/mlflow/workspaces"] is Lane.INTERACTIVE
    assert lanes["PUT", "/api/2.0/mlflow-artifacts/artifacts/<path:artifact_path>"] is Lane.STREAM
    assert lanes["GET", "/api/2.0/mlflow-artifacts/artifacts"] is Lane.INTERACTIVE
    assert lanes["GET", "/api/2.0/mlflow/artifacts/list"] is Lane.INTERACTIVE
    assert lanes["POST", "/ajax-api/2.0/mlflow/upload-artifact"] is Lane.BULK
    assert lanes["POST", "/api/2.0/mlflow/registered-models/alias"] is Lane.INTERACTIVE


def test_only_files_are_passed_on_before_they_are_whole() -> None:
    uploads = {route.template for route in ROUTES if is_upload(route)}

    assert uploads == {f"/{api}/2.0/mlflow-artifacts/artifacts/<path:artifact_path>" for api in ("api", "ajax-api")}


def test_the_configured_timeout_of_a_class_counts_before_ours_and_the_general_one() -> None:
    upload = next(route for route in ROUTES if is_upload(route))
    search = next(route for route in ROUTES if route.template.endswith("runs/search"))

    assert timeout_of(upload, 120, {}) == 900
    assert timeout_of(upload, 120, {RouteClass.ARTIFACT_WRITE: 5}) == 5
    assert timeout_of(search, 120, {RouteClass.ARTIFACT_WRITE: 5}) == 120
