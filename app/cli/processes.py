"""``countersign gateway``, ``worker`` and ``migrate``: the processes of a deployment."""

from __future__ import annotations

import asyncio
import errno
import socket
from types import FrameType

import typer

from app.cli.operator import database_url
from app.domain.errors import InvalidConfiguration, Unavailable
from app.settings import Settings, load_settings


def gateway() -> None:
    """Serve the gateway. Configured by COUNTERSIGN_… variables; see docs/reference/settings.md."""
    import uvicorn

    from app.adapters.identity_file import read_trusted
    from app.main import create_app
    from app.proxy.connections import HttpConnection
    from app.telemetry import configure_logging

    settings = load_settings()
    configure_logging(log_format=settings.log_format, log_level=settings.log_level)
    read_trusted(settings)  # a mistake is told as one of the settings is, and before anything starts
    asyncio.run(_check_database(settings))
    _check_port(settings)
    app = create_app(settings)

    class Server(uvicorn.Server):
        """Goes on listening for a while after the first signal, so that callers and load balancers can turn away."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            self._loop = asyncio.get_running_loop()
            await super().startup(sockets)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
            if settings.drain_s and not app.is_draining:
                app.begin_to_drain()
                self._loop.call_soon_threadsafe(self._loop.call_later, settings.drain_s, self._stop, sig)
            else:
                self._stop(sig)

        def _stop(self, sig: int) -> None:
            app.drain()
            super().handle_exit(sig, None)

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpConnection,
        ws="websockets-sansio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=75,  # longer than load balancers keep idle connections, so that it is they who close
        timeout_graceful_shutdown=20,
    )
    Server(config).run()


def worker() -> None:
    """Run jobs: apply promotions, deliver webhooks."""
    from app.telemetry import configure_logging
    from app.worker import run_worker

    settings = load_settings()
    configure_logging(log_format=settings.log_format, log_level=settings.log_level)
    asyncio.run(_check_database(settings))
    asyncio.run(run_worker(settings))


def migrate() -> None:
    """Bring the database up to date, and protect `production` if there is no policy yet."""
    from app.adapters.postgres.schema import migrate as bring_up_to_date
    from app.bootstrap.operator import open_operator

    url = database_url()
    revision = bring_up_to_date(url)

    async def ensure_policy() -> None:
        async with open_operator(url) as operator:
            await operator.policies.ensure_default()

    asyncio.run(ensure_policy())
    typer.echo(f"The database is at revision {revision}.")


async def _check_database(settings: Settings) -> None:
    from app.adapters.postgres.engine import masked
    from app.adapters.postgres.unit_of_work import Database

    url = settings.database_url.get_secret_value()
    database = Database(url)
    try:
        await database.check_alive()
    except Unavailable:
        raise Unavailable(
            f"The database at {masked(url)} does not answer. Start it, or set COUNTERSIGN_DATABASE_URL."
        ) from None
    except Exception as error:
        if "does not exist" not in str(error):
            raise
        raise InvalidConfiguration(
            f"The database at {masked(url)} is not set up. Run `countersign migrate` first."
        ) from None
    finally:
        await database.close()


def _check_port(settings: Settings) -> None:
    """Say which setting to change, before the server says it in a traceback."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
            raise InvalidConfiguration(
                f"Port {settings.port} on {settings.host} {why}; choose another with COUNTERSIGN_PORT."
            ) from None
