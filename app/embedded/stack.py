"""The composition of `countersign up`: which part needs which, and what is written once all run."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from app.domain.errors import Unavailable
from app.embedded.connection import Connection
from app.embedded.environment import DataFolder, bytecode_settings, child_environment, drop_short_directory, secret
from app.embedded.guardian import FAREWELL
from app.embedded.identity import (
    TOKEN_LIFETIME_S,
    Person,
    gateway_settings,
    identity_part,
    issuer_of,
    sign_in,
)
from app.embedded.manifest import write_manifest
from app.embedded.mlflow_server import assertion_settings, mlflow_part
from app.embedded.ports import LOOPBACK, Ports
from app.embedded.postgres import LONGEST_SOCKET_FOLDER, Cluster, create_database, postgres_part, prepare_cluster
from app.embedded.probes import answers
from app.embedded.processes import GUARDIAN, ProcessTable
from app.embedded.ray_cluster import (
    LONGEST_TEMPORARY_FOLDER,
    RayAddresses,
    deployer_part,
    ray_addresses,
    ray_part,
)
from app.embedded.supervisor import Part, Supervisor

COUNTERSIGN = (sys.executable, "-P", "-m", "app.cli")
PATIENCE_FOR_ISSUER_S = 5
WILDCARDS = {"0.0.0.0": LOOPBACK, "::": "[::1]"}  # noqa: S104  # compared with, not listened on


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for, and the addresses that follow from it."""

    folder: DataFolder
    host: str
    port: int
    mlflow_port: int
    identity_port: int
    worker_metrics_port: int
    ray: RayAddresses | None

    @property
    def gateway(self) -> str:
        """The address for people and clients: a wildcard is no address to call."""
        shown = WILDCARDS.get(self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return f"http://{shown}:{self.port}"

    @property
    def issuer(self) -> str:
        return issuer_of(self.identity_port)

    @property
    def upstream(self) -> str:
        return f"http://{LOOPBACK}:{self.mlflow_port}"


def make_plan(folder: DataFolder, host: str, port: int, *, with_ray: bool, say: Callable[[str], None]) -> Plan:
    """Choose the ports. The issuer keeps its own as long as it can: tokens name it."""
    ports = Ports(folder.ports_file, reserved=[port])
    before = ports.known("canaille")
    identity_port = ports.of("canaille", patience_s=PATIENCE_FOR_ISSUER_S)
    if before not in (None, identity_port):
        say(f"port {before} is in use by another process: the identity provider moves to {identity_port}, and access")
        say("tokens from before are no longer good")
    return Plan(
        folder=folder,
        host=host,
        port=port,
        identity_port=identity_port,
        mlflow_port=ports.of("mlflow"),
        worker_metrics_port=ports.of("worker-metrics"),
        ray=ray_addresses(ports) if with_ray else None,
    )


class Stack:
    """Everything that runs, from :meth:`start` to :meth:`stop`."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.connection: Connection | None = None
        self._say = say
        self._table = ProcessTable(plan.folder.processes_file, secrets.token_hex(16))
        self._supervisor = Supervisor(self._table, say, self._publish, bytecode_settings(plan.folder))
        self._guardian: asyncio.subprocess.Process | None = None
        self._chores: list[asyncio.Task[None]] = []

    async def start(self) -> Connection:
        """Start the parts, each as early as what it needs allows, and write `connection.json`.

        Raises:
            CountersignError: a part did not come up. What had started is left to :meth:`stop`.
        """
        await self._watch_over()
        with _first_failure():
            async with asyncio.TaskGroup() as group:
                group.create_task(self._supervisor.start(mlflow_part(self.plan.folder, self.plan.mlflow_port)))
                database = group.create_task(self._start_database())
                people = group.create_task(self._start_identity())
                for name in ("gateway", "worker"):
                    group.create_task(self._start_ours(name, database, people))
                if self.plan.ray is not None:
                    group.create_task(self._start_ray(self.plan.ray))
        self.connection = self._connect(database.result(), people.result())
        self._publish()
        self._chores = [
            asyncio.create_task(self._supervisor.watch_logs()),
            asyncio.create_task(self._renew_tokens()),
        ]
        return self.connection

    async def stop(self) -> None:
        """Stop everything, newest first, and remove what says that it runs."""
        for chore in self._chores:
            chore.cancel()
        self.plan.folder.connection_file.unlink(missing_ok=True)
        await self._supervisor.stop()
        drop_short_directory(self.plan.folder.postgres, LONGEST_SOCKET_FOLDER)
        drop_short_directory(self.plan.folder.ray_temporary, LONGEST_TEMPORARY_FOLDER)
        self._table.clear()
        if self._guardian is not None and self._guardian.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._guardian.stdin.write(FAREWELL)
                await self._guardian.stdin.drain()
                self._guardian.stdin.close()
            await self._guardian.wait()

    async def _watch_over(self) -> None:
        self._guardian = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "app.embedded.guardian", str(self.plan.folder.root)),
            env=child_environment({}),
            cwd=self.plan.folder.root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        self._table.add(GUARDIAN, self._guardian.pid)

    async def _start_database(self) -> Cluster:
        cluster = await asyncio.to_thread(prepare_cluster, self.plan.folder, self._say)
        await self._supervisor.start(postgres_part(cluster, self.plan.folder.logs))
        await create_database(cluster)
        write_manifest(self.plan.folder, self.plan.ray)
        for command in (["migrate"], ["apply", "-f", str(self.plan.folder.manifest_file)]):
            await self._supervisor.run_once(
                command[0], [*COUNTERSIGN, *command], self._settings(cluster), self.plan.folder.logs
            )
        return cluster

    async def _start_identity(self) -> dict[str, Person]:
        await self._supervisor.start(identity_part(self.plan.folder, self.plan.identity_port, self.plan.gateway))
        return await sign_in(self.plan.folder, self.plan.issuer)

    async def _start_ours(
        self, name: str, database: asyncio.Task[Cluster], people: asyncio.Task[dict[str, Person]]
    ) -> None:
        cluster, _ = await asyncio.gather(database, people)
        await self._supervisor.start(self._our_part(name, cluster))

    async def _start_ray(self, addresses: RayAddresses) -> None:
        await self._supervisor.start(ray_part(self.plan.folder, addresses))
        await self._supervisor.start(deployer_part(self.plan.folder, addresses, self.plan.gateway))

    def _our_part(self, name: str, cluster: Cluster) -> Part:
        metrics = f"http://{LOOPBACK}:{self.plan.worker_metrics_port}/metrics"
        ready, shown = {
            "gateway": (f"{self.plan.gateway}/readyz", self.plan.gateway),
            "worker": (metrics, f"{metrics} (it has no other address)"),
        }[name]

        async def is_ready() -> bool:
            return await answers(ready)

        return Part(
            name=name,
            title=name.capitalize(),
            command=[*COUNTERSIGN, name],
            environment=self._settings(cluster),
            log=self.plan.folder.logs / f"{name}.log",
            is_ready=is_ready,
            address=shown,
            folder=self.plan.folder.root,
            wave=2,
        )

    def _settings(self, cluster: Cluster) -> dict[str, str]:
        webhook_key, _ = secret(self.plan.folder, "webhook.key", lambda: secrets.token_hex(32))
        return {
            "COUNTERSIGN_DATABASE_URL": cluster.url(),
            "COUNTERSIGN_PUBLIC_URL": self.plan.gateway,
            "COUNTERSIGN_HOST": self.plan.host,
            "COUNTERSIGN_PORT": str(self.plan.port),
            "COUNTERSIGN_UPSTREAM_URLS": self.plan.upstream,
            "COUNTERSIGN_ARTIFACTS_DESTINATION": str(self.plan.folder.artifacts),
            "COUNTERSIGN_DRAIN_S": "0",  # whoever stops it has no second one to turn to
            "COUNTERSIGN_WORKER_METRICS_PORT": str(self.plan.worker_metrics_port),
            "COUNTERSIGN_WEBHOOK_KEY_FILE": str(webhook_key),
            **assertion_settings(self.plan.folder),
            **gateway_settings(self.plan.folder, self.plan.issuer),
        }

    def _connect(self, cluster: Cluster, people: dict[str, Person]) -> Connection:
        ray = self.plan.ray
        return Connection(
            gateway=self.plan.gateway,
            issuer=self.plan.issuer,
            upstream=self.plan.upstream,
            database=cluster.url(),
            artifacts=str(self.plan.folder.artifacts),
            people=people,
            ray={"dashboard": ray.dashboard, "serve": ray.serve} if ray is not None else None,
        )

    def _publish(self) -> None:
        if self.connection is not None:
            self.connection.write(self.plan.folder, self._table.pids())

    async def _renew_tokens(self) -> None:
        pause = TOKEN_LIFETIME_S / 2
        while self.connection is not None:
            await asyncio.sleep(pause)
            try:
                people = await sign_in(self.plan.folder, self.plan.issuer)
            except Unavailable as error:
                self._say(f"{error}; trying again in a minute")
                pause = 60
                continue
            self.connection = replace(self.connection, people=people)
            self._publish()
            pause = TOKEN_LIFETIME_S / 2


@contextlib.contextmanager
def _first_failure() -> Iterator[None]:
    try:
        yield
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
