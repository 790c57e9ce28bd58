"""The router without Ray: what it counts for the gates, and what one version leaves for the others."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray warns about itself while it is imported
    from countersign_ray_serve.serving import router
    from ray.exceptions import ActorDiedError
    from ray.serve.exceptions import BackPressureError

SLOTS = 12
TIMEOUT_S = 0.2

Answer = Callable[[bytes], Awaitable[tuple[int, str, str]]]


class Cluster:
    """What the router sees of Ray: versions by their applications, and a counter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.versions: dict[str, Answer] = {}
        self.counted: list[tuple[str, str]] = []
        context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="one"))
        serve = SimpleNamespace(get_app_handle=self._handle, get_replica_context=lambda: context)
        monkeypatch.setattr(router, "serve", serve)
        monkeypatch.setattr(router.metrics, "Counter", self._counter)

    def _counter(self, name: str, _: str, labels: tuple[str, ...]) -> Any:
        assert (name, labels) == ("countersign_answers", ("application", "status"))
        return SimpleNamespace(inc=lambda tags: self.counted.append((tags["application"], tags["status"])))

    def _handle(self, app: str) -> Any:
        async def ready() -> str:
            return app

        async def predict(body: bytes) -> tuple[int, str, str]:
            return await self.versions[app](body)

        return SimpleNamespace(ready=SimpleNamespace(remote=ready), predict=SimpleNamespace(remote=predict))

    async def router(self, **answers: Answer) -> router.Router:
        """A router of models that are called as their one application is."""
        self.versions = answers
        replica = router.Router(TIMEOUT_S, 100, SLOTS)
        routes = {app: {"shares": [{"app": app, "version": app, "weight": 100}]} for app in answers}
        await replica.reconfigure({"routes": routes, "probe_token": "", "allow_pins": False})
        return replica


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def request(
    model: str, body: bytes = b"{}", *, method: str = "POST", is_whole: bool = True, leaves: bool = False
) -> Request:
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": not is_whole}]
    messages += [{"type": "http.disconnect"}] if leaves else []

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    return Request({"type": "http", "method": method, "path": f"/{model}", "headers": []}, receive)


async def works(_: bytes) -> tuple[int, str, str]:
    return 200, "{}", "8"


async def is_buggy(_: bytes) -> tuple[int, str, str]:
    return 500, "{}", "8"


async def hangs(_: bytes) -> tuple[int, str, str]:
    await asyncio.Event().wait()
    raise AssertionError


async def dies(_: bytes) -> tuple[int, str, str]:
    raise ActorDiedError


async def has_a_queue(_: bytes) -> tuple[int, str, str]:
    raise BackPressureError(1, 1)


async def is_odd(_: bytes) -> tuple[int, str, str]:
    raise RuntimeError


@pytest.mark.parametrize(
    ("answer", "status"), [(works, 200), (is_buggy, 500), (hangs, 504), (dies, 503), (has_a_queue, 503)]
)
async def test_every_end_of_a_prediction_is_counted_once_for_its_version(
    cluster: Cluster, answer: Answer, status: int
) -> None:
    replica = await cluster.router(iris=answer)
    assert (await replica(request("iris"))).status_code == status
    assert cluster.counted == [("iris", str(status))]


async def test_what_nobody_expected_is_counted_as_what_the_client_sees(cluster: Cluster) -> None:
    replica = await cluster.router(iris=is_odd)
    with pytest.raises(RuntimeError):
        await replica(request("iris"))
    assert cluster.counted == [("iris", "500")]


async def test_a_client_that_gave_up_is_counted_and_is_no_answer(cluster: Cluster) -> None:
    replica = await cluster.router(iris=hangs)
    asked = asyncio.create_task(replica(request("iris")))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert cluster.counted == [("iris", "499")]


async def test_a_client_that_gave_up_while_it_sent_is_no_error_of_the_version(cluster: Cluster) -> None:
    replica = await cluster.router(iris=works)
    with pytest.raises(ClientDisconnect):
        await replica(request("iris", is_whole=False, leaves=True))
    assert cluster.counted == [("iris", "499")]


async def test_a_body_that_does_not_come_or_is_too_large_is_not_the_versions_fault(cluster: Cluster) -> None:
    replica = await cluster.router(iris=works)
    assert (await replica(request("iris", is_whole=False))).status_code == 408
    assert (await replica(request("iris", b"1" * 101))).status_code == 413
    assert cluster.counted == [("iris", "408"), ("iris", "413")]


async def test_who_only_asks_whether_a_version_is_up_is_not_counted(cluster: Cluster) -> None:
    replica = await cluster.router(iris=works)
    assert (await replica(request("iris", method="GET"))).status_code == 200
    assert (await replica(request("unknown"))).status_code == 404
    assert cluster.counted == []


async def test_who_asks_for_the_routes_learns_whether_each_version_answers(cluster: Cluster) -> None:
    replica = await cluster.router(iris=works)
    replica._probe_token = "token"
    probe = Request({"type": "http", "method": "GET", "path": "/iris", "headers": [(b"x-countersign-probe", b"token")]})
    told = (await replica(probe)).body
    assert json.loads(told) == {
        "router": "one",
        "shares": [{"app": "iris", "version": "iris", "weight": 100, "ready": True}],
    }


async def test_versions_that_hang_leave_room_for_the_others(cluster: Cluster) -> None:
    replica = await cluster.router(iris=hangs, wine=hangs, rose=works)
    asked: dict[str, list[asyncio.Task[Response]]] = {"iris": [], "wine": []}
    for model, tasks in asked.items():
        tasks += [asyncio.create_task(replica(request(model))) for _ in range(SLOTS)]
        await asyncio.sleep(0)
    assert (await replica(request("rose"))).status_code == 200
    statuses = {model: [answer.status_code for answer in await asyncio.gather(*asked[model])] for model in asked}
    assert statuses == {"iris": [504] * 6 + [503] * 6, "wine": [504] * 3 + [503] * 9}
    refused = await replica(request("iris"))
    assert refused.status_code == 504, "the room is there again"
