"""The command line: which sections, how long, and where to write the figures."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.proxy.database import running_postgres
from bench.proxy.issuer import running_issuer
from bench.proxy.parts import PartFailed
from bench.proxy.report import Report
from bench.proxy.sections import SECTIONS, Bench
from bench.proxy.servers import Site

TOOLS = {"wrk": "wrk", "nginx": "nginx-light"}
"""Programs that are not Python, and the Debian packages that bring them."""


def main() -> int:
    """Run; 0 if everything could be measured, 1 if not, 2 if a program is missing."""
    options = _options()
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian puts nginx
    missing = [package for program, package in TOOLS.items() if shutil.which(program) is None]
    if missing:
        print(f"a program is missing; on Debian and Ubuntu: apt install {' '.join(missing)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    report, began = Report(), time.monotonic()
    names = list(SECTIONS) if "all" in options.sections else options.sections
    circumstances = _circumstances(options)
    report.say(" · ".join(f"{name} {value}" for name, value in circumstances.items()))
    with (
        tempfile.TemporaryDirectory(prefix="countersign-bench-") as folder,
        running_issuer() as issuer,
        running_postgres(Path(folder) / "data") as postgres,
    ):
        site = Site(Path(folder), postgres, issuer, dict(options.set))
        bench = Bench(site, report, options.seconds, options.rounds, options.connections, options.mebibytes)
        for name in names:
            report.heading(f"{name}: {(SECTIONS[name].__doc__ or '').strip()}")
            try:
                SECTIONS[name](bench)
            except PartFailed as error:
                report.fail(f"{name}: {error}")
            if options.json:
                report.write(options.json, circumstances)
    report.summary()
    report.say(f"{time.monotonic() - began:.0f} s")
    return 1 if report.failures else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.proxy",
        description="Compare the gateway with MLflow alone and with what else can front it.",
    )
    parser.add_argument("sections", nargs="*", default="all", choices=[*SECTIONS, "all"], metavar="SECTION",
                        help=f"{', '.join(SECTIONS)} or all (the default)")  # fmt: skip
    parser.add_argument("--seconds", type=int, default=3, help="of each load (default: 3; batch: 10 at least)")
    parser.add_argument("--rounds", type=int, default=3, help="in which all contenders take turns (default: 3)")
    parser.add_argument("--connections", type=_numbers, help="as 1,16 (default: what each section's targets need)")
    parser.add_argument("--mebibytes", type=int, default=1024, help="of the large artifact (default: 1024)")
    parser.add_argument("--set", action="append", default=[], type=_setting, metavar="NAME=VALUE",
                        help="a setting of the gateway, as upstream_timeout_s=30; may be repeated")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, after each section")
    return parser.parse_args()


def _numbers(text: str) -> Sequence[int]:
    return [int(word) for word in text.split(",")]


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return "COUNTERSIGN_" + name.upper().removeprefix("COUNTERSIGN_"), value


def _circumstances(options: argparse.Namespace) -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "load average before": round(os.getloadavg()[0], 1),
        "Python": sys.version.split()[0],
        "MLflow": importlib.metadata.version("mlflow"),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "settings": dict(options.set),
    }


if __name__ == "__main__":
    sys.exit(main())
