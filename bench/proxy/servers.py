"""The servers that are compared, each with how it is started: MLflow in its variants, nginx, the gateway."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.embedded.environment import child_environment
from app.embedded.mlflow_server import HARDENING
from app.embedded.ports import LOOPBACK
from bench.proxy.database import Postgres
from bench.proxy.environments import mlflow_environment
from bench.proxy.issuer import AUDIENCE, GROUP, Issuer
from bench.proxy.load import Contender
from bench.proxy.parts import PartFailed, answers, free_port, running

REPOSITORY = Path(__file__).parents[2]
STATIC_BODY = '{"experiment": {"name": "' + "e" * 472 + '"}}'
"""500 bytes."""


@dataclass(frozen=True, slots=True)
class Site:
    """What all servers of one run share. ``settings`` are variables of the gateway that are tried out."""

    folder: Path
    postgres: Postgres
    issuer: Issuer
    settings: Mapping[str, str]

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"


@contextmanager
def mlflow(site: Site, name: str = "direct", *, workers: int = 1, python: Path | None = None) -> Iterator[Contender]:
    """An unmodified MLflow on PostgreSQL, as it installs itself."""
    with _mlflow_server(site, name, python or mlflow_environment(), workers=workers) as contender:
        yield contender


@contextmanager
def basic_auth(site: Site, python: Path) -> Iterator[Contender]:
    """MLflow's basic-auth app, asked by its administrator. It hashes the password at each request."""
    password = secrets.token_urlsafe(16)
    environment = {
        "MLFLOW_AUTH_ADMIN_PASSWORD": password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_urlsafe(16),
    }
    authorization = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
    with _mlflow_server(site, "basic-auth", python, app="basic-auth", environment=environment) as server:
        yield Contender(server.name, server.url, server.processes, authorization, slow=True)


@contextmanager
def oidc_auth(site: Site, python: Path) -> Iterator[Contender]:
    """mlflow-oidc-auth with its own defaults and the token of our issuer, whose holder may do everything."""
    environment = {
        "OIDC_DISCOVERY_URL": site.issuer.discovery_url,
        "OIDC_ISSUER": site.issuer.url,
        "OIDC_AUDIENCE": AUDIENCE,
        "OIDC_CLIENT_ID": AUDIENCE,
        "OIDC_CLIENT_SECRET": secrets.token_urlsafe(16),
        "OIDC_GROUP_NAME": GROUP,
        "OIDC_PROVISION_ON_BEARER_AUTH": "true",
        "DEFAULT_MLFLOW_PERMISSION": "MANAGE",
        "SECRET_KEY": secrets.token_urlsafe(32),
    }
    with _mlflow_server(site, "mlflow-oidc-auth", python, app="oidc-auth", environment=environment) as server:
        yield Contender(server.name, server.url, server.processes, f"Bearer {site.issuer.token()}")


@contextmanager
def _mlflow_server(
    site: Site,
    name: str,
    python: Path,
    *,
    workers: int = 1,
    app: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Contender]:
    port, folder = free_port(), site.folder / name
    folder.mkdir(exist_ok=True)
    site.artifacts.mkdir(exist_ok=True)
    command = [str(python), "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)]
    command += ["--workers", str(workers), "--backend-store-uri", site.postgres.mlflow_url]
    command += ["--serve-artifacts", "--artifacts-destination", str(site.artifacts)]
    command += ["--app-name", app] if app else []
    settings = {**HARDENING, **(environment or {})}
    with running(name, command, answers(port, "/health"), folder=folder, environment=settings) as process:
        yield Contender(name, f"http://{LOOPBACK}:{port}", (process,))


@contextmanager
def static_upstream(site: Site) -> Iterator[Contender]:
    """An nginx that answers every path with the same 500 bytes."""
    location = f"location / {{ default_type application/json; return 200 '{STATIC_BODY}'; }}"
    with _nginx(site, "nginx itself", location) as contender:
        yield contender


@contextmanager
def nginx_before(site: Site, upstream: Contender) -> Iterator[Contender]:
    """An nginx that passes everything on over kept connections, and streams both ways as the gateway does."""
    location = """location / {
        proxy_pass http://upstream;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_request_buffering off;
        proxy_read_timeout 300s;
    }"""
    block = f"upstream upstream {{ server {upstream.address}; keepalive 256; keepalive_requests 1000000000; }}"
    with _nginx(site, "nginx", location, block) as contender:
        yield contender


@contextmanager
def _nginx(site: Site, name: str, location: str, upstream: str = "") -> Iterator[Contender]:
    port, folder = free_port(), site.folder / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    temporary = "".join(
        f"{kind}_temp_path {folder};\n    " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    {temporary}{upstream}
    server {{ listen {LOOPBACK}:{port}; {location} }}
}}
""")
    command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with running("nginx", command, answers(port, "/health"), folder=folder) as process:
        yield Contender(name, f"http://{LOOPBACK}:{port}", (process,))


@contextmanager
def gateway(site: Site, upstreams: Sequence[Contender], name: str = "countersign") -> Iterator[Contender]:
    """One gateway process before ``upstreams``, asked with a token that it verifies and a role that it looks up.

    Raises:
        PartFailed: it did not start.
    """
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    environment = {
        "COUNTERSIGN_DATABASE_URL": site.postgres.url,
        "COUNTERSIGN_PUBLIC_URL": url,
        "COUNTERSIGN_PORT": str(port),
        "COUNTERSIGN_UPSTREAM_URLS": ",".join(upstream.url for upstream in upstreams),
        "COUNTERSIGN_ARTIFACTS_DESTINATION": str(site.artifacts),
        "COUNTERSIGN_OIDC_ISSUER": site.issuer.url,
        "COUNTERSIGN_OIDC_AUDIENCE": AUDIENCE,
        "COUNTERSIGN_ROLES": json.dumps({"contributor": [GROUP]}),
        "PYTHONPATH": str(REPOSITORY),
        **site.settings,
    }
    command = [sys.executable, "-m", "app.cli"]
    migrated = subprocess.run(  # noqa: S603  # our own command
        [*command, "migrate"], env=child_environment(environment), capture_output=True, text=True, check=False
    )
    if migrated.returncode != 0:
        raise PartFailed(f"countersign migrate failed: {migrated.stderr.strip()[-300:]}")
    folder = site.folder / "gateway"
    folder.mkdir(exist_ok=True)
    with running(
        "gateway", [*command, "gateway"], answers(port, "/livez"), folder=folder, environment=environment
    ) as us:
        yield Contender(name, url, (us,), f"Bearer {site.issuer.token()}")
