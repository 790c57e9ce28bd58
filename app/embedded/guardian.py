"""The process that stops everything when `countersign up` itself is killed and cannot.

It waits on a pipe whose other end only `countersign up` holds. The kernel closes that end however `up` ends, so this
works on every platform and for grandchildren too. A word on the pipe says that nothing is left to do.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from app.embedded.environment import DataFolder
from app.embedded.processes import stop_leftovers

FAREWELL = b"stopped\n"


def watch(folder: DataFolder) -> None:
    """Wait for the end of `countersign up`, and stop what it left behind."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    if sys.stdin.buffer.readline() != FAREWELL:
        folder.connection_file.unlink(missing_ok=True)
        stop_leftovers(folder.processes_file)


if __name__ == "__main__":
    watch(DataFolder(Path(sys.argv[1])))
