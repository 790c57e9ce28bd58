"""Which ports the parts listen on, the same at every start of a data folder.

Ports are drawn below the range from which operating systems take the ports of outgoing connections, so that nothing
takes one by chance between two starts.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from app.domain.errors import InvalidConfiguration
from app.embedded.environment import write_atomically

LOOPBACK = "127.0.0.1"
FIRST, LAST = 20_000, 31_999
"""Ray forbids 10002 to 19999 for some of its ports; Linux connects from 32768 upwards, macOS from 49152."""


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether somebody could listen on ``host:port`` now."""
    try:
        _listen(port, host)
    except OSError:
        return False
    return True


def _listen(port: int, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # As servers do: a port whose last connections linger in TIME_WAIT is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1)


def require_free(port: int, host: str) -> None:
    """Refuse when the gateway could not listen where it was told to.

    Raises:
        InvalidConfiguration: one line that names the option to change.
    """
    try:
        _listen(port, host)
    except PermissionError:
        raise InvalidConfiguration(
            f"port {port} may not be used by this user; choose one above 1023 with --port"
        ) from None
    except socket.gaierror:
        raise InvalidConfiguration(f"{host} is not an address of this machine; choose another with --host") from None
    except OSError as error:
        if error.errno is not None and "assign" in (error.strerror or "").lower():
            reason = f"{host} is not an address of this machine; choose another with --host"
        else:
            reason = f"port {port} is in use by another process; choose another with --port"
        raise InvalidConfiguration(reason) from None


class Ports:
    """Named ports of one data folder, drawn once and kept in ``ports.json``."""

    def __init__(self, file: Path, *, reserved: Iterable[int] = ()) -> None:
        self._file = file
        self._reserved = set(reserved)
        self._known = _read(file)

    def known(self, name: str) -> int | None:
        """The port that ``name`` had until now."""
        return self._known.get(name)

    def of(self, name: str, *, patience_s: float = 0) -> int:
        """The port of ``name``: the one it always had, or another if somebody else listens there now.

        ``patience_s`` is how long to wait for the known port before giving it up.
        """
        known = self._known.get(name)
        if known is None or known in self._reserved or not _becomes_free(known, patience_s):
            known = self._draw()
            self._known[name] = known
            write_atomically(self._file, json.dumps(self._known, indent=2) + "\n")
        return known

    def _draw(self) -> int:
        taken = self._reserved | set(self._known.values())
        for port in random.sample(range(FIRST, LAST + 1), 500):
            if port not in taken and is_free(port):
                return port
        raise InvalidConfiguration(f"no free port between {FIRST} and {LAST} on {LOOPBACK}; stop some other servers")


def _read(file: Path) -> dict[str, int]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {name: port for name, port in known.items() if isinstance(port, int)} if isinstance(known, dict) else {}


def _becomes_free(port: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not is_free(port):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True
