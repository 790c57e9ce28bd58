"""`python -m demo`: start everything, tell the story, stay until Ctrl-C, stop everything."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from demo import story, summary
from demo.failure import CannotStart, StoryFailed
from demo.platform import SIGNALS, Platform, begin_from_nothing, ignore_signals
from demo.screen import Screen

FAILED = 1


class AskedToStop(BaseException):
    """Somebody asked this process to stop."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


def main() -> int:
    """Tell the story; 0 when all of it really happened."""
    options = _options()
    screen = Screen()
    try:
        with _signals():
            if options.clean:
                begin_from_nothing(options.data_dir)
            return _run(options.data_dir, options.port, once=options.once, screen=screen)
    except CannotStart as refusal:
        print(refusal, file=sys.stderr)
        return FAILED
    except StoryFailed as failure:
        print(f"demo: this did not happen as it should: {failure}", file=sys.stderr)
        print(f"demo: the logs of all parts are in {options.data_dir / 'logs'}", file=sys.stderr)
        return FAILED
    except AskedToStop as stop:
        return stop.exit_code


def _run(folder: Path, port: int, *, once: bool, screen: Screen) -> int:
    began = time.monotonic()
    platform = Platform(folder, port, screen)
    screen.heading(1, "Everything starts: PostgreSQL, identity provider, MLflow, gateway, worker, Ray Serve, deployer")
    with platform.started() as connection:
        story.tell(connection, folder, screen)
        screen.line()
        screen.done(f"All of this really happened, and was checked, in {time.monotonic() - began:.0f} seconds.")
        screen.line()
        if not once:
            summary.tell(connection, folder, screen)
            with contextlib.suppress(AskedToStop):
                platform.until_it_ends()
    return 0


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Turn the first signal into an exception; others must not cut the clean-up short."""

    def stop(number: int, _: FrameType | None) -> None:
        ignore_signals()
        raise AskedToStop(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # `nohup` wants to be obeyed
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="The main job of Countersign, end to end.")
    parser.add_argument("--once", action="store_true", help="stop after the story instead of staying until Ctrl-C")
    parser.add_argument("--clean", action="store_true", help="remove the data folder first")
    parser.add_argument("--port", type=int, default=8080, help="port of the gateway (default: %(default)s)")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(".demo"), help="folder that keeps everything (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
