"""The command: pairs of what to fetch and where to, as KServe calls a storage initializer."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from countersign_client.errors import ClientError, InvalidUsage

from countersign_storage.addresses import parse
from countersign_storage.fetching import fetch

TERMINATION_LOG: Final = "/dev/termination-log"
"""What a container says there, Kubernetes shows as why it ended; KServe copies it to ``lastFailureInfo.message``."""
_LONGEST: Final = 4096
"""Bytes that Kubernetes reads of it."""
_PATIENCE_S: Final = 120.0


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Fetch each pair, and end with the exit status of ``countersign_client.errors`` if one cannot be had."""
    given = sys.argv[1:] if arguments is None else arguments
    log = Path(environment.get("COUNTERSIGN_TERMINATION_LOG", TERMINATION_LOG))
    try:
        _fetch_all(given, environment)
    except ClientError as error:
        return _ended(log, str(error), error.exit_code)
    except OSError as error:
        return _ended(log, f"{error.filename or 'The disk'}: {error.strerror}.", ClientError.exit_code)
    return 0


def _fetch_all(given: Sequence[str], environment: Mapping[str, str]) -> None:
    if not given or len(given) % 2:
        raise InvalidUsage("Usage: countersign-storage ADDRESS FOLDER [ADDRESS FOLDER…]")
    gateway = environment.get("COUNTERSIGN_URL", "")
    if not gateway:
        raise InvalidUsage("COUNTERSIGN_URL is not set: the address of the gateway.")
    try:
        patience_s = float(environment.get("COUNTERSIGN_STORAGE_PATIENCE_S", _PATIENCE_S))
    except ValueError:
        raise InvalidUsage("COUNTERSIGN_STORAGE_PATIENCE_S is no number of seconds.") from None
    # All are read before one is fetched: what is misspelt should not be found after an hour.
    wanted = [(parse(address), Path(folder)) for address, folder in zip(given[::2], given[1::2], strict=True)]
    for address, folder in wanted:
        pulled = fetch(address, folder, gateway=gateway, patience_s=patience_s, say=_say)
        _say(f"{address} is in {folder}: {pulled.files} files, {pulled.size} bytes, verified ({pulled.digest}).")


def _ended(log: Path, why: str, status: int) -> int:
    _say(why)
    # Outside of a cluster there is none.
    with suppress(OSError):
        log.write_bytes(why.encode()[:_LONGEST])
    return status


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
