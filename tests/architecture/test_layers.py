"""Imports point one way (the contracts are in ``pyproject.toml``)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_import_contracts_are_kept() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_the_deployers_stand_alone() -> None:
    files = list((ROOT / "deploy" / "deployers").rglob("*.py"))
    assert files
    for file in files:
        assert not any(line.startswith(("import app", "from app")) for line in file.read_text().splitlines()), file
