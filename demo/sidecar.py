"""What runs beside a server of models: the `countersign` command, as a service without an account at the store."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from demo.failure import StoryFailed, require
from demo.platform import Connection, countersign

PATIENCE_S = 60.0


class SideCar:
    """Follows an alias from the beginning to the end of its block, and fetches what it means."""

    def __init__(self, connection: Connection, uri: str) -> None:
        self._uri = uri
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COUNTERSIGN_", "MLFLOW_"))}
        # As a pod has it: its own identity, exchanged for a token of minutes that can resolve and nothing else.
        own = {"COUNTERSIGN_URL": connection.gateway, "COUNTERSIGN_ID_TOKEN": connection.tokens["serving"]}
        self._environment = kept | own
        self._versions: list[str] = []
        self._heard = threading.Condition()

    @property
    def command(self) -> str:
        """What follows the alias, as somebody would type it."""
        return f"countersign {' '.join(self._watch)}"

    @property
    def _watch(self) -> list[str]:
        return ["resolve", self._uri, "--watch", "--field", "version"]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [countersign(), *self._watch],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        self._listener.join(PATIENCE_S)

    def saw(self, *versions: str) -> None:
        """Return once these are what was seen, in this order and nothing else; the last may be on its way."""
        with self._heard:
            self._heard.wait_for(lambda: len(self._versions) >= len(versions), PATIENCE_S)
            require(self._versions == list(versions), f"who followed the alias saw {self._versions}, not {versions}")

    def pull(self, folder: Path) -> tuple[str, float]:
        """Download the version; what the command says, and the seconds that it took."""
        began = time.monotonic()
        done = subprocess.run(  # noqa: S603 - our own command
            [countersign(), "pull", self._uri, str(folder)],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if done.returncode != 0:
            raise StoryFailed(f"countersign pull ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip(), time.monotonic() - began

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            with self._heard:
                self._versions.append(line.strip())
                self._heard.notify_all()
