"""Runs MLflow's own REST tests against MLflow, then through the gateway: what passes without must pass with it.

``.venv/bin/python -m tools.mlflow_rest_tests --tests FOLDER``, where FOLDER is a checkout of MLflow at the installed
version, or holds as much of its ``tests`` as the chosen files import: MLflow's packages on PyPI have no tests. The exit
code is 1 if a test passes without the gateway and not with it, unless it tests what the gateway refuses on purpose
(``REFUSED``), and 2 if nothing could be compared.

The gateway is as one that was just installed, but for ``--policies`` and ``--open``: the default policy protects
``production`` of every model. Whoever calls has every role.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
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

OPENED = ("ai-gateway", "ai-gateway-invoke", "webhooks")
"""The families of routes that these tests need and that are closed by default."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "PYTEST_ADDOPTS": "",
}
"""Variables in both runs: MLflow neither calls out, nor waits for long where something fails; options of a pytest that
runs this are not for it.
"""

_PROMPTLAB = "the prompt lab writes artifacts from inside MLflow, past every guard, and cannot be opened"
_STAGES = "the stage Production would be a second way to name what the protected alias production names"
REFUSED: Mapping[str, str] = {
    "test_create_get_search_experiment": "an experiment's artifacts lie below the server's own root",
    "test_create_promptlab_run_handler_rejects_invalid_requests": _PROMPTLAB,
    "test_create_promptlab_run_handler_returns_expected_results": _PROMPTLAB,
    "test_delete_model_version_flow": _STAGES,
    "test_gateway_proxy_handler_rejects_invalid_requests": "a method that MLflow does not have is 404 here, not 405",
    "test_latest_models": _STAGES,
    "test_update_model_version_flow": _STAGES,
}
"""Tests of what is refused on purpose, by name without parameters, and why."""

PATIENCE_S = 120
"""For a single test."""

ANSWER = 3
"""Values of a note of an answer, besides the test; that of the end of a phase has one less."""


@dataclass(slots=True)
class Outcome:
    """How a test ended (``passed``, ``failed`` or ``skipped``), what it said, and what it was answered on the way."""

    result: str = "passed"
    message: str = ""
    answers: list[str] = field(default_factory=list)
    """Status, method and path of each."""

    @property
    def statuses(self) -> list[str]:
        return [answer.partition(" ")[0] for answer in self.answers]


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
            prepare = [["migrate"], ["apply", "--file", str(options.policies)]]
            for words in prepare if options.policies else prepare[:1]:
                command = [sys.executable, "-m", "app.cli", *words]
                subprocess.run(command, env={**os.environ, **environment}, check=True)  # noqa: S603  # our own
            through = _run(folder, files, options, environment)
    return compare(without, through)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.mlflow_rest_tests", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--tests", type=Path, required=True, metavar="FOLDER", help="a checkout of MLflow, or its tests"
    )
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what the gateways log")
    parser.add_argument("--open", nargs="*", default=OPENED, metavar="ROUTES",
                        help=f"as in COUNTERSIGN_OPEN_ROUTES (default: {' '.join(OPENED)})")  # fmt: skip
    parser.add_argument(
        "--policies", type=Path, metavar="FILE", help="apply these (default: that of a new installation)"
    )
    parser.add_argument("-k", default="", metavar="EXPRESSION", help="run these tests alone, as pytest takes it")
    parser.add_argument("files", nargs="*", metavar="FILE", help="below FOLDER (default: all that speak HTTP)")
    return parser.parse_args()


def _run(
    folder: Path, files: Sequence[str], options: argparse.Namespace, environment: Mapping[str, str]
) -> dict[str, Outcome]:
    """The outcome of each test."""
    notes = folder / ("through.jsonl" if environment else "without.jsonl")
    command = [sys.executable, "-m", "pytest", "-p", "tools.through_gateway", "-p", "no:cacheprovider"]
    command += [
        "-q",
        "--tb=no",
        "--no-summary",
        "-W",
        "ignore",
        "--continue-on-collection-errors",
        f"--timeout={PATIENCE_S}",
    ]
    command += ["--rootdir", str(folder), "-k", options.k, *files]
    paths = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        through_gateway.NOTES: str(notes),
    }
    print(f"\n{'through the gateway' if environment else 'without it'}:", flush=True)
    settings = {**os.environ, **SETTINGS, **paths, **environment}
    subprocess.run(command, cwd=folder, env=settings, check=False)  # noqa: S603  # it runs what it was asked to
    outcomes: dict[str, Outcome] = {}
    for line in notes.read_text().splitlines():
        test, *values = json.loads(line)
        outcome = outcomes.setdefault(test, Outcome())
        if len(values) == ANSWER:
            method, path, status = values
            outcome.answers.append(f"{status} {method} {path}")
        elif outcome.result == "passed":
            outcome.result, outcome.message = values
    return outcomes


def compare(without: Mapping[str, Outcome], through: Mapping[str, Outcome]) -> int:
    """Print the comparison; 1 if a test was lost that is not one of ``REFUSED``."""
    print()
    for title, outcomes in (("without", without), ("through the gateway", through)):
        counted = Counter(outcome.result for outcome in outcomes.values())
        print(f"{title}: {', '.join(f'{count} {result}' for result, count in sorted(counted.items()))}")
    different, lost = 0, 0
    for test, before in without.items():
        after = through.get(test, Outcome("not run"))
        if (before.result, before.statuses) == (after.result, after.statuses):
            continue
        reason = REFUSED.get(test.rpartition("::")[2].partition("[")[0])
        different += 1
        lost += before.result == "passed" and after.result != "passed" and reason is None
        print(f"\n{test}\n  {before.result} without, {after.result} through the gateway")
        for first, second in zip_longest(before.answers, after.answers, fillvalue="nothing"):
            if first.partition(" ")[0] != second.partition(" ")[0]:
                print(f"  {first}, and through the gateway {second}")
                break
        print(f"  on purpose: {reason}" if reason else f"  {after.message[:1000]}")
    print(f"\n{len(without)} tests, {lost} lost; {different} differ in their result or in a status")
    if not any(outcome.result == "passed" for outcome in without.values()):
        print("nothing was compared: no test passes without the gateway", file=sys.stderr)
        return 2
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
