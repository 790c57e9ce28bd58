"""Shows in pytest's summary what other versions of MLflow serve besides."""

from __future__ import annotations

import pytest

from tests.architecture.mlflow_versions import DIFFERENCES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Properties of reports reach this process from whichever one ran the test.
    reports = [report for category in ("passed", "failed") for report in terminalreporter.stats.get(category, ())]
    for name, findings in (pair for report in reports for pair in report.user_properties):
        if name.startswith(DIFFERENCES):
            version = name.removeprefix(DIFFERENCES)
            terminalreporter.section(f"MLflow {version} differs in {len(findings)} ways, each decided safely")
            for finding in findings:
                terminalreporter.line(finding)
