"""What stands in the way, as sentences: all of it is told at once, so that it is put right at once."""

from __future__ import annotations

from dataclasses import dataclass

from countersign_client.errors import ClientError
from countersign_client.following import Exit


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that must be put right first; ``where`` is the setting, model or service that it is about."""

    where: str
    what: str
    exit: Exit = Exit.USAGE

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class NotReady(ClientError):
    """Nothing was begun, because of all these problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(
            "nothing was begun:\n" + "\n".join(f"  - {problem}" for problem in problems)
            if len(problems) > 1
            else f"nothing was begun: {problems[0]}"
        )
        self.problems = tuple(problems)
        ends = [problem.exit for problem in problems]
        self.exit_code = int(Exit.USAGE if Exit.USAGE in ends else ends[0])


class Stopped(ClientError):
    """A step failed; what was done before it stays."""

    def __init__(self, message: str, how: Exit) -> None:
        super().__init__(message)
        self.exit_code = int(how)
