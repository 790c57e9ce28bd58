"""`connection.json`: where everything answers and who may sign in, for scripts, tests and the demo."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass

from app.embedded.environment import DataFolder, write_atomically
from app.embedded.identity import Person


@dataclass(frozen=True, slots=True)
class Connection:
    """What `connection.json` holds. Each person is found under ``people`` and under their own name too."""

    gateway: str
    issuer: str
    upstream: str
    database: str
    artifacts: str
    people: Mapping[str, Person]
    ray: Mapping[str, str] | None = None

    @property
    def console(self) -> str:
        return f"{self.gateway}/console"

    @property
    def control(self) -> str:
        return f"{self.gateway}/control/v1"

    def document(self, processes: Mapping[str, int]) -> dict[str, object]:
        """The file's content."""
        people = {name: dataclasses.asdict(person) for name, person in self.people.items()}
        document: dict[str, object] = {
            "gateway": self.gateway,
            "console": self.console,
            "control": self.control,
            "issuer": self.issuer,
            "upstream": self.upstream,
            "database": self.database,
            "artifacts": self.artifacts,
            "people": people,
            **people,
            "processes": dict(processes),
        }
        if self.ray is not None:
            document["ray"] = dict(self.ray)
        return document

    def write(self, folder: DataFolder, processes: Mapping[str, int]) -> None:
        """Replace the file at once, readable by its owner only: it holds passwords and tokens."""
        write_atomically(folder.connection_file, json.dumps(self.document(processes), indent=2) + "\n")
