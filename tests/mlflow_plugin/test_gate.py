"""The gate by itself: what is below a static prefix, and what is no HTTP."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest
from countersign_mlflow.assertions import HEADER, Verifier
from countersign_mlflow.gate import Gate

from app.adapters.assertions import GatewayAssertion
from app.adapters.clock import SystemClock
from app.ports import Judged
from tests.mlflow_plugin.conftest import SCIENTIST, SECRET

Event = MutableMapping[str, Any]


async def asked(prefix: str, scope: dict[str, Any], judged: Judged | None = None, *, signed: bool = True) -> int:
    """The status that the gate answers, or 200 if it let the request through."""
    sent: list[Event] = []

    async def mlflow(scope: Event, receive: Any, send: Any) -> None:
        sent.append({"status": 200})

    async def receive() -> Event:
        return {"type": "websocket.connect"}

    async def send(event: Event) -> None:
        sent.append(event)

    ((_, token),) = GatewayAssertion(SECRET, SystemClock()).headers(SCIENTIST, judged)
    headers = [(HEADER.encode(), token.encode())] if signed else []
    await Gate(mlflow, Verifier(SECRET), prefix)({"method": "GET", "headers": headers, **scope}, receive, send)
    return int(sent[0].get("status") or sent[0]["code"])


@pytest.mark.parametrize(
    ("path", "status"), [("/ml/health", 200), ("/ml/version", 200), ("/health", 401), ("/ml/", 401)]
)
async def test_below_a_static_prefix_only_its_own_probes_are_open(path: str, status: int) -> None:
    assert await asked("/ml", {"type": "http", "path": path}, signed=False) == status


@pytest.mark.parametrize(("path", "status"), [("/ml/api/a b", 200), ("/api/a b", 403), ("/ml/ml/api/a b", 403)])
async def test_the_gateway_names_a_path_without_mlflows_prefix(path: str, status: int) -> None:
    judged = Judged("GET", "/api/a%20b", "DeleteRun", {})
    assert await asked("/ml", {"type": "http", "path": path}, judged) == status


async def test_what_the_server_does_at_start_and_end_goes_through() -> None:
    assert await asked("", {"type": "lifespan"}, signed=False) == 200


@pytest.mark.parametrize("signed", [False, True])
async def test_a_websocket_is_closed_before_it_is_open(signed: bool) -> None:
    assert await asked("", {"type": "websocket", "path": "/"}, signed=signed) == 1008


async def test_what_is_not_known_does_not_go_through() -> None:
    with pytest.raises(ValueError, match="not webtransport"):
        await asked("", {"type": "webtransport", "path": "/"})
