"""A local Ray head with Ray Serve, and the deployer that stands between it and the gateway.

Ray's dashboard port runs code for whoever may call it, so everything listens on loopback only and wants a token.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from app.embedded.environment import DataFolder, secret, short_directory
from app.embedded.ports import LOOPBACK, Ports
from app.embedded.probes import answers, fetch
from app.embedded.supervisor import Part

TARGET = "ray"
CPUS = 8
"""What Ray may hand out. Replicas of small models reserve a part of a processor each, and wait more than they work."""
OBJECT_STORE_BYTES = 200_000_000
LONGEST_TEMPORARY_FOLDER = 103 - len("/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store")
_PORT_OPTIONS = (
    "port",
    "dashboard-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
)


@dataclass(frozen=True, slots=True)
class RayAddresses:
    """Where Ray, Ray Serve and the deployer answer."""

    options: dict[str, int]
    deployer_port: int
    serve_port: int

    @property
    def dashboard(self) -> str:
        return f"http://{LOOPBACK}:{self.options['dashboard-port']}"

    @property
    def serve(self) -> str:
        return f"http://{LOOPBACK}:{self.serve_port}"

    @property
    def deployer(self) -> str:
        return f"http://{LOOPBACK}:{self.deployer_port}"


def ray_addresses(ports: Ports) -> RayAddresses:
    """The same addresses at every start, as far as they are free."""
    options = {option: ports.of(f"ray-{option}") for option in _PORT_OPTIONS}
    return RayAddresses(options, ports.of("ray-deployer"), ports.of("ray-serve"))


def ray_part(folder: DataFolder, addresses: RayAddresses) -> Part:
    """The Ray head. It takes about ten seconds."""
    # Ray opens its own folder to everybody: the private one above it keeps them out.
    temporary = short_directory(folder.ray_temporary, LONGEST_TEMPORARY_FOLDER)
    token_file, token = _token(folder)

    async def has_node() -> bool:
        # The dashboard answers before the node has joined, and when it never does.
        nodes = await fetch(f"{addresses.dashboard}/api/v0/nodes", {"Authorization": f"Bearer {token}"})
        return nodes is not None and b'"state": "ALIVE"' in nodes

    return Part(
        name="ray",
        title="Ray",
        command=[
            *(sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block"),
            *("--disable-usage-stats", "--include-dashboard=true", "--include-log-monitor=false"),
            *(f"--node-ip-address={LOOPBACK}", f"--dashboard-host={LOOPBACK}", f"--temp-dir={temporary}"),
            *(f"--num-cpus={CPUS}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
            # Ray dies where it may not write to shared memory, as in some sandboxes.
            *([] if os.access("/dev/shm", os.W_OK) else [f"--plasma-directory={temporary}"]),  # noqa: S108
            *(f"--{option}={port}" for option, port in addresses.options.items()),
        ],
        environment={
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token_file),
            # On Linux Ray takes 127.0.0.1 for a mistake and listens on all interfaces, unless told of a single node.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Otherwise it waits half a minute for work to drain.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # What replicas that load models must not do.
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        log=folder.logs / "ray.log",
        is_ready=has_node,
        address=addresses.dashboard,
        folder=folder.ray,
        wave=1,
        before_start=lambda: _empty(temporary),
    )


def _token(folder: DataFolder) -> tuple[Path, str]:
    return secret(folder, "ray.token", lambda: secrets.token_hex(32))


def _empty(temporary: Path) -> None:
    # Each start makes a session of its own and leaves it: a new one begins with none.
    for entry in temporary.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def webhook_secrets(folder: DataFolder) -> tuple[Path, Path]:
    """The files with the Standard Webhooks secrets: gateway to deployer, and deployer to gateway."""

    def make() -> str:
        return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

    return secret(folder, "ray-webhook.secret", make)[0], secret(folder, "ray-callback.secret", make)[0]


def deployer_part(folder: DataFolder, addresses: RayAddresses, gateway: str) -> Part:
    """The Ray Serve deployer, which takes calls from the gateway only."""
    webhook, callback = webhook_secrets(folder)
    token_file, _ = _token(folder)
    settings = {
        "HOST": LOOPBACK,
        "PORT": str(addresses.deployer_port),
        "TARGET": TARGET,
        "GATEWAY_URL": gateway,
        "WEBHOOK_SECRET_FILE": str(webhook),
        "CALLBACK_SECRET_FILE": str(callback),
        # A path with a space has two spellings.
        "ALLOWED_URI_PREFIXES": ",".join(sorted({f"file://{folder.artifacts}/", f"{folder.artifacts.as_uri()}/"})),
        "STATE_DIR": str(folder.deployer),
        "DASHBOARD_URL": addresses.dashboard,
        "DASHBOARD_TOKEN_FILE": str(token_file),
        "SERVE_HOST": LOOPBACK,
        "SERVE_PORT": str(addresses.serve_port),
        "SERVE_URL": addresses.serve,
        "PROXY_LOCATION": "HeadOnly",
        "BACKEND_NUM_CPUS": "0.25",
    }

    async def is_live() -> bool:
        return await answers(f"{addresses.deployer}/livez")

    return Part(
        name="deployer",
        title="Ray Serve deployer",
        command=[sys.executable, "-P", "-m", "countersign_ray_serve.cli"],
        environment={f"COUNTERSIGN_RAY_{name}": value for name, value in settings.items()},
        log=folder.logs / "deployer.log",
        is_ready=is_live,
        address=addresses.deployer,
        folder=folder.deployer,
        wave=2,
    )


def target_document(folder: DataFolder, addresses: RayAddresses) -> dict[str, object]:
    """The target, as `countersign apply` reads it."""
    webhook, callback = webhook_secrets(folder)
    return {
        "kind": "Target",
        "name": TARGET,
        "url": f"{addresses.deployer}/v1/deployments",
        "secretFile": str(webhook),
        "callbackSecretFile": str(callback),
        "allowPrivateNetwork": True,
    }
