"""Where logins are kept: one file for this person alone, replaced as a whole.

``COUNTERSIGN_CREDENTIALS_FILE`` moves it. A refresh token works once, so whoever changes the file holds its lock from
reading to having written.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import filelock
import platformdirs

from countersign_client.addresses import origin_of
from countersign_client.errors import UnsafeStore

FORMAT = 1
LOCK_TIMEOUT_S = 90
"""Longer than one refresh may take."""
_AHEAD = 3
"""A token is refreshed when a third of its life is left, so that a gateway may be away for a while."""
_CLOCKS_DIFFER_S = 5


@dataclass(frozen=True, slots=True)
class Login:
    """Somebody is signed in at one gateway. The tokens are left out of what is printed."""

    gateway: str
    client_id: str
    scopes: tuple[str, ...]
    token_endpoint: str
    revocation_endpoint: str
    obtained_at: float
    """Seconds since the epoch, by this machine's clock, as ``expires_at``."""
    expires_at: float
    """Of the access token."""
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)

    def is_good(self, now: float) -> bool:
        """Whether the access token works, as far as a clock can tell that may have jumped."""
        return self.obtained_at - _CLOCKS_DIFFER_S <= now < self.expires_at

    def is_fresh(self, now: float) -> bool:
        """Whether it works for long enough that there is no hurry to have the next one."""
        return self.is_good(now + (self.expires_at - self.obtained_at) / _AHEAD) and self.is_good(now)

    def renewed(self, *, access_token: str, refresh_token: str, now: float, lasts: float) -> Login:
        return replace(
            self, access_token=access_token, refresh_token=refresh_token, obtained_at=now, expires_at=now + lasts
        )


class LoginStore:
    """The file. Reading needs no lock: it is replaced in one step."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or _default_path()

    def all(self) -> Mapping[str, Login]:
        """Every login, by the gateway's address.

        Raises:
            UnsafeStore: the file is damaged, or others can read it or own it.
        """
        try:
            with self.path.open("rb") as file:
                self._check_owner(os.fstat(file.fileno()))
                text = file.read()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UnsafeStore(f"{self.path} cannot be read: {error.strerror}.") from None
        try:
            return _parse(text)
        except (ValueError, TypeError, KeyError, AttributeError):
            # Without the cause, which would quote the file.
            raise UnsafeStore(f"{self.path} is damaged. Remove it, and sign in again.") from None

    def get(self, gateway: str) -> Login | None:
        """The login at one gateway.

        Raises:
            UnsafeStore: as ``all``.
        """
        return self.all().get(gateway)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else on this machine changes the file meanwhile, in this process or another.

        Raises:
            UnsafeStore: the folder cannot be written to, or another holds the lock for too long.
        """
        try:
            if not self.path.parent.is_dir():
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Soft locks outlive a process that was killed; a file system without real ones is refused instead.
            lock = filelock.FileLock(self._lock_path, timeout=LOCK_TIMEOUT_S, mode=0o600, fallback_to_soft=False)
            lock.acquire()
        except filelock.Timeout:
            raise UnsafeStore(
                f"Another process has been refreshing a login for {LOCK_TIMEOUT_S} s and holds {self._lock_path}. "
                "Try again, or end it."
            ) from None
        except (OSError, NotImplementedError) as error:
            raise UnsafeStore(f"{self.path.parent} cannot be used for logins: {error}.") from None
        try:
            yield
        finally:
            lock.release()

    def put(self, login: Login) -> None:
        """Keep a login, in place of the one at the same gateway. The caller holds the lock.

        Raises:
            UnsafeStore: it cannot be read or written.
        """
        self._write({**self.all(), login.gateway: login})

    def remove(self, gateway: str) -> None:
        """Forget a login. The caller holds the lock.

        Raises:
            UnsafeStore: it cannot be read or written.
        """
        self._write({name: login for name, login in self.all().items() if name != gateway})

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    def _write(self, logins: Mapping[str, Login]) -> None:
        document = {"format": FORMAT, "logins": [asdict(login) for login in logins.values()]}
        try:
            # 0600 from the beginning (tempfile), and on the disk before it has the name.
            number, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    json.dump(document, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)  # noqa: PTH105 - both are one line
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)  # noqa: PTH108 - both are one line
                raise
        except OSError as error:
            raise UnsafeStore(f"{self.path} cannot be written: {error.strerror}.") from None

    def _check_owner(self, status: os.stat_result) -> None:
        if os.name != "posix":
            return
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeStore(f"{self.path} is not a file.")
        if status.st_uid != os.geteuid():
            raise UnsafeStore(f"{self.path} belongs to somebody else. Remove it, and sign in again.")
        if status.st_mode & 0o077:
            raise UnsafeStore(
                f"Others can read {self.path}, which holds your logins. Run `chmod 600 {self.path}`, and sign out "
                "and in again if they may have done so."
            )


def _default_path() -> Path:
    named = os.environ.get("COUNTERSIGN_CREDENTIALS_FILE")
    return Path(named) if named else platformdirs.user_config_path("countersign", appauthor=False) / "logins.json"


def _parse(text: bytes) -> Mapping[str, Login]:
    document = json.loads(text)
    if document["format"] != FORMAT:
        raise ValueError
    logins = (Login(**{**entry, "scopes": tuple(entry["scopes"])}) for entry in document["logins"])
    found = {login.gateway: login for login in logins}
    for gateway, login in found.items():
        # Whatever was written there: a token goes to its gateway alone.
        if {origin_of(login.token_endpoint), origin_of(login.revocation_endpoint)} != {gateway}:
            raise ValueError
        if not isinstance(login.expires_at, int | float) or not isinstance(login.obtained_at, int | float):
            raise TypeError
        if not _is_header_text(login.access_token) or not _is_header_text(login.refresh_token):
            raise ValueError
    return found


def _is_header_text(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable() and " " not in value
