"""Shows in pytest's summary what other versions of MLflow serve besides."""

from __future__ import annotations

import pytest

NEWS = pytest.StashKey[dict[str, list[str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[NEWS] = {}


@pytest.fixture(scope="session")
def news(pytestconfig: pytest.Config) -> dict[str, list[str]]:
    """By version of MLflow, what it does otherwise than the table of routes says. Shown after the tests."""
    return pytestconfig.stash[NEWS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for version, findings in config.stash[NEWS].items():
        terminalreporter.section(f"MLflow {version} differs in {len(findings)} ways, each decided safely")
        for finding in findings:
            terminalreporter.line(finding)
