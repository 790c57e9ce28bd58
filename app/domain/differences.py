"""What a change of configuration is: the document that was, the one that is, and what differs between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Difference:
    """One field. ``before`` is none where it was not there, ``after`` where it is not there any more."""

    path: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class Change:
    """What applying a document did, or would do."""

    kind: str
    name: str
    action: str
    before: Document | None = None
    after: Document | None = None

    @property
    def changes(self) -> bool:
        """Whether there is a difference at all."""
        return self.before != self.after

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Field by field, as the documents have them."""
        return tuple(_differences("", self.before or {}, self.after or {}))

    def __str__(self) -> str:
        return f"{self.kind.lower()} {self.name}: {self.action}"


def _differences(path: str, before: object, after: object) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _differences(f"{path}.{name}".lstrip("."), before.get(name), after.get(name))
    elif before != after:
        yield Difference(path, before, after)
