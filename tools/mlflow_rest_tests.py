"""Runs MLflow's own REST tests against MLflow, then through the gateway: what passes without must pass with it.

``.venv/bin/python -m tools.mlflow_rest_tests --tests FOLDER``, where FOLDER is a checkout of MLflow at the installed
version, or holds as much of its ``tests`` as the chosen files import: MLflow's packages on PyPI have no tests. The exit
code is 1 if a test passes without the gateway and not with it, unless it tests what the gateway refuses on purpose.

The gateway is as one that was just installed: the default policy protects ``production`` of every model, and the
routes are closed that are closed by default, but for ``--open``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.access import Role
from bench.proxy.database import running_postgres
from bench.proxy.issuer import AUDIENCE, GROUP, running_issuer
from tools import through_gateway

REPOSITORY = Path(__file__).parents[1]
FILES = (
    "tests/tracking/test_rest_tracking.py",
    "tests/tracking/test_model_registry.py",
    "tests/tracking/test_mlflow_artifacts.py",
    "tests/tracking/test_client_webhooks.py",
    "tests/tracing/test_otel_logging.py",
)
"""Of MLflow's tests, those that speak HTTP with a server of their own."""

OPENED = ("ai-gateway", "ai-gateway-passthrough", "webhooks")
"""The families of routes that these tests need and that are closed by default."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Variables of MLflow in both runs: neither calls out, nor waits for long where something fails."""

REFUSED: Mapping[str, str] = {}
"""Tests of what is refused on purpose, by name without parameters, and why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test ended: ``passed``, ``failed``, ``error`` or ``skipped``, and what it said."""

    result: str
    message: str = ""


def main() -> int:
    """Run both; 0 if the gateway made no difference that is not on purpose."""
    options = _options()
    print(f"MLflow {importlib.metadata.version('mlflow')}")
    with tempfile.TemporaryDirectory(prefix="mlflow-rest-tests-") as name:
        folder = Path(name)
        # Its tests alone: a checkout's `mlflow` would be imported instead of the one that is installed.
        for part in ("tests", "conftest.py"):
            if (options.tests / part).exists():
                (folder / part).symlink_to((options.tests / part).resolve())
        files = [file for file in options.files or FILES if (folder / file).exists()]
        if not files:
            print(f"{options.tests} has none of {', '.join(options.files or FILES)}", file=sys.stderr)
            return 2
        without = _run(folder, files, options, {})
        with running_postgres(folder / "postgres") as postgres, running_issuer() as issuer:
            environment = {
                "COUNTERSIGN_DATABASE_URL": postgres.url,
                "COUNTERSIGN_PUBLIC_URL": "http://127.0.0.1",
                "COUNTERSIGN_UPSTREAM_URLS": "http://127.0.0.1",
                "COUNTERSIGN_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
                "COUNTERSIGN_OIDC_ISSUER": issuer.url,
                "COUNTERSIGN_OIDC_AUDIENCE": AUDIENCE,
                "COUNTERSIGN_ROLES": json.dumps({role.value: [GROUP] for role in Role}),
                "COUNTERSIGN_OPEN_ROUTES": ",".join(options.open),
                "COUNTERSIGN_DRAIN_S": "0",
                through_gateway.COMMAND: os.pathsep.join([sys.executable, "-m", "app.cli", "gateway"]),
                through_gateway.LOGS: str(options.logs or folder),
                through_gateway.TOKEN: issuer.token(),
            }
            migrate = [sys.executable, "-m", "app.cli", "migrate"]
            subprocess.run(migrate, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
            through = _run(folder, files, options, environment)
    return _compare(without, through)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.mlflow_rest_tests", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--tests", type=Path, required=True, metavar="FOLDER", help="a checkout of MLflow, or its tests"
    )
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what the gateways log")
    parser.add_argument("--open", nargs="*", default=OPENED, metavar="ROUTES",
                        help=f"families of routes to open, as in COUNTERSIGN_OPEN_ROUTES (default: {' '.join(OPENED)})")  # fmt: skip
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="run these tests alone, as pytest takes it")
    parser.add_argument("files", nargs="*", metavar="FILE", help="below FOLDER (default: all that speak HTTP)")
    return parser.parse_args()


def _run(
    folder: Path, files: Sequence[str], options: argparse.Namespace, environment: Mapping[str, str]
) -> dict[str, Outcome]:
    """The outcome of each test."""
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tools.through_gateway",
        "-p",
        "no:cacheprovider",
        "-q",
        "--tb=line",
        "-W",
        "ignore",
    ]
    command += ["--rootdir", str(folder), f"--junitxml={report}", "--continue-on-collection-errors"]
    command += ["-k", options.k, *files]
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
    }
    print(f"\n{'through the gateway' if environment else 'without it'}:", flush=True)
    subprocess.run(command, cwd=folder, env={**os.environ, **SETTINGS, **paths, **environment}, check=False)
    outcomes = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314  # pytest wrote it for us
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        found = next((part for part in case if part.tag in {"failure", "error", "skipped"}), None)
        result = {"failure": "failed"}.get(found.tag, found.tag) if found is not None else "passed"
        outcomes[test] = Outcome(result, (found.get("message") or "") if found is not None else "")
    return outcomes


def _compare(without: Mapping[str, Outcome], through: Mapping[str, Outcome]) -> int:
    """Print the comparison; 1 if a test was lost that is not one of ``REFUSED``."""
    print()
    for title, outcomes in (("without", without), ("through the gateway", through)):
        counted = Counter(outcome.result for outcome in outcomes.values())
        print(f"{title}: {', '.join(f'{count} {result}' for result, count in sorted(counted.items()))}")
    missing = Outcome("not run")
    different = [test for test in without if through.get(test, missing).result != without[test].result]
    lost = [test for test in different if without[test].result == "passed" and _name(test) not in REFUSED]
    for test in different:
        outcome = through.get(test, missing)
        print(f"\n{test}\n  {without[test].result} without, {outcome.result} through the gateway")
        print(f"  on purpose: {REFUSED[_name(test)]}" if _name(test) in REFUSED else f"  {outcome.message[:1000]}")
    print(f"\n{len(different)} of {len(without)} differ, {len(lost)} not on purpose")
    return 1 if lost or not without else 0


def _name(test: str) -> str:
    return test.rpartition("::")[2].partition("[")[0]


if __name__ == "__main__":
    sys.exit(main())
