"""The page of MLflow's interface with a script of ours."""

from __future__ import annotations

import pytest

from app.domain.routes import ROUTES
from app.proxy.interface import with_script
from app.proxy.plans import ExchangeLimits, plan_of


def test_the_script_is_the_last_of_the_page() -> None:
    page = with_script(b"<html><body><div></body></div></body></html>", address="/ours.js?v=1")
    assert page == (b'<html><body><div></body></div><script type="module" src="/ours.js?v=1"></script></body></html>')


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>"])
def test_what_is_no_page_stays_as_it_is(body: bytes) -> None:
    assert with_script(body, address="/ours.js") == body


def test_only_the_page_itself_is_rewritten_and_only_where_there_is_a_script() -> None:
    def rewritten(script: str | None) -> set[tuple[str, str]]:
        plans = {
            (route.method, route.template): plan_of(route, ExchangeLimits(), https=True, openings=(), script=script)
            for route in ROUTES
        }
        return {key for key, plan in plans.items() if plan.rewrite and "server-info" not in key[1]}

    assert rewritten("/ours.js") == {("GET", "/")}
    assert rewritten(None) == set()
