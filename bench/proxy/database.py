"""One PostgreSQL for all: Countersign's database and MLflow's, and a count of the statements that ours is sent."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from app.embedded.environment import open_data_folder
from app.embedded.postgres import Cluster, postgres_part, prepare_cluster
from bench.proxy.parts import running

OURS, MLFLOW = "countersign", "mlflow"
_NAME_OF_DATABASE = "%d "


@dataclass(frozen=True, slots=True)
class Postgres:
    """A running cluster with both databases."""

    cluster: Cluster
    log: Path

    @property
    def url(self) -> str:
        return self.cluster.url(OURS)

    @property
    def mlflow_url(self) -> str:
        sockets = quote(str(self.cluster.sockets), safe="/")
        return f"postgresql+psycopg2://postgres:@/{MLFLOW}?host={sockets}"

    def execute(self, *statements: str) -> None:
        """Run statements as the superuser, outside both databases."""
        options = [word for statement in statements for word in ("-c", statement)]
        command = self.cluster.program("psql", "--no-psqlrc", "--quiet", *options, "postgres")
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603  # the wheel's own program

    @contextmanager
    def statements(self) -> Iterator[Callable[[], list[str]]]:
        """While this lasts, PostgreSQL logs every statement; the answer is those that were sent to our database.

        Logging costs time: nothing is measured meanwhile.
        """
        self.execute("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()")
        time.sleep(0.5)
        start, ours = self.log.stat().st_size, f"{OURS} LOG:  "

        def sent() -> list[str]:
            time.sleep(0.2)
            with self.log.open(encoding="utf-8", errors="replace") as log:
                log.seek(start)
                return [line.removeprefix(ours).strip() for line in log if line.startswith(ours)]

        try:
            yield sent
        finally:
            self.execute("ALTER SYSTEM RESET log_statement", "SELECT pg_reload_conf()")


@contextmanager
def running_postgres(folder: Path) -> Iterator[Postgres]:
    """The cluster in ``folder``, made if it is not there, with PostgreSQL's own settings."""
    data = open_data_folder(folder)
    is_new = not data.postgres.exists()
    cluster = prepare_cluster(data, print)
    part = postgres_part(cluster, data.logs)
    part.before_start()

    def ready() -> bool:
        return subprocess.run(cluster.program("pg_isready", "--quiet"), check=False).returncode == 0  # noqa: S603  # as above

    command = [*part.command, "-c", f"log_line_prefix={_NAME_OF_DATABASE}"]
    with running(part.name, command, ready, folder=data.logs, user=part.user, how=part.stop_signal):
        postgres = Postgres(cluster, data.logs / f"{part.name}.log")
        if is_new:
            postgres.execute(f"CREATE DATABASE {OURS}", f"CREATE DATABASE {MLFLOW}")
        yield postgres
