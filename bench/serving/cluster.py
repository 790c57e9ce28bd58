"""A real Ray head, started as ``countersign up`` does; our deployer on it; and what is declared without it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from countersign_deployer.conformance.gateway import PlayedGateway
from countersign_deployer.conformance.play import Artifacts, Bounds, Nonconforming, Play, Subject

from app.embedded.environment import DataFolder, open_data_folder
from app.embedded.ports import Ports
from app.embedded.ray_cluster import (
    TARGET,
    RayAddresses,
    deployer_part,
    ray_addresses,
    ray_part,
    webhook_secrets,
)
from app.embedded.supervisor import Part
from bench.proxy.parts import PartFailed, running
from bench.serving.models import NAME, Models, Version

REPOSITORY = Path(__file__).parents[2]
SETTLED_WITHIN_S = 150.0
PLAIN = "plain"

Json = dict[str, Any]


class Deployer:
    """The deployer's process, called as the gateway calls it."""

    def __init__(self, play: Play, models: Models) -> None:
        self._play = play
        self._models = models

    def roll_out(self, number: str) -> str:
        """Call for a version, and wait for the end: ``Ready``, ``Failed`` or ``Errored``.

        Raises:
            PartFailed: the call was not taken, or nothing was heard of it in time.
        """
        version = self._models.versions[number]
        call = self._play.call()
        call["model"] = {**call["model"], "version": number, "uri": version.uri, "digest": version.digest}
        try:
            answer = self._play.send(call)
            if answer.status_code != 202:
                raise PartFailed(f"the deployer answered {answer.status_code}: {answer.text}")
            return str(self._play.end_of(call["generation"])["phase"])
        except Nonconforming as error:
            raise PartFailed(f"the deployer: {error}") from None


@dataclass(frozen=True)
class Cluster:
    """A Ray head. ``process`` is the root of all that Ray runs."""

    folder: DataFolder
    addresses: RayAddresses
    process: psutil.Process
    models: Models

    @contextmanager
    def deployer(self) -> Iterator[Deployer]:
        """Our deployer, on a cluster with nothing on it. What it deployed stays when it ends."""
        self.declare([])
        self._wait(lambda applications: not applications, "the end of what was declared")
        webhook, callback = (file.read_text().strip() for file in webhook_secrets(self.folder))
        first = next(iter(self.models.versions.values()))
        with (
            tempfile.TemporaryDirectory(prefix="state-", dir=self.folder.root) as state,
            PlayedGateway(TARGET, webhook_secret=webhook, callback_secret=callback) as gateway,
            httpx.Client(trust_env=False) as client,
            _running(deployer_part(self.folder, self.addresses, gateway.url), COUNTERSIGN_RAY_STATE_DIR=state),
        ):
            subject = Subject(
                url=f"{self.addresses.deployer}/v1/deployments",
                target=TARGET,
                webhook_secret=webhook,
                callback_secret=callback,
                model=Artifacts(first.uri, first.digest),
                resource=NAME,
                bounds=Bounds(end_s=SETTLED_WITHIN_S),
            )
            yield Deployer(Play(subject, gateway, client), self.models)

    @property
    def ours(self) -> str:
        """Where the model answers that our deployer has deployed."""
        return f"{self.addresses.serve}/{NAME}"

    @property
    def plain(self) -> str:
        """Where the model answers that was declared without it."""
        return f"{self.addresses.serve}/{PLAIN}"

    def declare_plain(self, version: Version, *, beside: Sequence[Json] = ()) -> str:
        """Have Serve run a version in its application with Serve's defaults; an earlier version is replaced there. The
        status that it comes to.
        """
        args = {"uri": version.uri, "version": version.number}
        spec = {"name": PLAIN, "route_prefix": f"/{PLAIN}", "import_path": "bench.serving.plain:build", "args": args}
        self.declare([*beside, spec])

        def has_settled(applications: Mapping[str, Json]) -> bool:
            app = applications.get(PLAIN, {})
            is_this = (app.get("deployed_app_config") or {}).get("args") == args
            return is_this and app["status"] in {"RUNNING", "DEPLOY_FAILED", "UNHEALTHY"}

        return str(self._wait(has_settled, "Ray Serve's application")[PLAIN]["status"])

    def declared(self) -> Sequence[Json]:
        """All applications as they were declared."""
        return [app["deployed_app_config"] for app in self._applications().values()]

    def declare(self, applications: Sequence[Json]) -> None:
        """Have Serve run these applications and no others."""
        http = {"host": "127.0.0.1", "port": self.addresses.serve_port}
        document = {"proxy_location": "HeadOnly", "http_options": http, "applications": list(applications)}
        self._request("PUT", document)

    def _applications(self) -> Mapping[str, Json]:
        found: Mapping[str, Json] = self._request("GET").json()["applications"]
        return found

    def _wait(self, wanted: Callable[[Mapping[str, Json]], bool], what: str) -> Mapping[str, Json]:
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while not wanted(applications := self._applications()):
            if time.monotonic() > deadline:
                raise PartFailed(f"waited in vain for {what}: {applications}")
            time.sleep(0.1)
        return applications

    def _request(self, method: str, document: Json | None = None) -> httpx.Response:
        token = (self.folder.secrets / "ray.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        url = f"{self.addresses.dashboard}/api/serve/applications/"
        with httpx.Client(trust_env=False, timeout=60) as client:
            answer = client.request(method, url, headers=headers, json=document)
        if not answer.is_success:
            raise PartFailed(f"Ray answered {method} with {answer.status_code}: {answer.text[:500]}")
        return answer


@contextmanager
def running_cluster(folder: DataFolder, models: Models, variables: Mapping[str, str]) -> Iterator[Cluster]:
    """A head from when it is ready until the end. ``variables`` are those of Ray that are tried out.

    Raises:
        PartFailed: it did not start.
    """
    addresses = ray_addresses(Ports(folder.ports_file))
    # What is declared without us is imported from here.
    with _running(ray_part(folder, addresses), PYTHONPATH=str(REPOSITORY), **variables) as process:
        yield Cluster(folder, addresses, process, models)


def new_folder(root: Path) -> DataFolder:
    """A data folder; models that the deployer may load belong below its ``artifacts``."""
    folder = open_data_folder(root)
    folder.artifacts.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def _running(part: Part, **environment: str) -> Iterator[psutil.Process]:
    part.before_start()
    with running(
        part.name,
        part.command,
        lambda: asyncio.run(_is_ready(part)),
        folder=part.log.parent,
        environment={**part.environment, **environment},
    ) as process:
        yield process


async def _is_ready(part: Part) -> bool:
    return await part.is_ready()
