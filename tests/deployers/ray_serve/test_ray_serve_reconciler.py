"""The loop against a stand-in for Ray's dashboard and proxies: what is sent, when, and what must be seen before Ready.

Each PUT replaces all that the stand-in was told before; it forgets everything when a test says so, and its routers take
new routes one by one. What Ray really does is in ``test_on_real_ray.py``.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from countersign_deployer.contract import Deployment
from countersign_deployer.state import StateStore
from countersign_ray_serve import packages
from countersign_ray_serve.layout import ROUTER
from countersign_ray_serve.reconciler import Reconciler
from countersign_ray_serve.rollout import accept
from countersign_ray_serve.serve_api import ServeApi, is_untested, judge_version
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import Resource, State

Json = dict[str, Any]


@dataclass
class StandIn:
    """Ray, as far as a deployer sees it. ``behind``: the routers that have not taken the newest routes."""

    url: str = ""
    version: str = "2.60.0"
    apps: dict[str, Json] = field(default_factory=dict)
    put: list[list[str]] = field(default_factory=list)
    packages: dict[str, bytes] = field(default_factory=dict)
    behind: set[str] = field(default_factory=set)
    statuses: dict[str, str] = field(default_factory=dict)
    nonsense: str = ""

    def __post_init__(self) -> None:
        self._turns = cycle(["one", "two"])

    def lose_everything(self) -> None:
        self.apps.clear()
        self.packages.clear()

    async def tell_version(self, _: web.Request) -> web.Response:
        return web.json_response({"ray_version": self.version})

    async def tell(self, _: web.Request) -> web.Response:
        if self.nonsense:
            return web.Response(text=self.nonsense)
        return web.json_response({"applications": {name: self._told(name) for name in self.apps}})

    def _told(self, name: str) -> Json:
        ids = ["one", "two"] if name == ROUTER else ["only"]
        replicas = [{"replica_id": each, "state": "RUNNING"} for each in ids]
        return {
            "status": self.statuses.get(name, "RUNNING"),
            "message": "",
            "source": "declarative",
            "deployed_app_config": self.apps[name],
            "deployments": {"D": {"message": "", "replicas": replicas}},
        }

    async def take(self, request: web.Request) -> web.Response:
        config = await request.json()
        self.apps = {spec["name"]: spec for spec in config["applications"]}
        self.put.append(list(self.apps))
        return web.Response()

    async def package(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if request.method == "PUT":
            self.packages[name] = await request.read()
        return web.Response(status=200 if name in self.packages else 404)

    async def answer(self, request: web.Request) -> web.Response:
        router = next(self._turns)
        config = self.apps[ROUTER]["deployments"][0]["user_config"]
        if request.headers.get("X-Countersign-Probe") != config["probe_token"]:
            return web.Response(text="ok")
        shares = config["routes"].get(request.match_info["model"], {}).get("shares", [])
        told = [] if router in self.behind else [{**share, "ready": True} for share in shares]
        return web.json_response({"router": router, "shares": told})


@pytest.fixture
async def ray() -> AsyncIterator[StandIn]:
    stand_in = StandIn()
    app = web.Application()
    app.add_routes(
        [
            web.get("/api/version", stand_in.tell_version),
            web.get("/api/serve/applications/", stand_in.tell),
            web.put("/api/serve/applications/", stand_in.take),
            web.route("*", "/api/packages/gcs/{name}", stand_in.package),
            web.get("/{model}", stand_in.answer),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    stand_in.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield stand_in
    await runner.cleanup()


class Running:
    """A loop on its own state."""

    def __init__(self, settings: Settings, make_call: Callable[..., Json]) -> None:
        self.settings = settings
        self.store = StateStore(settings.state_dir, State)
        self.losses = 0
        self._make_call = make_call

    async def call(self, generation: int, **changes: object) -> None:
        data = self._make_call(generation=generation, **changes)["data"]
        async with self.store.transaction() as state:
            wanted = Deployment.model_validate_json(json.dumps(data))
            accept(state, self.settings, wanted, time.time())

    def lost(self) -> None:
        self.losses += 1

    @property
    def iris(self) -> Resource:
        return self.store.snapshot().resources["iris"]

    async def until(self, wanted: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not wanted():  # noqa: ASYNC110  # the store tells nobody
                await asyncio.sleep(0.005)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        async with ServeApi(self.settings) as ray, httpx.AsyncClient() as probes:
            loop = Reconciler(self.settings, self.store, ray, probes, lambda: None, self.lost)
            task = asyncio.create_task(loop.run())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def make_running(
    ray: StandIn, make_settings: Callable[..., Settings], make_call: Callable[..., Json]
) -> Callable[..., Running]:
    def make(**changes: object) -> Running:
        quick = {"poll_interval_s": 0.005, "reconcile_interval_s": 0.005}
        return Running(make_settings(dashboard_url=ray.url, serve_url=ray.url, **quick, **changes), make_call)

    return make


async def test_ready_waits_for_the_last_router_to_have_the_weights(
    ray: StandIn, make_running: Callable[..., Running]
) -> None:
    running = make_running()
    ray.behind = {"two"}
    await running.call(1)
    async with running.looking():
        await running.until(lambda: ray.apps and ray.apps[ROUTER]["deployments"][0]["user_config"]["routes"])
        await running.until(lambda: running.iris.phase == "Progressing")
        await asyncio.sleep(0.05)
        assert running.iris.phase == "Progressing"
        ray.behind = set()
        await running.until(lambda: running.iris.phase == "Ready")
    assert [share.weight for share in running.iris.proven] == [100]


async def test_a_ray_that_forgot_everything_is_told_again_and_the_gateway_is_asked(
    ray: StandIn, make_running: Callable[..., Running]
) -> None:
    running = make_running(ship="upload")
    await running.call(1)
    async with running.looking():
        await running.until(lambda: running.iris.phase == "Ready")
        before, (name, content) = dict(ray.apps), next(iter(ray.packages.items()))
        ray.lose_everything()
        await running.until(lambda: ray.apps == before)
    assert running.losses == 1
    assert ray.packages == {name: content}
    assert before[ROUTER]["runtime_env"]["py_modules"] == [f"gcs://{name}"]


async def test_what_is_uploaded_is_what_runs_in_ray_and_needs_nothing_of_ours(tmp_path: Path) -> None:
    content = packages.content_of(packages.current(), tmp_path)
    assert content is not None
    names = set(zipfile.ZipFile(io.BytesIO(content)).namelist())
    assert {"countersign_ray_serve/__init__.py", "countersign_ray_serve/serving/backend.py"} <= names
    assert all(name.startswith(("countersign_ray_serve/serving/", "countersign_ray_serve/__init__")) for name in names)
    text = b"\n".join(zipfile.ZipFile(io.BytesIO(content)).read(name) for name in names).decode()
    assert "countersign_deployer" not in text
    # One of an earlier release is kept, and one that nobody kept is gone.
    assert (tmp_path / "packages" / packages.current().removeprefix("gcs://")).read_bytes() == content
    assert packages.content_of("gcs://_ray_pkg_0.zip", tmp_path) is None


async def test_a_reset_ends_what_was_declared_before_it_declares_it_anew(
    ray: StandIn, make_running: Callable[..., Running]
) -> None:
    first = make_running()
    await first.call(1)
    async with first.looking():
        await first.until(lambda: first.iris.phase == "Ready")
    first.store.close()
    ray.put.clear()
    again = make_running(serve_reset_on_start=True, state_dir=first.settings.state_dir)
    async with again.looking():
        await again.until(lambda: len(ray.put) > 1)
    assert ray.put == [[], list(ray.apps)]
    assert len(ray.apps) == 2


async def test_a_reset_does_not_touch_what_others_declared(ray: StandIn, make_running: Callable[..., Running]) -> None:
    ray.apps = {"theirs": {"name": "theirs", "import_path": "their:app"}}
    running = make_running(serve_reset_on_start=True)
    await running.call(1)
    async with running.looking():
        await running.until(lambda: running.iris.reason == "PolicyDenied")
    assert (ray.put, list(ray.apps)) == ([], ["theirs"])


async def test_the_deployer_of_another_target_is_left_alone(ray: StandIn, make_running: Callable[..., Running]) -> None:
    first = make_running()
    await first.call(1)
    async with first.looking():
        await first.until(lambda: first.iris.phase == "Ready")
    before = list(ray.apps)
    second = make_running(target="staging")
    await second.call(1, target="staging")
    async with second.looking():
        await second.until(lambda: second.iris.reason == "PolicyDenied")
    assert ROUTER in second.iris.message
    assert list(ray.apps) == before


@pytest.mark.parametrize(
    "answer", ["<html>Sign in</html>", "[]", '{"applications": [7]}', '{"applications": {"a": 1}}']
)
async def test_a_dashboard_that_talks_nonsense_stops_no_deadline(
    ray: StandIn, make_running: Callable[..., Running], answer: str
) -> None:
    ray.nonsense = answer
    running = make_running()
    await running.call(1, deadline_s=1)
    async with running.store.transaction() as state:
        state.resources["iris"].deadline_at = 0
    async with running.looking():
        await running.until(lambda: running.iris.phase == "Errored")
    assert (running.iris.reason, ray.put) == ("Unreachable", [])


async def test_a_ray_that_is_too_old_is_told_nothing(ray: StandIn, make_running: Callable[..., Running]) -> None:
    ray.version = "2.59.1"
    running = make_running()
    await running.call(1)
    async with running.looking():
        await running.until(lambda: running.iris.phase == "Failed")
    assert (running.iris.reason, ray.put) == ("ConfigRefused", [])
    assert "2.59.1 is not supported" in running.iris.message


def test_a_ray_that_is_newer_than_what_was_tested_is_only_doubtful() -> None:
    assert judge_version("3.0.0") is None
    assert [is_untested(version) for version in ("2.60.3", "2.61.0", "3.0.0.dev0")] == [False, True, True]
    assert judge_version("unknown") is not None
