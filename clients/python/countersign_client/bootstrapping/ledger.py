"""``models_to_serve.json``: what was trained, registered, promoted and deployed; for programs, and to go on from."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from countersign_client.bootstrapping.problems import Problem, Stopped
from countersign_client.following import Exit

SCHEMA = 1
_FIRST = frozenset({"name", "path", "port", "project", "run_id", "version", "uri"})
"""What every entry has, of every version of this package."""
DEFAULT = "models_to_serve.json"


@dataclass(frozen=True, slots=True)
class Training:
    """One that was begun, and from which no version is registered yet: by its names the run is found again.

    ``project`` and ``left`` are as of ``Entry``.
    """

    project: str
    experiment: str
    run: str
    left: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. What is not known yet is empty.

    ``project`` is the fingerprint of what it was trained from, ``left`` that of what the training left there: some
    write into their own folder. ``gateway`` is where it is registered, ``alias`` what its promotion is to, ``url``
    where Ray Serve answers for it.
    """

    name: str
    path: str
    port: int
    project: str = ""
    run_id: str = ""
    version: str = ""
    uri: str = ""
    left: str = ""
    digest: str = ""
    promotion: str = ""
    url: str = ""
    gateway: str = ""
    alias: str = ""
    training: Training | None = None


class Ledger:
    """The file. It is replaced at once, after each step: whoever reads it sees one of them, whole."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = FileLock(file.with_name(f".{file.name}.lock"))
        self._entries: dict[str, Entry] = {}

    def read(self) -> Problem | None:
        """Hold the file, and read what an earlier run wrote; what is wrong with it or its place, if anything is."""
        where = str(self._file)
        try:
            if not self._file.parent.is_dir():
                raise FileNotFoundError
            self._lock.acquire(timeout=0)
        except Timeout:
            return Problem(where, "another `countersign bootstrap` is writing it")
        except OSError:
            return Problem(where, "its folder is not there, or cannot be written to")
        try:
            document = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return Problem(where, "it cannot be read; remove it, or name another file with --output")
        if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
            return Problem(where, f"it is not of schema {SCHEMA}; remove it, or name another file with --output")
        models = document.get("models")
        for each in models if isinstance(models, list) else []:
            if (entry := _entry(each)) is not None:
                self._entries[entry.name] = entry
        return None

    def let_go(self) -> None:
        """Let others write the file."""
        self._lock.release()

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def put(self, entry: Entry) -> Entry:
        """Keep an entry, and write the file. Raises ``Stopped``: it cannot be written."""
        self._entries[entry.name] = entry
        self._write()
        return entry

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget models that are not served any more. Raises as ``put``."""
        wanted = set(names)
        if self._entries.keys() - wanted:
            self._entries = {name: entry for name, entry in self._entries.items() if name in wanted}
            self._write()

    def _write(self) -> None:
        models = [asdict(entry) for entry in self._entries.values()]
        document = {"schema": SCHEMA, "written_at": datetime.now(UTC).isoformat(timespec="seconds"), "models": models}
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            # Of a folder whose name is not UTF-8, half letters are left: backslashes make them JSON's own escapes.
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            hint = " It is replaced whole: mount its folder, not the file alone." if error.errno == errno.EBUSY else ""
            raise Stopped(f"{self._file} cannot be written: {error.strerror}.{hint}", Exit.FAILED) from None


def _entry(document: object) -> Entry | None:
    """None if it is not one of ours: it is trained again then."""
    if not isinstance(document, Mapping) or not document.keys() >= _FIRST:
        return None
    known = {each.name: document[each.name] for each in fields(Entry) if each.name in document}
    training = known.pop("training", None)
    if not all(isinstance(value, int if name == "port" else str) for name, value in known.items()):
        return None
    return Entry(**known, training=_training(training))


def _training(document: object) -> Training | None:
    if not isinstance(document, Mapping):
        return None
    known = [document.get(each.name) for each in fields(Training)]
    texts = [each for each in known if isinstance(each, str)]
    return Training(*texts) if len(texts) == len(known) else None
