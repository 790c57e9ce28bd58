"""``models_to_serve.json``: what was trained, registered, promoted and deployed; for programs, and to go on from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from countersign_client.bootstrapping.problems import Problem

SCHEMA = 1
DEFAULT = "models_to_serve.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One model. What is not known yet is empty.

    ``project`` is the fingerprint of what it was trained from, ``left`` that of what the training left there: some
    write into their own folder. ``url`` is where Ray Serve answers for it.
    """

    name: str
    path: str
    port: int
    project: str
    run_id: str
    version: str
    uri: str
    left: str = ""
    digest: str = ""
    promotion: str = ""
    url: str = ""


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
        """Keep an entry, and write the file."""
        self._entries[entry.name] = entry
        self._write()
        return entry

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget models that are not served any more."""
        wanted = set(names)
        if self._entries.keys() - wanted:
            self._entries = {name: entry for name, entry in self._entries.items() if name in wanted}
            self._write()

    def _write(self) -> None:
        models = [asdict(entry) for entry in self._entries.values()]
        document = {"schema": SCHEMA, "written_at": datetime.now(UTC).isoformat(timespec="seconds"), "models": models}
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._file)


def _entry(document: object) -> Entry | None:
    """None if it is not one of ours: it is trained again then."""
    if not isinstance(document, Mapping):
        return None
    try:
        entry = Entry(**{each.name: document[each.name] for each in fields(Entry)})
    except KeyError:
        return None
    known = {each.name: getattr(entry, each.name) for each in fields(Entry)}
    is_ours = all(isinstance(value, int if name == "port" else str) for name, value in known.items())
    return entry if is_ours else None
