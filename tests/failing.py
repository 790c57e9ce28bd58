"""MLflow as it is for a worker that dies, or that is not answered: every call still goes to the real one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.domain.errors import CountersignError
from app.services.advancing import Advancing


class KilledError(BaseException):
    """The process is no more: nothing of it runs on."""


@dataclass
class Line:
    """The worker's line to MLflow: it fails after one of the calls that change something, and refuses some for good."""

    registry: Any
    fails_after: int | None = None
    """So many changes reach MLflow, and the answer to the last of them does not come; none: all answers do."""
    failure: BaseException = field(default_factory=KilledError)
    refuses: Callable[..., bool] = lambda *_: False
    """Whether MLflow refuses a call for good, by its name and arguments."""
    changes: int = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*values: str, **named: str) -> Any:
            if self.fails_after == 0:
                raise self.failure
            if self.refuses(name, *values):
                raise CountersignError("MLflow refused it: INVALID_PARAMETER_VALUE.")
            answer = await getattr(self.registry, name)(*values, **named)
            if name.startswith(("set_", "delete_")):
                self.changes += 1
                if self.changes == self.fails_after:
                    raise self.failure
            return answer

        return call


@contextmanager
def failing(advancing: Advancing, **how: Any) -> Iterator[Line]:
    """What a worker has for a line to MLflow, when it applies, for as long as it lives."""
    applying: Any = advancing._applying
    line = Line(applying._registry, **how)
    applying._registry = line
    try:
        yield line
    finally:
        applying._registry = line.registry
