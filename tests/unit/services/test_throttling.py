"""How often an address may be refused."""

from __future__ import annotations

import pytest

from app.domain.errors import TooManyRequests
from app.services.throttling import Throttle, key_of


def test_so_many_refusals_and_no_more() -> None:
    throttle = Throttle(3)
    for _ in range(3):
        throttle.check("a")
        throttle.hit("a")
    with pytest.raises(TooManyRequests) as refused:
        throttle.check("a")
    with pytest.raises(TooManyRequests):
        throttle.hit("a")
    assert refused.value.retry_after_s == 60


def test_nobody_is_kept_out_by_somebody_else() -> None:
    throttle = Throttle(1)
    throttle.hit("a")
    throttle.check("b")
    throttle.hit("b")


def test_asking_counts_nothing() -> None:
    throttle = Throttle(1)
    for _ in range(10):
        throttle.check("a")


def test_an_address_is_counted_as_what_one_subscriber_has() -> None:
    assert key_of("192.0.2.7") == "192.0.2.7"
    assert key_of("2001:db8:1:2::1") == key_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert key_of("::ffff:192.0.2.7") == "192.0.2.7"
    assert key_of("no address") == "unknown"


def test_after_a_minute_there_may_be_as_many_again() -> None:
    now = [0.0]
    throttle = Throttle(2, elapsed=lambda: now[0])
    for at in (0, 30):
        now[0] = at
        throttle.hit("a")
    for at, is_let in ((59, False), (60, True), (60, False), (89, False), (90, True)):
        now[0] = at
        if is_let:
            throttle.hit("a")
            continue
        with pytest.raises(TooManyRequests):
            throttle.hit("a")


def test_ever_new_addresses_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    throttle = Throttle(1, elapsed=lambda: now[0])
    for number in range(1000):
        now[0] += 1
        throttle.hit(f"2001:db8:{number}::/64")
        throttle.check("somebody who only looks")
    assert len(throttle) <= 61
    monkeypatch.setattr("app.services.throttling.MOST_KEYS", 10)
    for number in range(1000):
        throttle.hit(f"at once {number}")
    assert len(throttle) == 10
    with pytest.raises(TooManyRequests):
        throttle.hit("at once 999")
