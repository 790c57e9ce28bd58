"""Nothing that is logged shows a secret, in either format."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging
import structlog
from app.telemetry import configure_logging

configure_logging(log_format={log_format!r}, log_level="debug")
log = structlog.stdlib.get_logger("x")

def verify(token):
    raise RuntimeError("something broke")

try:
    verify("s3cr3t")
except RuntimeError:
    for client in ("botocore.parsers", "urllib3.connectionpool", "httpcore.http11"):
        logging.getLogger(client).debug("<SecretAccessKey>s3cr3t</SecretAccessKey>")
    log.exception("failed", authorization="Bearer s3cr3t", access_token="s3cr3t", path="/x")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_an_exception_is_logged_without_the_variables_of_its_frames(log_format: str) -> None:
    program = PROGRAM.format(log_format=log_format)
    logged = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stderr

    assert "something broke" in logged
    assert "verify" in logged
    assert "/x" in logged
    assert "s3cr3t" not in logged.replace('verify("s3cr3t")', "")
