"""The command line: which sections, how long, and where to write the figures."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.proxy.parts import PartFailed
from bench.serving.cluster import Cluster, new_folder, running_cluster
from bench.serving.models import save_models
from bench.serving.promotions import promotions
from bench.serving.throughput import throughput
from bench.serving.updates import updates
from demo.failure import CannotStart, StoryFailed

THROUGHPUT, UPDATES, PROMOTIONS = "throughput", "updates", "promotions"
SECTIONS = (THROUGHPUT, UPDATES, PROMOTIONS)
FAILED = 1


def main() -> int:
    """Run; 0 if everything could be measured and what is promised of updates was reached."""
    options = _options()
    if shutil.which("wrk") is None:
        print("a program is missing; on Debian and Ubuntu: apt install wrk", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    console, began = Console(width=130, highlight=False), time.monotonic()
    packages = " · ".join(f"{name} {importlib.metadata.version(name)}" for name in ("mlflow", "ray"))
    load = f"load average {os.getloadavg()[0]:.1f}"
    console.print(f"{os.cpu_count()} cores · {load} · Python {sys.version.split()[0]} · {packages}")
    figures: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="cs-serving-") as folder:
            is_missed = _run(Path(folder), options, console, figures)
    except (PartFailed, StoryFailed, CannotStart) as error:
        console.print(str(error), style="red", markup=False)
        return FAILED
    finally:
        if options.json:
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(f"{'missed' if is_missed else 'reached'}; {time.monotonic() - began:.0f} s")
    return int(is_missed)


def _run(root: Path, options: argparse.Namespace, console: Console, figures: dict[str, Any]) -> bool:
    folder = new_folder(root / "data")
    models, is_missed = save_models(folder.artifacts), False
    with ExitStack() as stack:
        cluster: Cluster | None = None
        if {THROUGHPUT, UPDATES} & set(options.sections):
            cluster = stack.enter_context(running_cluster(folder, models, dict(options.set)))
        if cluster and THROUGHPUT in options.sections:
            bounds = {"seconds": options.seconds, "rounds": options.rounds, "connections": options.connections}
            figures[THROUGHPUT] = throughput(cluster, root, console, **bounds)
        if cluster and UPDATES in options.sections:
            is_missed, figures[UPDATES] = updates(cluster, console, per_second=options.rate)
    # One Ray at a time: that of before has ended.
    if PROMOTIONS in options.sections:
        figures[PROMOTIONS] = promotions(root / "up", models.body, console, per_second=options.rate)
    return is_missed


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description="What serving costs, and what clients notice of an update."
    )
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS, help="(default: all)")
    parser.add_argument("--seconds", type=int, default=3, help="of each load (default: 3)")
    parser.add_argument("--rounds", type=int, default=2, help="in which all contenders take turns (default: 2)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32], help="(default: 1 8 32)")
    parser.add_argument("--rate", type=float, default=40, help="requests a second during updates (default: 40)")
    parser.add_argument("--set", action="append", default=[], type=_variable, metavar="NAME=VALUE",
                        help="a variable of Ray, tried out in throughput and updates; may be repeated")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    return parser.parse_args()


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


if __name__ == "__main__":
    sys.exit(main())
