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
