"""What the story looks like on a terminal, and in a log where there is none: headings, sentences, calls, waiting."""

from __future__ import annotations

import contextlib
import io
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

INDENT = 2
PIPED_WIDTH = 110
STILL_WAITING_S = 20.0


class Screen:
    """Writes to stdout. Everything that comes from elsewhere is shown as it is: no markup is read from it."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A terminal that has no arrow must not end the story; a log file shows each line when it is written.
            sys.stdout.reconfigure(errors="replace", line_buffering=True)
        self._console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)

    def heading(self, number: int, title: str) -> None:
        """Begin a step."""
        self._console.print()
        self._line(Text.assemble((f"{number}  ", "bold cyan"), (title, "bold")), indent=0)
        self._console.print()

    def say(self, sentence: str, *, style: str = "") -> None:
        """A sentence of the story."""
        self._prose(Text(sentence, style), indent=INDENT)

    def line(self, text: str = "", *, style: str = "") -> None:
        """A line that must stay one, because somebody may copy it."""
        self._line(Text(text, style), indent=INDENT if text else 0)

    def fact(self, name: str, value: object) -> None:
        """Something that was found, beside its name."""
        self._line(Text.assemble((f"{name:<12} ", "dim"), str(value)), indent=INDENT)

    def done(self, sentence: str) -> None:
        """Something that was checked and is so."""
        self._line(Text.assemble(("✓ ", "green"), sentence), indent=INDENT)

    def call(self, who: str | None, what: str, outcome: str) -> None:
        """What was called, as whom (nobody: without a token), and what came back."""
        caller = f"  as {who}" if who else "  without a token"
        self._line(Text.assemble(("→ ", "cyan"), what, (caller, "dim")), indent=INDENT)
        self._line(Text.assemble(("← ", "cyan"), outcome), indent=INDENT)

    def quote(self, text: str) -> None:
        """Somebody else's words, verbatim."""
        for line in text.splitlines():
            self._prose(Text(line, "yellow"), indent=INDENT + 2)

    def overheard(self, line: str) -> None:
        """A line that another process printed."""
        self._line(Text.assemble(("│ ", "dim"), (line, "dim")), indent=INDENT)

    def show(self, renderable: RenderableType) -> None:
        """A table."""
        self._console.print(Padding(renderable, (0, 0, 0, INDENT)))

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None]]:
        """While something takes long; call what is given with how far it is."""
        if not self._console.is_terminal:
            yield self._plain_waiting(what)
            return
        columns = (
            TextColumn(" "),
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            task = progress.add_task(what)
            yield lambda how_far: progress.update(task, description=f"{what}: {how_far}")

    def _plain_waiting(self, what: str) -> Callable[[str], None]:
        self._line(Text(f"… {what}", "dim"), indent=INDENT)
        told, at, began = "", 0.0, time.monotonic()

        def update(how_far: str) -> None:
            nonlocal told, at
            now = time.monotonic()
            if how_far != told or now - at > STILL_WAITING_S:
                told, at = how_far, now
                self._line(Text(f"… {what}: {how_far}  ({now - began:.0f} s)", "dim"), indent=INDENT)

        return update

    def _prose(self, text: Text, *, indent: int) -> None:
        """Wrapped where a person reads, whole where a program does."""
        if self._console.is_terminal:
            self._console.print(Padding(text, (0, 0, 0, indent)))
        else:
            self._line(text, indent=indent)

    def _line(self, text: Text, *, indent: int) -> None:
        self._console.print(Text(" " * indent) + text, soft_wrap=True)
